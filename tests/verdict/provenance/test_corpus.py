from __future__ import annotations

import pytest

from holdfast_verdict.provenance import Origin, Sources

from .corpus import CASES, UNTRUSTED, Case


def sources_of(case: Case) -> Sources:
    sources = Sources()
    for text in case.user:
        sources.user(text)
    for output in case.clean:
        sources.tool("records.read", output)
    for output in case.web:
        sources.tool("web.fetch", output, UNTRUSTED)
    return sources


def seen(origin: Origin) -> str:
    if "untrusted" in origin.labels:
        return "untrusted"
    if origin.is_from("user"):
        return "user"
    if origin.kinds == {"constant"}:
        return "constant"
    return "model" if "model" in origin.kinds else "clean"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_value_is_from_where_it_is(case: Case) -> None:
    origin = sources_of(case).origin(case.value)
    assert seen(origin) == case.expected, origin


def test_there_are_enough_of_both() -> None:
    assert len(CASES) >= 160
    assert len({case.name for case in CASES}) == len(CASES)
