"""What takes long says how far it is; what does not says nothing, and nothing is said once it is over."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from cli.backup import progress
from cli.backup.progress import telling


async def test_it_says_how_far_it_is_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_AFTER_S", 0.01)
    said: list[str] = []
    steps = count(1)
    async with telling(said.append, "copying", lambda: f"{next(steps)} of 9"):
        while len(said) < 3:
            await asyncio.sleep(0.01)
    assert said[:3] == ["copying: 1 of 9", "copying: 2 of 9", "copying: 3 of 9"]
    told = len(said)
    await asyncio.sleep(0.05)
    assert len(said) == told


async def test_what_is_quick_says_nothing() -> None:
    said: list[str] = []
    async with telling(said.append, "copying", lambda: "far"):
        pass
    assert said == []
