"""Under which account PostgreSQL runs: it refuses root, so root finds it another one."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.stack.errors import AccountRefused
from cli.stack.launch import EXIT_REFUSED, NOBODY_ID

LAUNCH_FILE: Final = Path(__file__).with_name("launch.py")
_CANDIDATES = ("postgres", "nobody")
_PROBE_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Account:
    """How a child changes its account, and who owns its files outside."""

    how: str
    uid: int
    gid: int
    label: str


def own_account() -> Account:
    """The account that the supervisor itself has."""
    return Account("same", os.geteuid(), os.getegid(), "this account")


def launch_command(account: Account, argv: list[str], *, folder: Path | None, death_signal: int) -> list[str]:
    """Returns the command that becomes `argv` under the account and dies with this process."""
    spec = {
        "account": account.how,
        "parent_pid": os.getpid(),
        "death_signal": death_signal,
        "folder": str(folder) if folder else "",
    }
    # -I -S: the launcher runs with the stack's rights before it gives them up, so nothing from outside is imported.
    return [sys.executable, "-I", "-S", str(LAUNCH_FILE), json.dumps(spec), *argv]


def give_folder(folder: Path, account: Account) -> None:
    """Makes a folder and all in it the account's, if it is not already."""
    if folder.stat().st_uid == account.uid:
        return
    for parent, names, files in os.walk(folder, topdown=False):
        for name in (*names, *files):
            os.chown(Path(parent) / name, account.uid, account.gid, follow_symlinks=False)
    os.chown(folder, account.uid, account.gid)  # last: a half-done walk is done again


def _can_run(account: Account, program: Path, folder: Path) -> str:
    """Tries to run the program in the folder under the account; returns why it cannot, or an empty string."""
    try:
        give_folder(folder, account)
        done = subprocess.run(  # noqa: S603 (our own launcher and PostgreSQL's binary)
            launch_command(account, [str(program), "--version"], folder=folder, death_signal=9),
            capture_output=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
            env={},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    text = done.stderr.decode(errors="replace").strip().splitlines()
    refused = done.returncode == EXIT_REFUSED and text
    return text[-1] if refused else f"{program} ended with code {done.returncode}"


def choose_account(program: Path, folder: Path) -> Account:
    """Finds the account for PostgreSQL and makes its folder that account's.

    An ordinary user's own; for root `postgres` or `nobody`, and where these cannot reach the program or the folder, a
    user namespace in which root's own files belong to nobody.

    Raises:
        AccountRefused: None of these works here.
    """
    if os.geteuid() != 0:
        return own_account()
    tried: list[str] = []
    candidates: list[Account] = []
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        candidates.append(Account(f"{entry.pw_uid}:{entry.pw_gid}", entry.pw_uid, entry.pw_gid, f"account {name}"))
        break
    else:
        candidates.append(Account(f"{NOBODY_ID}:{NOBODY_ID}", NOBODY_ID, NOBODY_ID, "account nobody"))
    candidates.append(Account("namespace", 0, 0, "a user namespace"))
    for account in candidates:
        reason = _can_run(account, program, folder)
        if not reason:
            return account
        tried.append(f"{account.label}: {reason}")
    raise AccountRefused(
        f"PostgreSQL refuses to run as root, and no other account can run it here ({'; '.join(tried)})",
        remedy="choose a --data-dir that other accounts can enter (say /var/lib/holdfast) and install Holdfast outside "
        "/root, run it as an ordinary user, or set HOLDFAST_POSTGRES to the URL of a running server",
    )
