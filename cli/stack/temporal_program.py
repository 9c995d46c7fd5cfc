"""Finds Temporal's program, or brings it here: given path, cache, the SDK's download, `go install`."""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from cli.stack.account import launch_command, own_account
from cli.stack.errors import PartMissing

CLI_VERSION: Final = "1.5.1"
SERVER_VERSION: Final = "1.29.1"
MODULE: Final = f"github.com/temporalio/cli/cmd/temporal@v{CLI_VERSION}"

_VERSION_TIMEOUT_S = 30.0
_REACH_TIMEOUT_S = 5.0
_DOWNLOAD_TIMEOUT_S = 300.0
_BUILD_TIMEOUT_S = 3600.0
_PROGRESS_S = 20.0


def default_cache() -> Path:
    """The folder that keeps downloaded and built programs."""
    return Path(platformdirs.user_cache_dir("holdfast"))


@dataclass(frozen=True, slots=True)
class _Output:
    code: int
    text: str


async def _run(argv: Sequence[str], env: Mapping[str, str], timeout_s: float, tick: Callable[[float], None]) -> _Output:
    """Runs a program to its end and returns what it printed; it is killed when late, or when this process dies."""
    command = launch_command(own_account(), list(argv), folder=None, death_signal=signal.SIGKILL)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(env),
        start_new_session=True,
    )
    reading = asyncio.create_task(process.communicate())
    began = time.monotonic()
    try:
        while not (await asyncio.wait({reading}, timeout=min(_PROGRESS_S, timeout_s)))[0]:
            elapsed_s = time.monotonic() - began
            if elapsed_s > timeout_s:
                return _Output(-1, f"did not end within {timeout_s:g} s")
            tick(elapsed_s)
        output, _ = reading.result()
        return _Output(process.returncode or 0, output.decode("utf-8", "replace").strip())
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await reading


def _ignore(_: float) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look for the program has seen.

    Attributes:
        cached: Where it would be kept.
        given: Whether `HOLDFAST_TEMPORAL` names it.
        path: Where it is.
        version: Of its server; None if it is no such program.
        reachable: Whether it could be downloaded.
        go: With what it could be built.
    """

    cached: Path
    given: bool = False
    path: Path | None = None
    version: str | None = None
    reachable: bool = False
    go: Path | None = None


class TemporalProgram:
    """The search for the one program. Each step either yields it or says why it does not."""

    def __init__(
        self, *, environ: Mapping[str, str] = os.environ, cache: Path | None = None, say: Callable[[str], None] = print
    ) -> None:
        self._environ = environ
        self._cache = (cache or default_cache()).absolute()
        self._say = say
        self.cached = self._cache / f"temporal-{CLI_VERSION}-{platform.machine()}"

    async def find(self) -> Path:
        """Returns the program's path.

        Raises:
            PartMissing: It is not here and cannot be brought here; says what was tried and what to do.
        """
        if given := self._environ.get("HOLDFAST_TEMPORAL"):
            return await self._given(_absolute(given))
        if await self._version(self.cached) == SERVER_VERSION:
            return self.cached
        self._cache.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if await self._version(self.cached) == SERVER_VERSION:  # another process has brought it meanwhile
                return self.cached
            reasons = []
            for step in (self._download, self._build):
                reason = await step()
                if not reason:
                    return self.cached
                reasons.append(reason)
        raise PartMissing(
            f"Temporal's program (CLI {CLI_VERSION}) is not here: {'; '.join(reasons)}",
            remedy="set HOLDFAST_TEMPORAL to the path of a `temporal` program, or connect to the internet so that it "
            f"can be downloaded, or install Go so that it can be built, or put it at {self.cached}",
        )

    async def look(self) -> Seen:
        """Says what is here and what could be had, and changes nothing."""
        if given := self._environ.get("HOLDFAST_TEMPORAL"):
            path = _absolute(given)
            return Seen(self.cached, given=True, path=path, version=await self._version(path))
        version = await self._version(self.cached)
        if version == SERVER_VERSION:
            return Seen(self.cached, path=self.cached, version=version)
        go = shutil.which("go", path=self._environ.get("PATH"))
        return Seen(self.cached, reachable=await self._reachable(), go=None if go is None else Path(go))

    async def _given(self, path: Path) -> Path:
        version = await self._version(path)
        if version is None:
            raise PartMissing(
                f"HOLDFAST_TEMPORAL names {path}, which is not a Temporal program",
                remedy="correct it, or unset it so that Holdfast looks for one itself",
            )
        if version != SERVER_VERSION:
            self._say(f"{path} has Temporal server {version}; Holdfast is tested with {SERVER_VERSION}")
        return path

    async def _version(self, program: Path) -> str | None:
        """Asks a program for the version of its server; None if it is none."""
        if not _is_executable(program):
            return None
        output = await _run([str(program), "--version"], {"HOME": "/"}, _VERSION_TIMEOUT_S, _ignore)
        found = re.search(r"Server (\d+\.\d+\.\d+)", output.text)
        return found.group(1) if output.code == 0 and found else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lets one process at a time download or build; the others wait for it."""
        with (self._cache / "temporal.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("another process is bringing Temporal here; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    async def _keep(self, program: Path) -> str:
        """Moves a program into the cache if it is the right one; returns why not otherwise."""
        version = await self._version(program)
        if version != SERVER_VERSION:
            return f"gave Temporal server {version}, not {SERVER_VERSION}"
        _adopt(program, self.cached)
        return ""

    async def _download(self) -> str:
        """Has the SDK download it, in a process of its own, so that the bound holds whatever the SDK does."""
        if not await self._reachable():
            return "temporal.download cannot be reached"
        self._say(f"downloading Temporal CLI {CLI_VERSION} (about 50 MB) …")
        with tempfile.TemporaryDirectory(prefix="download-", dir=self._cache) as folder:
            argv = [sys.executable, "-m", "cli.stack.temporal_download", CLI_VERSION, folder]
            output = await _run(argv, self._environ, _DOWNLOAD_TIMEOUT_S, self._tick("downloading"))
            program = _downloaded(Path(folder))
            if output.code != 0 or program is None:
                return f"the download failed ({_last_line(output.text)})"
            if reason := await self._keep(program):
                return f"the download {reason}"
        return ""

    async def _reachable(self) -> bool:
        import httpx  # only where the program is not here yet

        try:
            async with httpx.AsyncClient(timeout=_REACH_TIMEOUT_S) as client:
                url = f"https://temporal.download/cli/v{CLI_VERSION}?platform=linux&arch=amd64&format=tar.gz"
                return (await asyncio.wait_for(client.get(url), _REACH_TIMEOUT_S)).is_success
        except (httpx.HTTPError, TimeoutError):
            return False

    async def _build(self) -> str:
        """Builds it from its public Go module."""
        go = shutil.which("go", path=self._environ.get("PATH"))
        if go is None:
            return "Go is not installed"
        self._say(f"building Temporal CLI {CLI_VERSION} with {go}; this takes about five minutes, once …")
        with tempfile.TemporaryDirectory(prefix="build-", dir=self._cache) as folder:
            go_env = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOBIN": folder, "GOTMPDIR": folder}
            env = {**self._environ, **go_env}
            argv = [go, "install", "-trimpath", "-ldflags", "-s -w", MODULE]
            output = await _run(argv, env, _BUILD_TIMEOUT_S, self._tick("building"))
            if output.code != 0:
                return f"`go install {MODULE}` failed ({_last_line(output.text)})"
            if reason := await self._keep(Path(folder) / "temporal"):
                return f"`go install {MODULE}` {reason}"
        return ""

    def _tick(self, what: str) -> Callable[[float], None]:
        return lambda elapsed_s: self._say(f"  still {what}, {int(elapsed_s) // 60}:{int(elapsed_s) % 60:02d} min")


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _is_executable(program: Path) -> bool:
    return program.is_file() and os.access(program, os.X_OK)


def _downloaded(folder: Path) -> Path | None:
    return next((path for path in folder.iterdir() if path.name.startswith("temporal-cli")), None)


def _adopt(program: Path, target: Path) -> None:
    program.chmod(0o755)
    program.replace(target)


def _last_line(text: str) -> str:
    return text.splitlines()[-1] if text else "it printed nothing"


def main() -> int:
    """Makes sure that the program is here, and prints where."""
    try:
        program = asyncio.run(TemporalProgram(say=lambda line: print(line, file=sys.stderr, flush=True)).find())
    except PartMissing as error:
        print(f"error: {error.message}.\n  {error.remedy}.", file=sys.stderr)
        return 1
    print(program)
    return 0
