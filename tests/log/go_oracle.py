"""The oracle: the field's own Go modules for trees, notes, tiles and cosignatures, as a program that tests ask."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

import orjson
import platformdirs
import pytest

_SOURCES = Path(__file__).parent / "oracle"
_BUILD_TIMEOUT_S = 900


def _program() -> Path:
    """Returns the program, built from pinned modules and kept as long as its sources stay as they are."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("the oracle needs Go, which is not on this machine")
    sources = sorted(_SOURCES.iterdir())
    mark = hashlib.sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()[:16]
    folder = Path(platformdirs.user_cache_dir("holdfast")) / "log-oracle"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"oracle-{mark}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            env = {**os.environ, "GOFLAGS": "-mod=readonly -buildvcs=false", "CGO_ENABLED": "0"}
            part = program.with_suffix(".part")
            done = subprocess.run(
                [go, "build", "-o", str(part), "."],
                cwd=_SOURCES,
                env=env,
                capture_output=True,
                text=True,
                timeout=_BUILD_TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            part.rename(program)
    return program


class Oracle:
    """A running oracle."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([str(_program())], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def ask(self, op: str, **asked: Any) -> dict[str, Any]:  # JSON both ways
        """Returns what it answers; bytes go as base64, which is how Go reads and writes them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(orjson.dumps({"op": op, **asked}, default=_text) + b"\n")
        self._process.stdin.flush()
        found: dict[str, Any] = orjson.loads(self._process.stdout.readline())
        return found


def _text(value: object) -> str:
    assert isinstance(value, bytes)
    return base64.b64encode(value).decode()


def raw(texts: list[str] | None) -> list[bytes]:
    """Returns the bytes of what the oracle answers."""
    return [base64.b64decode(text) for text in texts or []]
