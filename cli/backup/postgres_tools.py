"""PostgreSQL's own programs, from the wheel or from PATH: `pg_dump` with a snapshot, `pg_restore` in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url

from cli.backup.errors import BackupFailed, RestoreFailed
from cli.backup.progress import megabytes, telling
from cli.stack.account import launch_command, own_account
from cli.stack.errors import PartMissing
from cli.stack.postgres import binaries
from holdfast.errors import HoldfastError

_TLS: Final = ("sslmode", "sslrootcert", "sslcert", "sslkey")
_POSTGRES_HOMES: Final = Path("/usr/lib/postgresql")
_LOCK_WAIT: Final = "60s"
_TAIL_CHARS: Final = 600


def _environment(url: URL) -> dict[str, str]:
    """Says where to connect to in the environment: everybody on the machine can read command lines."""
    host = url.query.get("host") or url.host or "127.0.0.1"
    values = {
        "PGHOST": str(host),
        "PGPORT": str(url.query.get("port") or url.port or 5432),
        "PGUSER": url.username or "postgres",
        "PGPASSWORD": str(url.password or ""),
        "PGDATABASE": url.database or "postgres",
        **{f"PG{name.upper()}": str(url.query[name]) for name in _TLS if name in url.query},
    }
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGAPPNAME": "holdfast-backup", **values}


async def _major(program: Path) -> int:
    process = await asyncio.create_subprocess_exec(
        str(program), "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    found = re.search(r"\) (\d+)", output.decode("utf-8", "replace"))
    return int(found[1]) if found else 0


async def find(name: str, server_major: int) -> Path:
    """Finds a program that is not older than the server; the nearest, for a newer `pg_restore` says what an older server refuses.

    Raises:
        PartMissing: There is none.
    """
    candidates = [home / "bin" / name for home in _POSTGRES_HOMES.glob("*")]
    with contextlib.suppress(PartMissing):  # those who have servers of their own need no extra `embedded`
        candidates.append(binaries() / name)
    if on_path := shutil.which(name):
        candidates.append(Path(on_path))
    fit: dict[int, Path] = {}
    for program in candidates:
        if os.access(program, os.X_OK) and (major := await _major(program)) >= server_major:
            fit.setdefault(major, program)
    if fit:
        return fit[min(fit)]
    raise PartMissing(
        f"there is no {name} of PostgreSQL {server_major} or later here",
        remedy=f"install PostgreSQL's client programs of version {server_major}, so that {name} is on PATH",
    )


async def _run(
    argv: Sequence[str], url: URL, error: type[HoldfastError], what: str, say: Callable[[str], None], file: Path
) -> None:
    command = launch_command(own_account(), list(argv), folder=None, death_signal=signal.SIGKILL)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(url),
        start_new_session=True,
    )

    def size() -> str:
        return megabytes(file.stat().st_size) if file.exists() else "beginning"

    try:
        async with telling(say, what, size):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        text = said.decode("utf-8", "replace").strip()[-_TAIL_CHARS:]
        raise error(f"{what} failed (code {process.returncode}): {text or 'it said nothing'}")


async def dump(url: str, target: Path, *, snapshot: str, server_major: int, say: Callable[[str], None]) -> None:
    """Dumps a database as it was at a snapshot that somebody keeps open.

    Row-level security hides nothing from it: a role that may not see everything gets an error, not a part.

    Raises:
        BackupFailed: It did not end well.
    """
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    program = await find("pg_dump", server_major)
    argv = [str(program), "--format=custom", f"--snapshot={snapshot}", f"--lock-wait-timeout={_LOCK_WAIT}"]
    argv += ["--no-password", "--no-publications", "--no-subscriptions", f"--file={target}"]
    parsed = make_url(url)
    await _run(argv, parsed, BackupFailed, f"dumping the database {parsed.database}", say, target)


async def load(url: str, source: Path, *, server_major: int, say: Callable[[str], None], own: bool = False) -> None:
    """Loads a dump into an empty database: all of it, or nothing.

    Args:
        url: The database.
        source: The dump.
        server_major: First number of the server's version.
        say: Gets a line when it takes long.
        own: Whether everything in it shall belong to the role of the URL, whosever it was.

    Raises:
        RestoreFailed: It did not end well; the database is as empty as it was.
    """
    program = await find("pg_restore", server_major)
    parsed = make_url(url)
    argv = [str(program), "--single-transaction", "--exit-on-error", "--no-password"]
    argv += ["--no-owner", "--no-privileges", "--no-comments"] if own else []
    argv += [f"--dbname={parsed.database}", str(source)]
    await _run(argv, parsed, RestoreFailed, f"loading the database {parsed.database}", say, source)
