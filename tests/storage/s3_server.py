"""A real S3 server for tests: versitygw on a folder, built once from its pinned module; and a way to it that can be cut."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import platformdirs
import pytest
from pydantic import SecretStr

from cli.stack.ports import Ports
from holdfast.settings import BucketSettings

_MODULE: Final = "github.com/versity/versitygw/cmd/versitygw"
_VERSION: Final = "v1.8.0"
_BUILD_TIMEOUT_S: Final = 1_500
KEY: Final = "holdfast-test-key"
SECRET: Final = "a-secret-of-the-tests-alone"
BUCKET: Final = "holdfast-artefacts"


class NoGo(Exception):
    """There is no Go to build the server with."""


def program() -> Path:
    """Returns the server, built once and kept; Go's checksum database vouches for its sources.

    Raises:
        NoGo: It is not built, and cannot be.
    """
    folder = Path(platformdirs.user_cache_dir("holdfast")) / "s3"
    built = folder / f"versitygw-{_VERSION}"
    if built.exists():
        return built
    go = shutil.which("go")
    if go is None:
        raise NoGo
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            building = folder / "building"
            done = subprocess.run(
                [go, "install", f"{_MODULE}@{_VERSION}"],
                env={**os.environ, "GOBIN": str(building)},
                capture_output=True,
                text=True,
                timeout=_BUILD_TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            (building / "versitygw").rename(built)
    return built


@dataclass
class S3Server:
    """A running server.

    Attributes:
        url: Where it listens.
        folder: What lies in it, as plain files.
    """

    url: str
    folder: Path

    @property
    def bucket(self) -> Path:
        return self.folder / BUCKET

    def objects(self) -> list[Path]:
        """All objects that are there."""
        return sorted(path for path in self.bucket.rglob("*") if path.is_file() and ".sgwtmp" not in path.parts)

    def settings(self, **changes: Any) -> BucketSettings:
        """Settings that fit it, but for the changes."""
        fields: dict[str, Any] = {
            "objects_bucket": BUCKET,
            "objects_endpoint": self.url,
            "objects_access_key_id": KEY,
            "objects_secret_access_key": SecretStr(SECRET),
        }
        return BucketSettings(**{**fields, **changes})

    def environment(self) -> dict[str, str]:
        """The same as variables."""
        return {
            "HOLDFAST_OBJECTS_BUCKET": BUCKET,
            "HOLDFAST_OBJECTS_ENDPOINT": self.url,
            "HOLDFAST_OBJECTS_ACCESS_KEY_ID": KEY,
            "HOLDFAST_OBJECTS_SECRET_ACCESS_KEY": SECRET,
            "HOLDFAST_OBJECTS_PREFIX": "of/runs",
        }


@asynccontextmanager
async def s3_server(folder: Path) -> AsyncIterator[S3Server]:
    """Runs a server with an empty bucket for as long as the block runs."""
    try:
        server = await asyncio.to_thread(program)
    except NoGo:
        pytest.skip("the S3 server needs Go, which is not on this machine")
    data, log = folder / "data", folder / "s3.log"
    (data / BUCKET).mkdir(parents=True)
    (folder / "meta").mkdir()
    port = Ports.free().api
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            str(server),
            *("--port", f"127.0.0.1:{port}", "--quiet", "--health", "/health"),
            *("posix", "--sidecar", str(folder / "meta"), str(data)),
            env={"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET, "PATH": os.environ["PATH"]},
            stdout=out,
            stderr=out,
        )
    running = S3Server(f"http://127.0.0.1:{port}", data)
    try:
        await _answers(running.url, process, log)
        yield running
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _answers(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + 60
    async with httpx.AsyncClient(trust_env=False) as http:
        while True:
            assert process.returncode is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with suppress(httpx.HTTPError):
                if (await http.get(f"{url}/health")).is_success:
                    return
            await asyncio.sleep(0.05)


@dataclass
class Cut:
    """A way to a server on which connections end after so many bytes to the server, or from it; None lets all through.

    Attributes:
        cuts: How many connections may still be cut; the later ones are let through.
    """

    port: int
    up_bytes: int | None = None
    down_bytes: int | None = None
    cuts: int = 1_000_000
    made: int = 0
    url: str = ""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        up = asyncio.create_task(self._pass(reader, back, self.up_bytes))
        down = asyncio.create_task(self._pass(there, writer, self.down_bytes))
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        for task in (up, down):
            task.cancel()
        for each in (writer, back):
            each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bytes_max: int | None) -> None:
        left = bytes_max if self.made < self.cuts else None
        with suppress(OSError):
            while chunk := await reader.read(4_096):
                if left is not None and len(chunk) > left:
                    writer.write(chunk[:left])
                    await writer.drain()
                    self.made += 1
                    return
                left = None if left is None else left - len(chunk)
                writer.write(chunk)
                await writer.drain()


@asynccontextmanager
async def cut_way(server: S3Server, **how: Any) -> AsyncIterator[Cut]:
    """Opens a way to the server that breaks off."""
    cut = Cut(int(server.url.rpartition(":")[2]), **how)
    listener = await asyncio.start_server(cut._serve, "127.0.0.1", 0)
    cut.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield cut


if __name__ == "__main__":
    try:
        print(program())
    except NoGo:
        print("there is no Go on this machine: the tests of S3 are skipped")
