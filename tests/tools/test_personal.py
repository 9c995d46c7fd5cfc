"""What may be personal is marked where nobody has said, and every mark is one that is found when an action is recorded."""

from __future__ import annotations

from typing import Any

import pytest

from activities.tools import python_host
from holdfast.tools import schemas
from holdfast.tools.code import CODE_TOOL
from holdfast.tools.personal import marked
from holdfast.tools.registry import TOOLS
from holdfast_verdict.sealing import PERSONAL, personal_in

TEXT: dict[str, Any] = {"type": "string"}
PLAIN: tuple[dict[str, Any], ...] = (
    {"type": "integer"},
    {"type": "boolean"},
    {"type": "null"},
    {"type": "string", "enum": ["a", "b"]},
    {"const": "a"},
    {"type": "string", "format": "decimal"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "array", "items": {"type": "integer"}},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"type": "object", "properties": {"n": {"type": "integer"}}},
    {**TEXT, PERSONAL: False},
)
FREE: tuple[dict[str, Any], ...] = (
    TEXT,
    {},
    {"type": ["string", "null"]},
    {"type": "string", "pattern": "^[a-z]+$"},
    {"type": "string", "format": "email"},
    {"anyOf": [TEXT, {"type": "null"}]},
    {"oneOf": [{"type": "object", "properties": {"t": TEXT}}, {"type": "integer"}]},
    {"allOf": [{"type": "array", "items": TEXT}]},
    {"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}},
    {"type": "object", "additionalProperties": True},
    {"type": "array"},
    {"type": "array", "prefixItems": [TEXT]},
    {"anyOf": [{**TEXT, "writeOnly": True}, {"type": "integer"}]},
    {"anyOf": [{"type": "integer", PERSONAL: True}, {"type": "null"}]},
)


def form(argument: dict[str, Any]) -> dict[str, Any]:
    return marked({"type": "object", "properties": {"x": argument}, "required": []})


@pytest.mark.parametrize("argument", PLAIN, ids=str)
def test_what_is_nobodys_text_is_left_as_it_is(argument: dict[str, Any]) -> None:
    made = form(argument)
    assert personal_in(made) == ()
    assert made["properties"]["x"] == argument
    schemas.check(made)


@pytest.mark.parametrize("argument", FREE, ids=str)
def test_what_may_hold_a_text_is_sealed_as_a_whole(argument: dict[str, Any]) -> None:
    made = form(argument)
    assert personal_in(made) == (("x",),)
    schemas.check(made)
    assert marked(made) == made, "marking again changes nothing"


def test_a_mark_stands_at_the_text_and_not_at_what_is_around_it() -> None:
    line = {"type": "object", "properties": {"name": TEXT, "count": {"type": "integer"}}}
    made = form({"type": "array", "items": line})
    assert personal_in(made) == (("x", "*", "name"),)
    schemas.check(made)


def test_what_an_argument_is_called_and_what_it_may_be_are_no_marks() -> None:
    named = {"type": "object", "properties": {"writeOnly": TEXT, PERSONAL: {"type": "integer"}}}
    made = form({"anyOf": [named, {"const": {"writeOnly": True}}]})
    assert personal_in(made) == (("x",),)
    assert made["properties"]["x"]["anyOf"] == [named, {"const": {"writeOnly": True}}]


PERSONAL_ARGUMENTS = {
    "mail.list": set[str](),
    "mail.read": set[str](),
    "mail.send": {"to/*", "subject", "body", "in_reply_to"},
    "orders.lookup": set[str](),
    "payments.refund": {"reason"},
    "http.request": {"url", "body"},
    "account.delete": {"customer"},
    "approval.read": set[str](),
    "approval.vote": {"reason"},
    "code.exec": {"code", "files/*"},
}


def test_each_tool_that_comes_along_says_what_of_it_is_personal() -> None:
    tools = [*TOOLS.values(), CODE_TOOL]
    assert {tool.name: {"/".join(path) for path in tool.personal} for tool in tools} == PERSONAL_ARGUMENTS


NO_PERSONS = {
    "mail.read": {"mail_id"},
    "orders.lookup": {"tenant", "order_id"},
    "payments.refund": {"order_id"},
    "http.request": set[str](),
    "approval.read": {"approval_id"},
    "approval.vote": {"approval_id", "binding"},
    "code.exec": {"packages"},
}
"""Texts of these tools that name a thing, and no person, and say nothing that somebody wrote."""


def test_a_text_that_is_not_marked_was_thought_about() -> None:
    for tool in [*TOOLS.values(), CODE_TOOL]:
        schema: Any = tool.schema()
        free = {path[0] for path in personal_in(marked(schema))} - {path[0] for path in tool.personal}
        assert free == NO_PERSONS.get(tool.name, set()), tool.name


def test_a_function_that_says_what_is_personal_is_called_only_where_its_definition_says_so_too() -> None:
    secret, plain = ({"type": "object", "properties": {"x": {**TEXT, **mark}}} for mark in ({PERSONAL: True}, {}))
    for taken, decided, same in (
        (secret, secret, True),
        (plain, secret, True),
        (plain, plain, True),
        (secret, plain, False),
    ):
        assert python_host._told(taken) == python_host._told(decided), "a mark says nothing of what is taken"
        assert python_host._keeps_marks(taken, decided) is same
