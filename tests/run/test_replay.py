"""Runs that were recorded once go on under the code as it is now: their histories are replayed, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers import replay

from .record_histories import FOLDER, SHAPES, TEST_CODEC_KEY

KEY = bytes.fromhex(TEST_CODEC_KEY.read_text(encoding="ascii"))


def test_every_shape_is_recorded() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(shape.__name__ for shape in SHAPES)


@pytest.mark.parametrize("recorded", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
async def test_a_recorded_run_replays(recorded: Path) -> None:
    histories = replay.from_json(recorded.read_text(encoding="utf-8"))
    for one in await replay.replay(histories, KEY):
        assert one.divergence == "", f"{recorded.name}, execution {one.run_id}"
        assert one.events > 3


async def test_another_path_is_noticed() -> None:
    """A replay that cannot fail proves nothing: this one lacks the local activity that decided."""
    [history] = replay.from_json((FOLDER / "plain.json").read_text(encoding="utf-8"))
    reserves = [event for event in history.events if b'"reserve"' in event.SerializeToString()]
    assert reserves
    kept = [event for event in history.events if event.event_id != reserves[0].event_id]
    for number, event in enumerate(kept, start=1):
        event.event_id = number
    [replayed] = await replay.replay([type(history)(history.workflow_id, kept)], KEY)
    assert replayed.divergence


async def test_the_histories_are_unreadable_without_their_key() -> None:
    [history] = replay.from_json((FOLDER / "plain.json").read_text(encoding="utf-8"))
    [replayed] = await replay.replay([history], bytes(32))
    assert replayed.divergence
