"""A pytest plugin: hours and days that a test counts pass when it says so, and none by itself meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import pytest

ENDS_S: Final = 60
"""An hour that ends so soon is not begun in: longer than such a test takes."""


@pytest.fixture
async def hour() -> None:
    """Waits for the next hour where one is about to end; midnights of whole hours from UTC end with one."""
    left_s = 3600 - time.time() % 3600
    if left_s < ENDS_S:
        await asyncio.sleep(left_s + 0.1)
