from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.stack.supervisor import BASE_PARTS, Stack


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[Stack]:
    """Servers of this folder's own: its governors would take over runs of other tests."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-workers-"))
    folder.chmod(0o755)
    try:
        async with Stack(folder, ports="free", parts=BASE_PARTS, headless=True) as stack:
            yield stack
    finally:
        shutil.rmtree(folder, ignore_errors=True)
