"""Other programs that isolate are found, and their versions looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.isolators import BUBBLEWRAP, look


@pytest.mark.parametrize(
    ("says", "usable"),
    [
        ("bubblewrap 0.8.0", False),
        ("bubblewrap 0.11.9", False),
        ("bubblewrap 0.12.0", True),
        ("bubblewrap 1.0", True),
        ("x", False),
    ],
)
def test_an_old_bubblewrap_is_found_and_not_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, usable: bool
) -> None:
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\necho {says}\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    bwrap = look("bwrap", BUBBLEWRAP)
    assert (bwrap.name, bwrap.version, bwrap.usable) == ("bwrap", says, usable)
    assert says in bwrap.words


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [look(name).words for name in ("bwrap", "runsc")] == ["bwrap is not installed", "runsc is not installed"]


def test_one_that_cannot_be_run_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runsc").write_bytes(b"\x7fELF")
    (tmp_path / "runsc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not look("runsc").usable
