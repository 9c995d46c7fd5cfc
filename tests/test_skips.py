"""The rule on skips is itself tried: a run in which something was skipped for no good reason fails where it must."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SKIPPING = """
import pytest

def test_fine():
    assert True

@pytest.mark.skipif(True, reason={reason!r})
def test_skipped():
    raise AssertionError
"""


@pytest.mark.parametrize("processes", ["0", "2"])
@pytest.mark.parametrize(
    ("reason", "ci", "code"),
    [("no database", "true", 1), ("no database", "", 0), ("no user namespace here: refused", "true", 0)],
)
def test_an_unexpected_skip_fails_where_tests_must_run(
    tmp_path: Path, reason: str, ci: str, code: int, processes: str
) -> None:
    for name in ("test_it.py", "test_that.py"):
        (tmp_path / name).write_text(SKIPPING.format(reason=reason), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.skips",
        "-n",
        processes,
        "-c",
        os.devnull,
        str(tmp_path),
    ]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout
    skipped = (2, 0) if "user namespace" in reason else (0, 2)
    assert "skipped for the machine: {}, unexpectedly: {}".format(*skipped) in done.stdout
