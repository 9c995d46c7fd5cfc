"""Tests that share servers are run by one process, each test is run once, and what takes longest begins first."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

from tests import spread

ROOT = Path(__file__).resolve().parent.parent

NOTING = """
import os, pathlib, pytest

@pytest.mark.parametrize("number", range(20))
def test_it(number):
    with open({notes!r}, "a") as notes:
        print(__file__, number, os.environ["PYTEST_XDIST_WORKER"], file=notes)
"""


def test_every_folder_that_stays_together_is_there() -> None:
    assert {folder for folder in spread.TOGETHER if not (ROOT / "tests" / folder).is_dir()} == set()


def test_a_folder_with_servers_is_one_group_and_elsewhere_a_file_is() -> None:
    assert spread.group_of("tests/run/test_a.py::test_b[x/y::z]") == spread.group_of("tests/run/deep/test_c.py::test_d")
    assert spread.group_of("tests/verdict/test_a.py::test_b") == "tests/verdict/test_a.py"
    assert spread.group_of("tests/test_rooms.py::test_b") == "tests/test_rooms.py"


def test_no_two_processes_pick_the_same_port() -> None:
    of_each = [set(spread.ports_of(number, 3)) for number in range(3)]
    assert not any(one & other for one, other in itertools.combinations(of_each, 2))
    assert set.union(*of_each) == set(spread.PORTS)


def test_a_group_is_run_by_one_process_and_every_test_once(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    files = ["verdict/test_a.py", "verdict/test_b.py", "run/test_c.py", "run/deep/test_d.py"]
    for name in files:
        file = tmp_path / "tests" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(NOTING.format(notes=str(notes)), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.spread", "-n", "2", "--import-mode=importlib"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path / "tests")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in notes.read_text(encoding="utf-8").splitlines()]
    assert sorted((file.removeprefix(f"{tmp_path}/tests/"), int(number)) for file, number, _ in lines) == sorted(
        (name, number) for name in files for number in range(20)
    )
    processes = {name: {process for file, _, process in lines if file.endswith(name)} for name in files}
    assert all(len(each) == 1 for each in processes.values()), processes
    assert processes["run/test_c.py"] == processes["run/deep/test_d.py"] != processes["verdict/test_a.py"]
