"""The programs of compose.yaml's images, natively: found on this machine, or built once into the user's cache."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cli.stack import valkey
from cli.stack.errors import PartMissing
from cli.stack.temporal_program import TemporalProgram, default_cache
from tests.deployment.composition import services

_SERVER: Final = {
    "temporal-server": "go.temporal.io/server/cmd/server",
    "temporal-sql-tool": "go.temporal.io/server/cmd/tools/sql",
}
_UI: Final = {"temporal-ui-server": "github.com/temporalio/ui-server/v2/cmd/server"}
_UI_MODULE: Final = "github.com/temporalio/ui-server/v2"
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
_CURL: Final = """
    import sys, urllib.request
    assert sys.argv[1:-1] == ["--fail", "--silent", "--output", "/dev/null"]
    urllib.request.urlopen(sys.argv[-1], timeout=3).close()
"""
_VALKEY_CLI: Final = """
    import socket, sys
    flag, port, command = sys.argv[1:]
    assert (flag, command) == ("-p", "ping")
    with socket.create_connection(("127.0.0.1", int(port)), 2) as connection:
        connection.sendall(b"PING\\r\\n")
        print(connection.recv(200).decode())
"""


def version_of(service: str) -> str:
    """Returns the version that compose.yaml names for a service's image."""
    return str(services()[service]["image"]).partition(":")[2]


def _says(program: Path, version: str) -> bool:
    if not os.access(program, os.X_OK):
        return False
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode == 0 and done.stdout.split()[-1:] == [version]


def temporal_programs(say: Callable[[str], None]) -> dict[str, Path]:
    """Finds Temporal's server, schema tool and UI in the cache, or builds them from their public Go modules.

    Raises:
        PartMissing: They are not there, and Go is not either, or the build fails.
    """
    cache = default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    with (cache / "temporal-server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for modules, version in ((_SERVER, version_of("temporal")), (_UI, version_of("temporal-ui"))):
            wanted = {name: cache / f"{name}-{version}-{platform.machine()}" for name in modules}
            if not all(_says(program, version) for program in wanted.values()):
                _build(version, modules, wanted, say)
            found |= wanted
        ui_config(found["temporal-ui-server"])
    return found


def _go() -> str:
    go = shutil.which("go")
    if go is None:
        raise PartMissing(
            f"Temporal's server is not in {default_cache()}, and Go is not installed to build it",
            remedy="install Go 1.24 or later",
        )
    return go


def _run_go(arguments: Sequence[str], **more: str) -> str:
    own = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    done = subprocess.run(
        [_go(), *arguments],
        env={**os.environ, **own, **more},
        capture_output=True,
        text=True,
        timeout=_BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise PartMissing(f"`go {' '.join(arguments)}` failed:\n{done.stderr[-2_000:]}")
    return done.stdout


def _build(version: str, modules: Mapping[str, str], wanted: Mapping[str, Path], say: Callable[[str], None]) -> None:
    say(f"building {', '.join(modules)} {version} with {_go()}; this takes minutes, once …")
    with tempfile.TemporaryDirectory(prefix="build-", dir=default_cache()) as folder:
        built = Path(folder) / "bin"
        for name, module in modules.items():
            flags = ["-trimpath", "-ldflags", "-s -w", "-tags", "disable_grpc_modules"]
            _run_go(["install", *flags, f"{module}@v{version}"], GOBIN=str(built), GOTMPDIR=folder)
            (built / module.rpartition("/")[2]).replace(wanted[name])


def ui_config(program: Path) -> Path:
    """Returns the UI's configuration as its image has it, which the module brings; it is kept beside the program."""
    kept = program.with_name(f"{program.name}.yaml")
    if not kept.exists():
        module = f"{_UI_MODULE}@v{version_of('temporal-ui')}"
        folder = Path(json.loads(_run_go(["mod", "download", "-json", module]))["Dir"])
        kept.write_bytes((folder / "config/docker.yaml").read_bytes())
    return kept


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
    postgres, temporal = postgres_home(), temporal_programs(say)
    targets = {
        **temporal,
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
    # the folder that the UI's image runs it in
    (folder / "ui/config").mkdir(parents=True)
    shutil.copy(ui_config(temporal["temporal-ui-server"]), folder / "ui/config/docker.yaml")
    _write(folder / "curl", f"#!{sys.executable}\n{textwrap.dedent(_CURL)}")
    _write(folder / "nc", f"#!{sys.executable}\n{textwrap.dedent(_NETCAT)}")
    _write(folder / "valkey-cli", f"#!{sys.executable}\n{textwrap.dedent(_VALKEY_CLI)}")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
