from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .s3_server import S3Server, s3_server


@pytest.fixture(scope="session")
async def s3() -> AsyncIterator[S3Server]:
    """A real S3 server with a bucket."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-s3-"))
    try:
        async with s3_server(folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)
