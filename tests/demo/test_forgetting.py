"""The demo's checks of an erasure notice what is not as it should be, one thing at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from demo.refund_desk import policy
from demo.refund_desk.forgetting import Exported, Forgotten, check
from demo.refund_desk.world.orders import customers
from sdk import Erasure

AT = datetime(2026, 6, 1, tzinfo=UTC)
ERASURE = Erasure("e", None, "r", "asked", "owner", AT, 1, 16, 0, 0, AT)
BEFORE = Exported(True, (), "note", 94, None, frozenset({"maria.lindgren@customer.example"}), 0, 71)
AFTER = Exported(True, (), "note", 99, 94, frozenset(), 9, 74)
GOOD = Forgotten(BEFORE, ERASURE, AFTER)

SPOILT: dict[str, Callable[[Forgotten], Forgotten]] = {
    "an export that does not hold": lambda f: replace(f, before=replace(BEFORE, holds=False)),
    "nothing to forget": lambda f: replace(f, before=replace(BEFORE, names=frozenset())),
    "a name is left": lambda f: replace(f, after=replace(AFTER, names=frozenset({"C-2203"}))),
    "nothing erased": lambda f: replace(f, erasure=replace(ERASURE, records=0)),
    "a run left on legal hold": lambda f: replace(f, erasure=replace(ERASURE, held=1)),
    "a run left open": lambda f: replace(f, erasure=replace(ERASURE, open=1)),
    "a proof that is gone": lambda f: replace(f, after=replace(AFTER, holds=False)),
    "another log": lambda f: replace(f, after=replace(AFTER, since=None)),
    "decisions gone": lambda f: replace(f, after=replace(AFTER, decisions=70)),
}


def wrong(forgotten: Forgotten) -> list[str]:
    return [found.text for found in check(forgotten) if not found.holds]


def test_what_is_good_is_good() -> None:
    assert wrong(GOOD) == []


@pytest.mark.parametrize("how", SPOILT)
def test_whatever_is_wrong_is_seen(how: str) -> None:
    assert len(wrong(SPOILT[how](GOOD))) == 1, how


def test_every_check_can_fail() -> None:
    assert {found.text for found in check(GOOD)} == {text for spoil in SPOILT.values() for text in wrong(spoil(GOOD))}


def test_customers_are_those_of_the_shop() -> None:
    own, others = customers(policy.TENANT), customers(policy.NEIGHBOUR)
    assert {"C-2211", "Jörg Weiß", "maria.lindgren@customer.example"} <= own
    assert "Anders Holm" in others
    assert (len(own), len(others)) == (36, 36)
    assert own.isdisjoint(others)
