"""The reference of the policy language is complete, and every policy on a page compiles."""

from __future__ import annotations

import re
from typing import Final

import pytest

from holdfast_verdict import compile_policy, format_policy
from holdfast_verdict.language.grammar import grammar, reserved

from .pages import ROOT, Fence, fences

PAGE: Final = (ROOT / "docs" / "reference" / "policy_language.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("fence", fences("policy"), ids=str)
def test_policies_compile_and_are_laid_out(fence: Fence) -> None:
    compile_policy(fence.body, file=str(fence))
    assert format_policy(fence.body) == fence.body


def test_every_rule_of_the_grammar_is_described() -> None:
    names = {str(rule.alias or rule.origin.name) for rule in grammar().rules}
    blocks = "\n".join(re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    described = set(re.findall(r"^([a-z_]+) +=", blocks, re.MULTILINE))
    assert {name for name in names if not name.startswith("_")} <= described
    assert described <= names | {"condition", "unary", "atom"}


def test_every_word_is_listed() -> None:
    listed = PAGE.partition("<!-- reserved -->")[2].partition("<!-- end of reserved -->")[0]
    assert re.findall(r"`([a-z]+)`", listed) == sorted(reserved())
