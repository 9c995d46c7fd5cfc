"""The page on canonical actions says what is so. Apart from the other tests: those are run where there are no pages, too."""

from __future__ import annotations

from tests.docs.pages import ROOT, fences_of

PAGE = ROOT / "docs" / "reference" / "canonical-actions.md"


def test_its_python_runs() -> None:
    blocks = [fence for fence in fences_of(PAGE) if fence.language == "python"]
    assert blocks
    for block in blocks:
        exec(compile(block.body, str(PAGE), "exec"), {})  # the page's own asserts are the test
