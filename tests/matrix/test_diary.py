"""An interrupted matrix goes on where it was, and never with what was played on other code."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.matrix import engine
from bench.matrix.books import Findings
from bench.matrix.cells import Cell
from bench.matrix.diary import Diary
from holdfast.errors import ConfigurationInvalid

ONE = Cell("1", "1", "given", "rest", "whole", "less", "once", "alive", "quiet")
OTHER = Cell("1", "1", "absent", "rest", "whole", "less", "once", "alive", "quiet")


async def test_a_cell_is_played_once_and_counted_each_time(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    first = await engine.play([ONE], lambda _: None, Diary(path))
    assert first.cells == 1
    assert first.holds
    kept = path.read_bytes()
    both = await engine.play([ONE, OTHER], lambda _: None, Diary(path))
    assert both.cells == 2
    assert path.read_bytes().startswith(kept)
    assert list(Diary(path).findings) == [ONE, OTHER]
    assert Diary(path).findings[ONE] == first


def test_what_was_found_wrong_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    Diary(path).write(ONE, Findings(cells=1, overspend_nano_usd=7, wrong=["spent"]))
    again = Diary(path).findings[ONE]
    assert (again.overspend_nano_usd, again.wrong) == (7, ["spent"])


def test_a_cell_whose_line_was_cut_is_played_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    diary = Diary(path)
    diary.write(ONE, Findings(cells=1))
    diary.write(OTHER, Findings(cells=1))
    path.write_bytes(path.read_bytes()[:-5])
    assert list(Diary(path).findings) == [ONE]
    Diary(path).write(OTHER, Findings(cells=1))
    assert list(Diary(path).findings) == [ONE, OTHER]


def test_other_code_and_other_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"code": "0123"}\n')
    with pytest.raises(ConfigurationInvalid, match="other code"):
        Diary(other)
    nothing = tmp_path / "nothing.jsonl"
    for text in ("", "hello\n", "[]\n"):
        nothing.write_text(text)
        with pytest.raises(ConfigurationInvalid, match="no record of played cells"):
            Diary(nothing)
