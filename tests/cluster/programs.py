"""The programs of compose.yaml's images, natively: found on this machine, or built once into the user's cache."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cli.stack import valkey
from cli.stack.errors import PartMissing
from cli.stack.temporal_program import TemporalProgram, default_cache
from tests.deployment.composition import services

_MODULES: Final = {
    "temporal-server": "go.temporal.io/server/cmd/server",
    "temporal-sql-tool": "go.temporal.io/server/cmd/tools/sql",
}
_POSTGRES_HOMES: Final = Path("/usr/lib/postgresql")
_OLDEST_POSTGRES: Final = 15
_BUILD_TIMEOUT_S: Final = 3_000
# What the servers' images have in their base, as far as the health checks call it.
_NETCAT: Final = """
    import socket, sys
    flag, host, port = sys.argv[1:]
    assert flag == "-z"
    socket.create_connection((host, int(port)), 2).close()
"""
_VALKEY_CLI: Final = """
    import socket, sys
    flag, port, command = sys.argv[1:]
    assert (flag, command) == ("-p", "ping")
    with socket.create_connection(("127.0.0.1", int(port)), 2) as connection:
        connection.sendall(b"PING\\r\\n")
        print(connection.recv(200).decode())
"""


def temporal_version() -> str:
    """Returns the version that compose.yaml names."""
    return str(services()["temporal"]["image"]).partition(":")[2]


def _says(program: Path, version: str) -> bool:
    if not os.access(program, os.X_OK):
        return False
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode == 0 and done.stdout.split()[-1:] == [version]


def temporal_programs(say: Callable[[str], None]) -> dict[str, Path]:
    """Finds Temporal's server and schema tool in the cache, or builds them from their public Go module.

    Raises:
        PartMissing: They are not there, and Go is not either, or the build fails.
    """
    version, cache = temporal_version(), default_cache()
    found = {name: cache / f"{name}-{version}-{platform.machine()}" for name in _MODULES}
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "temporal-server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(_says(program, version) for program in found.values()):
            _build(version, found, say)
    return found


def _build(version: str, wanted: dict[str, Path], say: Callable[[str], None]) -> None:
    go = shutil.which("go")
    if go is None:
        raise PartMissing(
            f"Temporal's server {version} is not in {default_cache()}, and Go is not installed to build it",
            remedy="install Go 1.24 or later",
        )
    modules = [f"{module}@v{version}" for module in _MODULES.values()]
    say(f"building Temporal's server {version} with {go}; this takes about five minutes, once …")
    with tempfile.TemporaryDirectory(prefix="build-", dir=default_cache()) as folder:
        own = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOBIN": folder, "GOTMPDIR": folder}
        done = subprocess.run(
            [go, "install", "-trimpath", "-ldflags", "-s -w", "-tags", "disable_grpc_modules", *modules],
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise PartMissing(f"`go install {' '.join(modules)}` failed:\n{done.stderr[-2_000:]}")
        for name, module in _MODULES.items():
            (Path(folder) / module.rpartition("/")[2]).replace(wanted[name])


def postgres_home() -> Path:
    """Finds the newest PostgreSQL of this machine that has the extension btree_gin.

    Raises:
        PartMissing: There is none.
    """
    for home in sorted(_POSTGRES_HOMES.glob("*"), key=lambda path: float(path.name), reverse=True):
        extension = Path("/usr/share/postgresql") / home.name / "extension" / "btree_gin.control"
        if float(home.name) >= _OLDEST_POSTGRES and (home / "bin/postgres").exists() and extension.exists():
            return home / "bin"
    raise PartMissing(
        "there is no PostgreSQL 15 or later with the extension btree_gin",
        remedy="on Debian: apt-get install postgresql (its server need not run)",
    )


async def programs_folder(folder: Path, image: Path, say: Callable[[str], None]) -> None:
    """Makes a folder with all programs under the names that they have in their images.

    Args:
        folder: Where.
        image: The programs of Holdfast's own image.
        say: Gets every line that a person should see.
    """
    postgres = postgres_home()
    targets = {
        **temporal_programs(say),
        "temporal": await TemporalProgram(say=say).find(),
        "valkey-server": valkey.binary(),
        **{name: image / name for name in ("python", "holdfast")},
        **{name: postgres / name for name in ("postgres", "initdb", "pg_isready")},
    }
    folder.mkdir(parents=True)
    for name, target in targets.items():
        # the interpreter finds its environment by the path that it was called with, so no link leads to it
        script = f'#!/bin/sh\nexec "{target}" "$@"\n'
        _write(folder / name, script)
    _write(folder / "nc", f"#!{sys.executable}\n{textwrap.dedent(_NETCAT)}")
    _write(folder / "valkey-cli", f"#!{sys.executable}\n{textwrap.dedent(_VALKEY_CLI)}")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
