"""What the library's README shows is what happens."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any, Final

from holdfast_verdict import Facts, decide

README: Final = (Path(__file__).resolve().parents[3] / "holdfast_verdict" / "README.md").read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _run(block: str) -> tuple[str, dict[str, Any]]:
    printed, scope = io.StringIO(), dict[str, Any]()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "README.md", "exec"), scope)
    return printed.getvalue().strip(), scope


def test_its_example_runs_and_prints_what_it_says() -> None:
    printed, scope = _run(BLOCKS[0])
    assert f"It prints `{printed}`." in README
    verdict = scope["verdict"]
    assert decide(scope["policy"], scope["action"], Facts.from_json(verdict.facts_read)) == verdict


def test_its_other_blocks_run_and_every_name_it_lists_is_there() -> None:
    for block in BLOCKS[1:]:
        _run(block)
    import holdfast_verdict

    names = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert len(names) == 8
    assert set(names) <= set(holdfast_verdict.__all__)
