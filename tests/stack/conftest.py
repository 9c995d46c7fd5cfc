"""Folders of two kinds, for all tests of the stack: one that other accounts can enter, one that they cannot."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other accounts can enter."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    folder.chmod(0o755)
    yield folder
    for last in (*[False] * 40, True):
        try:
            shutil.rmtree(folder)
        except OSError:  # a server that was killed may still be tidying up in there
            if last:
                raise
            time.sleep(0.25)
        else:
            return


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder that no other account can enter."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _no_servers_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOLDFAST_POSTGRES", "HOLDFAST_REDIS", "HOLDFAST_DATA_DIR", "ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
