from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.errors import RequestInvalid
from holdfast.providers import anthropic, openai
from holdfast.providers.model import (
    ModelOutcome,
    ModelRequest,
    ToolCall,
    ToolSpec,
    Usage,
    Wire,
    echoed_tool_name,
    parse_arguments,
    tool_name_from_wire,
    wire_tool_name,
)
from holdfast_verdict.canonical import canonical_bytes

from .simulated import MAIL, WIRES

unhurried = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # a busy machine is no failure
CALL = {"call_id": "c1", "tool": "mail.send", "arguments": {"to": "é"}, "raw_arguments": '{"to":"é"}'}
BROKEN_CALL = {"call_id": "c2", "tool": "no such tool", "arguments": None, "raw_arguments": "{oops"}
ENTRIES: list[dict[str, Any]] = [
    {"kind": "user", "text": "go"},
    {"kind": "assistant", "text": "", "thinking": "hm", "tool_calls": [CALL, BROKEN_CALL], "stop_reason": "tool_use"},
    {"kind": "tool_result", "call_id": "c1", "tool": "mail.send", "ok": True, "content": "sent"},
    {"kind": "tool_result", "call_id": "c2", "tool": "no such tool", "ok": False, "content": "no such tool"},
    {"kind": "user", "text": "and now?"},
    {"kind": "assistant", "text": " ", "thinking": "", "tool_calls": [], "stop_reason": "end_turn"},
    {"kind": "user", "text": "hello?"},
]
ARGUMENTS = {"anthropic": anthropic.request_arguments, "openai": openai.request_arguments}


def request(wire: Wire, entries: list[dict[str, Any]], **changes: Any) -> ModelRequest:
    members = {"model": "m", "max_tokens": 10, "system": "", "tools": [], **changes}
    return ModelRequest(wire=wire, entries=entries, **members)


def test_messages_wire_joins_neighbours_of_one_role_and_keeps_every_result_in_the_next_message() -> None:
    arguments = anthropic.request_arguments(request("anthropic", ENTRIES, system="be brief", tools=[MAIL]))
    assert [message["role"] for message in arguments["messages"]] == ["user", "assistant", "user"]
    assert arguments["messages"][1]["content"] == [
        {"type": "tool_use", "id": "c1", "name": "mail__send", "input": {"to": "é"}},
        {"type": "tool_use", "id": "c2", "name": "no_such_tool", "input": {"invalid_arguments": "{oops"}},
    ]
    last = arguments["messages"][2]["content"]
    assert [block["type"] for block in last] == ["tool_result", "tool_result", "text", "text"]
    assert [block.get("is_error") for block in last[:2]] == [False, True]
    assert arguments["system"] == "be brief"
    assert arguments["tools"] == [{"name": "mail__send", "description": "sends mail", "input_schema": MAIL.parameters}]
    assert (arguments["max_tokens"], arguments["service_tier"]) == (10, "standard_only")


def test_completions_wire_sends_calls_as_functions_and_results_as_tool_messages() -> None:
    arguments = openai.request_arguments(request("openai", ENTRIES, system="be brief", tools=[MAIL]))
    roles = [message["role"] for message in arguments["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "tool", "user", "user"]
    calls = arguments["messages"][2]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["mail__send", "no_such_tool"]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [
        {"to": "é"},
        {"invalid_arguments": "{oops"},
    ]
    assert arguments["max_completion_tokens"] == 10
    assert arguments["service_tier"] == "default"
    assert arguments["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"kind": "image", "data": "…"}],
        [{"text": "no kind"}],
        [{"kind": "user", "text": " \n"}],
        [{"kind": "user"}],
        [{"kind": "assistant", "text": "x", "tool_calls": "none"}],
        [{"kind": "assistant", "text": "x", "tool_calls": [{"tool": "mail.send"}]}],
        [{"kind": "assistant", "text": "x", "tool_calls": [{"call_id": "c1"}]}],
        [{"kind": "tool_result", "call_id": "c1", "tool": "mail.send", "ok": True}],
    ],
)
def test_what_has_no_translation_is_an_error(wire: Wire, entries: list[dict[str, Any]]) -> None:
    with pytest.raises(RequestInvalid):
        ARGUMENTS[wire](request(wire, entries))


@pytest.mark.parametrize(
    "name", ["", "mail..send", ".mail", "mail__send", "mail._send", "mail_.send", "a b", "é", "x" * 65]
)
def test_tool_names_that_would_not_come_back_are_refused(name: str) -> None:
    with pytest.raises(RequestInvalid):
        wire_tool_name(name)
    with pytest.raises(RequestInvalid):
        anthropic.request_arguments(
            request("anthropic", [{"kind": "user", "text": "x"}], tools=[ToolSpec(name, "", {})])
        )


@unhurried
@given(
    st.from_regex(r"[a-z0-9-]{1,5}(_[a-z0-9-]{1,5}){0,2}(\.[a-z0-9-]{1,5}(_[a-z0-9-]{1,5}){0,2}){0,2}", fullmatch=True)
)
def test_every_tool_name_comes_back_from_the_wire(name: str) -> None:
    assert tool_name_from_wire(wire_tool_name(name)) == name


@unhurried
@given(st.text())
def test_any_made_up_name_has_a_form_that_providers_take(name: str) -> None:
    echoed = echoed_tool_name(name)
    assert 1 <= len(echoed) <= 64
    assert all(character.isascii() and (character.isalnum() or character in "_-") for character in echoed)


@pytest.mark.parametrize(
    ("raw", "arguments"),
    [
        ("", {}),
        ("{}", {}),
        (' {"a": [1, "x", null, true]} ', {"a": [1, "x", None, True]}),
        ('{"path": "C:\\\\u0000"}', {"path": "C:\\u0000"}),
    ],
)
def test_arguments_that_are_an_object_are_read(raw: str, arguments: dict[str, Any]) -> None:
    assert parse_arguments(raw) == (arguments, None)


@pytest.mark.parametrize(
    "raw",
    [
        "{oops",
        "[1]",
        '"text"',
        "null",
        '{"a": NaN}',
        '{"a": 0.1}',
        '{"a": 9007199254740993}',
        '{"é": 1}',
        '{"a": "\\ud800"}',
        '{"a": "\\u0000"}',
        '{"a": "\\\\\\u0000"}',
        '{"a":' * 70 + "1" + "}" * 70,
        "[" * 200_000,
        '{"a": ' + "9" * 5_000 + "}",
    ],
)
def test_arguments_without_a_canonical_form_are_no_arguments_and_say_why(raw: str) -> None:
    arguments, problem = parse_arguments(raw)
    assert arguments is None
    assert problem is not None
    assert problem.startswith("the arguments")


@unhurried
@given(st.text())
def test_arguments_from_any_text_are_canonical_or_refused(raw: str) -> None:
    arguments, problem = parse_arguments(raw)
    assert (arguments is None) == (problem is not None)
    if arguments is not None:
        canonical_bytes(arguments)


def test_an_outcome_has_a_canonical_form_and_comes_back_from_it() -> None:
    calls = (ToolCall("c1", "mail.send", {"to": "é"}, '{"to":"é"}'), ToolCall("c2", "x", None, "{oops"))
    outcome = ModelOutcome(
        ok=False,
        text="ü",
        thinking="",
        tool_calls=calls,
        stop_reason=None,
        usage=Usage(1, 2, 3, 4, 10),
        provider_request_id="req",
        error_code="provider.cut",
        error_message="lost",
        retryable=True,
        retry_after_ms=5,
        cost="partial",
        received_output_bytes=7,
        simulated=True,
    )
    stored = json.loads(canonical_bytes(outcome.to_json()))
    assert ModelOutcome.from_json(stored) == outcome
    assert outcome.transcript_entry()["tool_calls"] == [call.to_json() for call in calls]
