"""Sealed values: what is put back is what was decided on, and what was erased is missed by whoever reads it, and by nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast_verdict import sealing
from holdfast_verdict.canonical import canonical_bytes, digest
from holdfast_verdict.sealing import NotThese, Withheld

SALT = bytes(range(32))
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "x-holdfast-personal": True},
        "pin": {"type": "string", "writeOnly": True},
        "amount": {"type": "integer"},
        "people": {"type": "array", "items": {"type": "object", "properties": {
            "name": {"type": "string", "x-holdfast-personal": True}, "age": {"type": "integer"}}}},
        "a/b": {"type": "string", "x-holdfast-personal": True},
    },
}  # fmt: skip
ACTION: dict[str, Any] = {
    "kind": "tool.call",
    "tool": "crm.note",
    "salt": SALT.hex(),
    "args": {
        "to": "ada@example.com", "pin": "1234", "amount": 7, "people": [{"name": "Bo", "age": 1}, {"name": "Cy", "age": 2}], "a/b": "x",
    },
}  # fmt: skip


def sealed() -> sealing.Sealed:
    return sealing.seal(ACTION, sealing.personal_in(SCHEMA), SALT)


def test_what_a_schema_marks_is_taken_out_and_nothing_else() -> None:
    value, values = sealed()
    assert values == {
        "/to": "ada@example.com",
        "/pin": "1234",
        "/people/0/name": "Bo",
        "/people/1/name": "Cy",
        "/a~1b": "x",
    }
    text = canonical_bytes(value).decode()
    assert not any(secret in text for secret in ("ada", "1234", '"Bo"', '"Cy"', SALT.hex()))
    args: Any = value["args"]
    assert (args["amount"], args["people"][1]["age"]) == (7, 2)


def test_what_is_put_back_is_what_was_decided_on() -> None:
    value, values = sealed()
    assert sealing.unseal(value, list(values), digest(ACTION), SALT, values) == ACTION


@pytest.mark.parametrize("pointer", ["/to", "/pin", "/people/1/name", "/a~1b"])
def test_another_value_or_salt_is_refused(pointer: str) -> None:
    value, values = sealed()
    for other in ("other", 1, None, ["x"], {"x": "y"}):
        with pytest.raises(NotThese):
            sealing.unseal(value, list(values), digest(ACTION), SALT, {**values, pointer: other})
    for salt in (b"", SALT[::-1], SALT[:31]):
        with pytest.raises(NotThese):
            sealing.unseal(value, list(values), digest(ACTION), salt, values)
    with pytest.raises(NotThese):
        sealing.unseal(
            value, list(values), digest(ACTION), SALT, {name: each for name, each in values.items() if name != pointer}
        )
    with pytest.raises(NotThese):
        sealing.unseal(value, [*values, "/amount"], digest(ACTION), SALT, {**values, "/amount": 7})
    with pytest.raises(NotThese):
        sealing.unseal({**value, "args": {**value["args"], "amount": 8}}, list(values), digest(ACTION), SALT, values)  # type: ignore[dict-item]  # an object


def test_equal_values_in_two_places_have_two_hashes() -> None:
    assert sealing.commitment(SALT, "/a", "x") != sealing.commitment(SALT, "/b", "x")
    assert sealing.commitment(SALT, "/a", "x") != sealing.commitment(SALT[::-1], "/a", "x")


def test_an_erased_value_is_missed_by_whoever_reads_it() -> None:
    value, values = sealed()
    args = sealing.guarded(value["args"], list(values))  # type: ignore[arg-type]  # an object
    assert args["amount"] == 7
    assert "to" in args
    assert [each["age"] for each in args["people"]] == [1, 2]
    for read in (
        lambda: args["to"],
        lambda: args.get("pin"),
        lambda: list(args.values()),
        lambda: dict(args.items()),
        lambda: args["people"][1]["name"],
        lambda: [each["name"] for each in args["people"]],
        lambda: args == {},
    ):
        with pytest.raises(Withheld):
            read()
    with pytest.raises(NotThese):
        sealing.guarded({"to": "in clear"}, ["/to"])
