"""The real SDKs against a real server that misbehaves on order, on both wires."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from activities.model_call import call_model
from holdfast.errors import CredentialMissing, LeaseLost, RequestInvalid
from holdfast.providers.model import Delta, ModelOutcome, Wire

from .simulated import (
    API_KEY,
    KEY_FINGERPRINT,
    WIRES,
    Outward,
    Simulated,
    call,
    cut_off,
    ignore,
    request_for,
    script,
)

LONG = "the answer is long enough to be cut into quite a number of pieces on its way, and then some more"
pytestmark = pytest.mark.parametrize("wire", WIRES)


def facts(outcome: ModelOutcome) -> tuple[str | None, bool, str]:
    return outcome.error_code, outcome.retryable, outcome.cost


async def test_an_answer_with_reasoning_and_calls_comes_in_channels_and_whole(simulated: Simulated, wire: Wire) -> None:
    step = {
        "think": "what to do",
        "say": LONG,
        "tools": [
            {"tool": "mail.send", "arguments": {"to": "ü@example.com", "body": "x" * 100}},
            {"tool": "orders.read", "raw_arguments": "{oops"},
        ],
    }
    deltas: list[Delta] = []

    async def collect(delta: Delta) -> None:
        deltas.append(delta)

    outward = Outward()
    outcome = await call(simulated, request_for(wire, script(step)), on_delta=collect, outward=outward)
    assert outcome.ok
    assert (outcome.text, outcome.thinking, outcome.stop_reason) == (LONG, "what to do", "tool_use")
    assert [(c.tool, c.arguments) for c in outcome.tool_calls] == [
        ("mail.send", {"to": "ü@example.com", "body": "x" * 100}),
        ("orders.read", None),
    ]
    assert outcome.tool_calls[1].raw_arguments == "{oops"
    assert facts(outcome) == (None, False, "known")
    billed = simulated.calls()[0]
    assert outcome.usage is not None
    assert billed["usage"] == {
        "input_tokens": outcome.usage.total_input_tokens,
        "output_tokens": outcome.usage.output_tokens,
    }
    assert outcome.provider_request_id == "req_sim_000001"
    assert outcome.simulated
    joined = {channel: "".join(d.text for d in deltas if d.channel == channel) for channel in ("answer", "thinking")}
    assert joined == {"answer": LONG, "thinking": "what to do"}
    assert sum(d.channel == "answer" for d in deltas) > 3
    assert outcome.received_output_bytes >= len(LONG) + len("what to do")
    assert outward.asked == ["begin", "assert_live"]


async def test_a_conversation_with_results_goes_on(simulated: Simulated, wire: Wire) -> None:
    request = request_for(wire, script({"tool": "mail.send", "arguments": {"to": "a"}}, {"say": "sent"}))
    first = await call(simulated, request)
    request.entries.append(first.transcript_entry())
    request.entries.append(
        {
            "kind": "tool_result",
            "call_id": first.tool_calls[0].call_id,
            "tool": "mail.send",
            "ok": True,
            "content": "ok",
        }
    )
    second = await call(simulated, request)
    assert (second.ok, second.text, second.stop_reason) == (True, "sent", "end_turn")
    request.entries.append(second.transcript_entry())
    request.entries.append({"kind": "user", "text": "more?"})
    assert (await call(simulated, request)).text == "done"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (429, ("provider.rate_limited", True, "nothing")),
        (400, ("provider.refused", False, "nothing")),
        (401, ("provider.refused", False, "nothing")),
        (404, ("provider.refused", False, "nothing")),
        (409, ("provider.refused", True, "nothing")),
        (413, ("provider.refused", False, "nothing")),
        (408, ("provider.timeout", True, "unknown")),
        (500, ("provider.failed", True, "unknown")),
        (503, ("provider.failed", True, "unknown")),
        (529, ("provider.failed", True, "unknown")),
        (302, ("provider.failed", False, "unknown")),
    ],
)
async def test_each_status_says_what_it_cost_and_whether_to_try_again(
    simulated: Simulated, wire: Wire, status: int, expected: tuple[str, bool, str]
) -> None:
    simulated.fault("status", status=status, retry_after="1.5")
    outcome = await call(simulated, request_for(wire))
    assert facts(outcome) == expected
    assert not outcome.ok
    assert outcome.retry_after_ms == 1_500
    assert outcome.error_message == f"HTTP {status}: simulated: ordered status {status}"
    assert outcome.provider_request_id == "req_sim_000001"
    assert len(simulated.calls()) == 1  # the SDKs did not try again


@pytest.mark.parametrize(("header", "bounds_ms"), [("0", (0, 0)), ("-1", None), ("soon", None), ("nan", None)])
async def test_odd_waits_are_not_believed(
    simulated: Simulated, wire: Wire, header: str, bounds_ms: tuple[int, int] | None
) -> None:
    simulated.fault("status", status=429, retry_after=header)
    outcome = await call(simulated, request_for(wire))
    assert outcome.retry_after_ms == (None if bounds_ms is None else 0)


async def test_a_wait_can_be_a_date_and_is_bounded(simulated: Simulated, wire: Wire) -> None:
    simulated.fault("status", status=429, retry_after="Fri, 31 Dec 2100 23:59:59 GMT")
    assert (await call(simulated, request_for(wire))).retry_after_ms == 3_600_000
    simulated.fault("status", status=429, retry_after="Fri, 31 Dec 1999 23:59:59 GMT")
    assert (await call(simulated, request_for(wire))).retry_after_ms == 0
    simulated.fault("status", status=429, retry_after="9" * 40)
    assert (await call(simulated, request_for(wire))).retry_after_ms == 3_600_000


async def test_an_error_after_billing_has_an_unknown_cost(simulated: Simulated, wire: Wire) -> None:
    simulated.fault("error_after_billing")
    outcome = await call(simulated, request_for(wire))
    assert facts(outcome) == ("provider.failed", True, "unknown")
    assert simulated.calls()[0]["billed"]


async def test_an_error_inside_a_stream_keeps_what_came(simulated: Simulated, wire: Wire) -> None:
    simulated.fault("stream_error")
    outcome = await call(simulated, request_for(wire, script({"say": LONG})))
    assert facts(outcome) == ("provider.failed", True, "partial")
    assert 0 < len(outcome.text) < len(LONG)


async def test_a_cut_before_the_response_is_unknown(simulated: Simulated, wire: Wire) -> None:
    simulated.fault("cut", at="start")
    outcome = await call(simulated, request_for(wire))
    assert facts(outcome) == ("provider.cut", True, "unknown")
    assert outcome.received_output_bytes == 0


@pytest.mark.parametrize("at", ["middle", "end"])
async def test_a_cut_stream_is_partial_and_keeps_what_came(simulated: Simulated, wire: Wire, at: str) -> None:
    simulated.fault("cut", at=at)
    outcome = await call(simulated, request_for(wire, script({"say": LONG})))
    assert facts(outcome) == ("provider.cut", True, "partial")
    assert LONG.startswith(outcome.text)
    assert (outcome.text == LONG) == (at == "end")
    assert outcome.received_output_bytes == len(outcome.text)
    assert (outcome.usage is not None) == (wire == "anthropic")  # only one wire tells the input at the start


@pytest.mark.parametrize("form", ["bytes", "json", "html", "gzip", "not_http"])
async def test_rubbish_is_unknown(simulated: Simulated, wire: Wire, form: str) -> None:
    simulated.fault("rubbish", form=form)
    outcome = await call(simulated, request_for(wire, script({"say": LONG})))
    assert facts(outcome) == ("provider.rubbish", True, "unknown")
    assert not outcome.ok


async def test_a_line_without_end_is_not_read_to_its_end(simulated: Simulated, wire: Wire) -> None:
    simulated.fault("flood", size_bytes=50_000_000)
    outcome = await call(simulated, request_for(wire))
    assert facts(outcome) == ("provider.rubbish", True, "unknown")
    simulated.wait_for_state("disconnected")


async def test_an_answer_is_cut_at_max_tokens(simulated: Simulated, wire: Wire) -> None:
    outcome = await call(simulated, request_for(wire, script({"say": LONG}), max_tokens=16))
    assert (outcome.ok, outcome.stop_reason, outcome.cost) == (True, "max_tokens", "known")
    assert LONG.startswith(outcome.text)


async def test_what_the_sdk_will_not_send_provably_costs_nothing(simulated: Simulated, wire: Wire) -> None:
    outward = Outward()
    request = replace(request_for(wire), model="")
    request.entries.append({"kind": "tool_result", "call_id": "c", "tool": "t", "ok": True, "content": "\ud800"})
    outcome = await call(simulated, request, outward=outward)
    assert facts(outcome) == ("provider.refused", False, "nothing")
    assert outward.asked == []


async def test_the_deadline_ends_a_call_that_hangs(simulated: Simulated, wire: Wire) -> None:
    outcome = await cut_off(simulated, request_for(wire), "start")
    assert facts(outcome) == ("provider.timeout", True, "unknown")
    simulated.wait_for_state("disconnected")
    outcome = await cut_off(simulated, request_for(wire, script({"say": LONG})), "middle")
    assert facts(outcome) == ("provider.timeout", True, "partial")
    assert 0 < len(outcome.text) < len(LONG)
    simulated.wait_for_state("disconnected")


async def test_an_answer_without_usage_is_whole_but_its_cost_is_not_known_exactly(
    simulated: Simulated, wire: Wire
) -> None:
    simulated.fault("no_usage")
    outcome = await call(simulated, request_for(wire, script({"say": LONG})))
    assert (outcome.ok, outcome.text, outcome.usage) == (True, LONG, None)
    assert facts(outcome) == (None, False, "partial")


@pytest.mark.parametrize("count", [-5, 10**18, 0.5, "many", None])
async def test_absurd_usage_is_not_believed(simulated: Simulated, wire: Wire, count: object) -> None:
    names = ("input_tokens", "output_tokens", "prompt_tokens", "completion_tokens")
    simulated.fault("usage", usage=dict.fromkeys(names, count))
    outcome = await call(simulated, request_for(wire, script({"say": LONG})))
    assert (outcome.ok, outcome.usage, outcome.cost) == (True, None, "partial")
    assert outcome.received_output_bytes == len(LONG)


async def test_usage_beyond_max_tokens_is_kept_as_reported(simulated: Simulated, wire: Wire) -> None:
    simulated.fault("usage_factor", factor=4, of="max_tokens")
    outcome = await call(simulated, request_for(wire, max_tokens=300))
    assert outcome.usage is not None
    assert outcome.usage.output_tokens == 1_200
    assert outcome.cost == "known"


async def test_an_answer_that_stops_before_any_content_is_an_answer(simulated: Simulated, wire: Wire) -> None:
    simulated.fault("empty")
    outcome = await call(simulated, request_for(wire))
    assert (outcome.ok, outcome.text, outcome.tool_calls, outcome.cost) == (True, "", (), "known")


async def test_a_slow_stream_is_read_to_its_end(simulated: Simulated, wire: Wire) -> None:
    simulated.fault("slow", ms=5)
    assert (await call(simulated, request_for(wire, script({"say": LONG})))).text == LONG


async def test_cancelling_closes_the_stream_and_hands_over_what_came(simulated: Simulated, wire: Wire) -> None:
    simulated.fault("gate")
    partial: list[ModelOutcome] = []
    got_some = asyncio.Event()

    async def note(_delta: Delta) -> None:
        got_some.set()

    task = asyncio.create_task(
        call(simulated, request_for(wire, script({"say": LONG})), on_delta=note, on_partial=partial.append)
    )
    await got_some.wait()
    await asyncio.to_thread(simulated.wait_for_state, "waiting")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(simulated.wait_for_state, "disconnected")
    [outcome] = partial
    assert facts(outcome) == ("provider.cut", True, "partial")
    assert LONG.startswith(outcome.text)
    assert outcome.text


async def test_a_gate_lets_the_stream_go_on(simulated: Simulated, wire: Wire) -> None:
    simulated.fault("gate")
    task = asyncio.create_task(call(simulated, request_for(wire, script({"say": LONG}))))
    await asyncio.to_thread(simulated.wait_for_state, "waiting")
    assert not task.done()
    assert await asyncio.to_thread(simulated.release) == 1
    assert (await task).text == LONG


async def test_what_the_listener_raises_is_passed_on_after_the_partial_outcome(
    simulated: Simulated, wire: Wire
) -> None:
    partial: list[ModelOutcome] = []

    async def fail(_delta: Delta) -> None:
        raise ConnectionError("no stream to publish to")

    simulated.fault("hang", at="middle")
    with pytest.raises(ConnectionError):
        await call(simulated, request_for(wire), on_delta=fail, on_partial=partial.append)
    assert [outcome.cost for outcome in partial] == ["partial"]


@pytest.mark.parametrize("lost", [{"lost_at_begin": True}, {"lost_at_write": True}])
async def test_a_lost_lease_lets_no_byte_out(simulated: Simulated, wire: Wire, lost: dict[str, bool]) -> None:
    outward = Outward(**lost)
    partial: list[ModelOutcome] = []
    with pytest.raises(LeaseLost):
        await call(simulated, request_for(wire), outward=outward, on_partial=partial.append)
    assert outward.asked == (["begin"] if "lost_at_begin" in lost else ["begin", "assert_live"])
    assert simulated.calls() == []
    assert partial == []


async def test_nothing_leaves_but_what_is_named_whatever_the_environment_says(
    simulated: Simulated, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = {
        "ANTHROPIC_API_KEY": "ambient",
        "ANTHROPIC_AUTH_TOKEN": "ambient",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
        "ANTHROPIC_CUSTOM_HEADERS": "x-api-key: ambient\nx-leak: 1",
        "OPENAI_API_KEY": "ambient",
        "OPENAI_ADMIN_KEY": "ambient",
        "OPENAI_BASE_URL": "http://127.0.0.1:9",
        "OPENAI_ORG_ID": "ambient",
        "OPENAI_PROJECT_ID": "ambient",
        "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer ambient\nx-leak: 1",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
        "SSL_CERT_FILE": "/nowhere",
    }
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    assert (await call(simulated, request_for(wire))).ok
    [received] = simulated.calls()
    assert received["key_fingerprint"] == KEY_FINGERPRINT
    assert received["idempotency_key"] == "acme:run-1:3"
    allowed = {
        *("accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent"),
        *("idempotency-key", "authorization", "anthropic-version"),
    }
    assert set(received["header_names"]) <= allowed


@pytest.mark.parametrize(
    "credential",
    [
        {},
        {"api_key": ""},
        {"api_key": "two\nlines"},
        {"api_key": "käse"},
        {"api_key": 7},
        {"api_key": API_KEY, "base_url": "ftp://example.com"},
        {"api_key": API_KEY, "base_url": "http://127.0.0.1:99999"},
        {"api_key": API_KEY, "base_url": "https://"},
        {"api_key": API_KEY, "extra": 1},
    ],
)
async def test_a_malformed_credential_is_named_without_being_shown(wire: Wire, credential: dict[str, Any]) -> None:
    outward = Outward()
    with pytest.raises(CredentialMissing) as caught:
        await call_model(request_for(wire), credential, "k", outward, ignore, 1_000)
    assert outward.asked == []
    for value in credential.values():
        assert not value or str(value) not in str(caught.value)


async def test_what_has_no_form_on_the_wire_is_refused_before_the_lease_is_begun(
    simulated: Simulated, wire: Wire
) -> None:
    outward = Outward()
    with pytest.raises(RequestInvalid):
        await call(simulated, request_for(wire, " "), outward=outward)
    assert outward.asked == []
