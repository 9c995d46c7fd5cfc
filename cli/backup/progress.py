"""Saying what takes long, while it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

_AFTER_S: Final = 2.0


def megabytes(size: int) -> str:
    """Says how many bytes, to be read by people."""
    return f"{size / 1e6:.1f} MB"


@asynccontextmanager
async def telling(say: Callable[[str], None], what: str, so_far: Callable[[], str]) -> AsyncIterator[None]:
    """Says every two seconds how far something is; nothing if it is done before."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(_AFTER_S)
            say(f"{what}: {so_far()}")

    telling_task = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling_task.cancel()
        await asyncio.gather(telling_task, return_exceptions=True)
