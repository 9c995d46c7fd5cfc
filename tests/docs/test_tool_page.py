"""The page on tools in Python: its blocks, run in their order, make one module that does what the page says."""

from __future__ import annotations

import sys
import tomllib
from types import ModuleType

import pytest

from .pages import ROOT, fences_of

PAGE = ROOT / "docs" / "how-to" / "tool-from-python.md"


def test_the_blocks_of_the_page_run(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [fence for fence in fences_of(PAGE) if fence.language == "python"]
    assert len(blocks) == 3
    registered = [fence for fence in fences_of(PAGE) if fence.language == "toml" and "entry-points" in fence.body]
    [(name, value)] = tomllib.loads(registered[0].body)["project"]["entry-points"]["holdfast.tools"].items()
    module_name, _, function = value.partition(":")
    module = ModuleType(module_name)
    monkeypatch.setitem(sys.modules, module_name, module)
    for block in blocks:
        exec(compile(block.body, str(block), "exec", dont_inherit=True), vars(module))
    assert vars(module)[function].__holdfast_tool__.name == name
