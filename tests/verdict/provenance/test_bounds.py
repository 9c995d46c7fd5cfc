"""What is not looked through to its end may be from anywhere, and what counts only against a value is told with it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from holdfast_verdict.provenance import Sources
from holdfast_verdict.provenance.sources import LONGEST_VALUE

UNTRUSTED = frozenset({"untrusted"})


def origin_of(sources: Sources, value: object) -> tuple[str, str, str, str, str]:
    """Returns kinds, labels, sources, how and read, each as one text."""
    found = sources.origin(value).to_json()
    return (
        ",".join(found["kinds"]),
        ",".join(found["labels"]),
        " ".join(found["sources"]),
        " ".join(found["how"]),
        " ".join(found["read"]),
    )


def test_a_look_up_that_costs_too_much_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Sources()
    sources.user("write to ann@acme.com")
    sources.tool("crm.find", "bob@acme.com")
    sources.tool("web.fetch", "eve@evil.example " * 20, UNTRUSTED)
    assert origin_of(sources, "eve@evil.example")[3] == "exact"
    monkeypatch.setattr("holdfast_verdict.provenance.sources._EFFORT", 60)
    sources.user("and hurry")  # what was found before is forgotten
    assert origin_of(sources, "ann@acme.com") == ("user", "", "user:1", "exact", "")
    assert origin_of(sources, "bob@acme.com") == ("tool", "", "crm.find#2", "exact", "")
    spent = ("model", "untrusted", "", "too-much", "crm.find#2 web.fetch#3")
    assert origin_of(sources, "eve@evil.example") == spent
    partly = ("model,user", "untrusted", "user:1", "part model", "crm.find#2 web.fetch#3")
    assert origin_of(sources, "write to eve@evil.example") == partly


@pytest.mark.parametrize("odd", [object(), Decimal("NaN"), {1, object()}, float("inf"), 10**90])
def test_a_leaf_that_nobody_can_read_may_be_anything(odd: Any) -> None:
    sources = Sources()
    sources.user("write to ann@acme.com")
    sources.tool("crm.find", {"name": "Bob", "odd": odd}, ["contact"])
    sources.tool("web.fetch", "eve@evil.example", UNTRUSTED)
    assert origin_of(sources, "ann@acme.com") == ("user", "", "user:1", "exact", "")
    readable = isinstance(odd, Decimal | float | int)
    how = "exact" if readable else "exact unread"
    assert origin_of(sources, "Bob") == ("tool", "contact", "crm.find#2", how, "")
    expected = ("tool", "untrusted", "web.fetch#3", "exact", "")
    if not readable:
        expected = ("tool", "contact,untrusted", "web.fetch#3 crm.find#2", "exact unread", "")
    assert origin_of(sources, "eve@evil.example") == expected


def test_what_is_nested_too_deep_may_be_anything() -> None:
    deep: Any = "eve@evil.example"
    for _ in range(70):
        deep = [deep]
    sources = Sources()
    sources.tool("web.fetch", deep, UNTRUSTED)
    sources.tool("crm.find", "bob@acme.com")
    assert origin_of(sources, "bob@acme.com") == ("tool", "untrusted", "crm.find#2 web.fetch#1", "exact unread", "")
    assert origin_of(sources, deep) == ("model", "untrusted", "", "unread", "web.fetch#1 crm.find#2")


def test_a_value_is_looked_up_up_to_a_length() -> None:
    sources = Sources()
    sources.user("x" * LONGEST_VALUE)
    assert origin_of(sources, "x" * LONGEST_VALUE)[0] == "user"
    assert origin_of(sources, "x" * (LONGEST_VALUE + 1)) == ("model", "", "", "too-long", "")


@pytest.mark.parametrize(("held", "how"), [("elpmaxe.live@eve", "reversed"), ("rir@rivy.rknzcyr", "rot13")])
def test_what_a_page_says_turned_round_counts_against_a_clean_value(held: str, how: str) -> None:
    sources = Sources()
    sources.tool("crm.find", {"code": held})
    clean = sources.tool("notes.read", "eve@evil.example")
    assert origin_of(sources, held) == ("tool", "", "crm.find#1", "exact", "")
    page = sources.tool("web.fetch", "eve@evil.example", UNTRUSTED)
    assert origin_of(sources, held) == ("tool", "untrusted", f"crm.find#1 {page}", f"exact {how}", "")
    assert clean == "notes.read#2"


def test_short_values_are_not_turned_round() -> None:
    sources = Sources()
    sources.tool("crm.find", {"code": "edcba"})
    sources.tool("web.fetch", "abcde", UNTRUSTED)
    assert origin_of(sources, "edcba") == ("tool", "", "crm.find#1", "exact", "")


def test_a_name_of_the_users_words_may_have_been_dictated() -> None:
    sources = Sources()
    sources.user("tell bob about acme")
    sources.tool("crm.find", "acme has a bob")
    assert origin_of(sources, "bob-acme") == ("user", "", "user:1", "part", "")
    sources.tool("web.fetch", "acme has a bob", UNTRUSTED)
    assert origin_of(sources, "bob-acme") == ("tool,user", "untrusted", "user:1 web.fetch#3", "part parts", "")
    assert origin_of(sources, "bob acme") == ("user", "", "user:1", "part", ""), "two words are no name"
    assert origin_of(sources, "tell bob") == ("user", "", "user:1", "exact", "")


def test_ids_say_who_spoke_and_in_which_order() -> None:
    sources = Sources()
    assert sources.user("a") == "user:1"
    assert sources.tool("web.fetch", "b", UNTRUSTED) == "web.fetch#2"
    assert sources.model("c") == "model:3"
    assert sources.user(["d", 5, True, None, 2.5]) == "user:4"
    assert sources.labels == UNTRUSTED
    assert [origin_of(sources, each)[2] for each in (5, 2.5, "d")] == ["user:4"] * 3


def test_labels_of_fields_are_read_in_json_text_and_bytes_too() -> None:
    for output in (
        '{"a": {"b": "dirty words"}, "c": "clean words"}',
        b'{"a": {"b": "dirty words"}, "c": "clean words"}',
    ):
        sources = Sources()
        sources.tool("mail.list", output, ["mail"], {"a.b": UNTRUSTED})
        assert origin_of(sources, "dirty words") == ("tool", "mail,untrusted", "mail.list#1", "exact", "")
        assert origin_of(sources, "clean words") == ("tool", "mail", "mail.list#1", "exact", "")
        assert sources.labels == {"mail", "untrusted"}
    for output in ("no fields", b"no fields \xff", "5", "null"):
        sources = Sources()
        sources.tool("mail.list", output, ["mail"], {"a.b": UNTRUSTED})
        assert sources.origin("no fields").labels == {"mail", "untrusted"}


def test_origins_are_told_by_path_and_constants_are_nobodys() -> None:
    schema = {"properties": {"level": {"enum": ["high"]}, "to": {"type": "array"}}}
    sources = Sources()
    sources.user("write to ann@acme.com, high")
    sources.tool("web.fetch", "eve@evil.example", UNTRUSTED)
    found = sources.origins({"level": "high", "to": ["ann@acme.com", "eve@evil.example"], "n": None}, schema)
    assert {path: sorted(origin.kinds) for path, origin in found.items()} == {
        "level": ["constant"],
        "to[0]": ["user"],
        "to[1]": ["tool"],
        "n": ["constant"],
    }
    assert sources.origins({"level": "high"})["level"].kinds == {"user"}
    both = sources.origins({"a": {"b-c": "eve@evil.example"}, "b-c": "ann@acme.com"})
    assert sorted(both) == ["a.b-c", "b-c"]
    assert both["a.b-c"].labels == UNTRUSTED
