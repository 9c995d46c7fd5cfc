"""The command line explains itself, fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from tests.stack.places import ROOT


def holdfast(*args: str) -> Result:
    return CliRunner().invoke(app, args, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.mark.parametrize("args", [[], ["up"], ["down"], ["status"]])
def test_help_says_what_it_does_and_which_exit_codes_there_are(args: list[str]) -> None:
    done = holdfast(*args, "--help")
    assert done.exit_code == 0
    assert "Exit codes: 0 done" in done.stdout


def test_help_loads_nothing_heavy() -> None:
    heavy = [
        "temporalio",
        "asyncpg",
        "sqlalchemy",
        "fastapi",
        "httpx",
        "pydantic",
        "psutil",
        "cryptography",
        "asyncio",
    ]
    code = f"import sys, cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_say_what_was_wrong_and_what_to_do(tmp_path: Path) -> None:
    done = holdfast("status", "--data-dir", str(tmp_path))
    assert done.exit_code == 3
    assert done.stderr.splitlines() == [
        f"error: Holdfast does not run on {tmp_path}",
        "  to do: start it with `holdfast up`",
        "  code:  stack.not_running (`holdfast explain stack.not_running`)",
    ]
    file = tmp_path / "file"
    file.touch()
    done = holdfast("up", "--data-dir", str(file))
    assert done.exit_code == 1
    assert f"cannot use {file} as data folder" in done.stderr
    assert holdfast("up", "--executors", "0").exit_code == 2
