"""The demo, as a newcomer runs it: everything in it is checked by itself, from the outside."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.places import ROOT, clean_environment

LINES = (
    r"!! executor-[12] \(process \d+\) is in the middle of step-\d+-try-1, a model call: kill -9",
    r"llm\.call +UNKNOWN  \$0\.\d+ stays held",
    r"llm\.call +allowed  held \$0\.\d+, executed, settled: \$0\.\d+ spent  simulated  “",
    r"orders\.lookup +DENIED +tenancy\.cross_tenant",
    r"mail\.send +DENIED +mail\.outside_domain",
    r"account\.delete +DENIED +policy\.not_permitted",
    r"payments\.refund +WAITS +approval\.required",
    r"approve it\? \[y/N\] y \(--yes\)",
    r"!! step \d+, a refund, is settled, and nobody is answered yet: kill -9 the governor",
    r"402 budget\.insufficient",
    r"llm\.call +DENIED +budget\.cap_exceeded",
    r"the run has ended: succeeded",
    r"✓ Temporal's history of every run says the same as the log: .*\(2 runs, \d+ activities, \d+ allowed actions",
    r"\d+ decisions +\$0\.\d+|\d+ decisions +\$1\.\d+",
    r"the run in Temporal's UI: http://127\.0\.0\.1:\d+/namespaces/holdfast/workflows/[0-9a-f-]{36}",
    r"no model thinks here",
    r"a customer has asked to be forgotten: personal values of [1-9]\d* records are erased",
    r"an export now: \d+ decisions, the proof holds, 0 names, addresses and numbers of customers are in it",
    r"what cannot be evaluated again: [1-9]\d* decisions, whose rule asks where a mail went",
)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name leaves room for sockets, whose paths may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="hf-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(620)
def test_the_demo_is_as_it_should_be_and_leaves_nothing_behind(short_folder: Path) -> None:
    environment = {**clean_environment(), "TMPDIR": str(short_folder)}
    done = subprocess.run(
        [sys.executable, "-m", "demo.refund_desk", "--yes"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr
    for line in LINES:
        assert re.search(line, done.stdout), f"{line}\n{done.stdout}"
    marks = re.findall(r"^  ([✓✗]) ", done.stdout, re.MULTILINE)
    assert len(marks) >= 23
    assert set(marks) == {"✓"}
    assert "\x1b[" not in done.stdout, "colours in a pipe"
    assert list(short_folder.iterdir()) == []


@pytest.mark.timeout(60)
def test_the_demo_says_what_it_can_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo.refund_desk", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--yes" in done.stdout
    assert "--keep" in done.stdout
