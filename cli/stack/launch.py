"""Becomes a child of the stack: takes on its account, ties its life to the supervisor's, then executes the program.

The supervisor runs this file by its path in a bare interpreter (`python -I -S launch.py SPEC program argument…`),
because none of this may happen between fork and exec of a process that has threads. The process id stays the same.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Final

NOBODY_ID: Final = 65534
EXIT_REFUSED: Final = 71
"""Exit code (EX_OSERR) when the kernel refused the account, the folder or the program."""

_PR_SET_PDEATHSIG: Final = 1
_CLONE_NEWUSER: Final = 0x10000000


def _enter_user_namespace() -> None:
    """Goes on as nobody inside a new user namespace: outside, files are still opened with the real account."""
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "the kernel refused a new user namespace")
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{NOBODY_ID} {uid} 1")
    (own / "gid_map").write_text(f"{NOBODY_ID} {gid} 1")


def _take_account(account: str) -> None:
    """Switches to an account: `same`, `namespace` or `uid:gid`."""
    if account == "same":
        return
    if account == "namespace":
        _enter_user_namespace()
        return
    uid, gid = (int(part) for part in account.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _die_with(parent_pid: int, death_signal: int) -> None:
    """Has the kernel send the signal to this process when the supervisor dies, even by SIGKILL."""
    if not hasattr(libc := ctypes.CDLL(None, use_errno=True), "prctl"):
        return  # only Linux has it
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent_pid:  # it died before the call above, which then came too late
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Executes the program, or says on stderr why it could not."""
    spec = json.loads(sys.argv[1])
    argv = sys.argv[2:]
    try:
        _take_account(spec["account"])
        # The kernel forgets the death signal when the account changes, so this comes after.
        _die_with(spec["parent_pid"], spec["death_signal"])
        os.umask(0o077)
        if spec["folder"]:
            os.chdir(spec["folder"])
        os.execv(argv[0], argv)  # noqa: S606 (this is what a launcher does; no shell is involved)
    except OSError as error:
        print(f"cannot start {argv[0]} as account {spec['account']}: {error}", file=sys.stderr)
    return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main())
