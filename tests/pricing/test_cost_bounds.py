"""No usage within a call's bounds may cost more than its estimate; tried with whatever Hypothesis can think of."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.errors import RequestInvalid
from holdfast.pricing.actual import (
    BLOCK_OVERHEAD_TOKENS,
    BYTES_PER_TOKEN_MAX,
    TokenCount,
    actual_llm_cost,
    actual_llm_tokens,
    worst_llm_tokens,
)
from holdfast.pricing.bounds import input_tokens_bound, json_tokens_bound, text_tokens_bound
from holdfast.pricing.estimate import Estimate, estimate_llm
from holdfast.pricing.headroom import Headroom, affordable_max_tokens, fitted
from holdfast.pricing.prices import LongContextRates, Price, Rates, price_of
from holdfast.providers.model import Cost, ModelOutcome, ModelRequest, ToolCall, ToolSpec, Usage
from holdfast_verdict.canonical import canonical_bytes

unhurried = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # a busy machine is no failure
NOW = datetime(2026, 11, 22, tzinfo=UTC)
RATE = st.integers(0, 10**12)
WINDOWS = [1, 500, 100_000, 200_000]

TEXTS = st.one_of(
    st.text(max_size=60),
    st.text("😀👩‍👩‍👧‍👦🏳️‍🌈", max_size=40),
    st.text("漢字仮名交じり文", max_size=40),
    st.text("\ufdfa\u0390ﷺﬃ①½", max_size=40),
    st.binary(max_size=80).map(lambda data: base64.b64encode(data).decode()),
    st.text('\x00\x01"\\\n\t ', max_size=40),
)
SCHEMAS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
TOOLS = st.builds(ToolSpec, st.just("mail.send"), TEXTS, st.dictionaries(TEXTS, SCHEMAS, max_size=5))


@st.composite
def rates(draw: st.DrawFn) -> dict[str, Any]:  # given to constructors with members of several types
    return {name: draw(RATE) for name in Rates.__dataclass_fields__}


@st.composite
def prices(draw: st.DrawFn) -> Price:
    starts = sorted(set(draw(st.lists(st.sampled_from(WINDOWS), max_size=2))))
    return Price(
        **draw(rates()),
        model="m",
        long_context=tuple(LongContextRates(**draw(rates()), above_input_tokens=start) for start in starts),
        surcharge_percent_max=draw(st.integers(0, 25)),
        max_output_tokens=draw(st.none() | st.integers(1, 200_000)),
        hides_reasoning=draw(st.booleans()),
        source="a test",
    )


@st.composite
def entries(draw: st.DrawFn) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"kind": "user", "text": draw(TEXTS)}]
    for _ in range(draw(st.integers(0, 3))):
        call = {"call_id": "c", "tool": draw(TEXTS), "arguments": draw(SCHEMAS), "raw_arguments": draw(TEXTS)}
        made.append({"kind": "assistant", "text": draw(TEXTS), "thinking": "", "tool_calls": [call]})
        made.append({"kind": "tool_result", "call_id": "c", "tool": "x", "ok": True, "content": draw(TEXTS)})
    return made


REQUESTS = st.builds(
    ModelRequest,
    st.sampled_from(["anthropic", "openai"]),
    st.just("m"),
    st.integers(1, 200_000),
    TEXTS,
    entries(),
    st.lists(TOOLS, max_size=3),
)


def outcome(usage: Usage | None, cost: Cost, received_output_bytes: int, calls: int = 0) -> ModelOutcome:
    return ModelOutcome(
        ok=cost == "known",
        text="",
        thinking="",
        tool_calls=tuple(ToolCall(f"c{n}", "x", {}, "") for n in range(calls)),
        stop_reason=None,
        usage=usage,
        provider_request_id=None,
        error_code=None,
        error_message=None,
        retryable=False,
        retry_after_ms=None,
        cost=cost,
        received_output_bytes=received_output_bytes,
        simulated=True,
    )


@st.composite
def usage_within(draw: st.DrawFn, estimate: Estimate) -> Usage:
    total = draw(st.integers(0, estimate.input_tokens_bound))
    read = draw(st.integers(0, total))
    written = draw(st.integers(0, total - read))
    output = draw(st.integers(0, estimate.output_tokens_bound))
    return Usage(total - read - written, output, read, written, draw(st.integers(0, 100)))


@unhurried
@given(REQUESTS, prices(), st.data())
def test_no_usage_within_the_bounds_costs_more_than_the_estimate(
    request: ModelRequest, price: Price, data: st.DataObject
) -> None:
    estimate = estimate_llm(request, price)
    usage = data.draw(usage_within(estimate))
    received = data.draw(st.integers(0, BYTES_PER_TOKEN_MAX * request.max_tokens))
    for cost in ("known", "partial"):
        result = outcome(usage, cost, received)
        actual, tokens = actual_llm_cost(result, estimate), actual_llm_tokens(result, estimate)
        assert actual is not None
        assert tokens is not None
        assert 0 <= actual <= estimate.max_cost_nano_usd
        assert 0 <= tokens.cached_tokens <= tokens.input_tokens <= estimate.input_tokens_bound
        assert 0 <= tokens.output_tokens <= estimate.output_tokens_bound
        assert type(actual) is int
        assert actual >= price.cost_nano_usd(usage)  # what was reported is never counted for less


@unhurried
@given(REQUESTS, prices(), st.integers(0, 10**7), st.integers(0, 64))
def test_a_stream_without_any_usage_costs_the_hold_at_worst(
    request: ModelRequest, price: Price, received: int, calls: int
) -> None:
    estimate = estimate_llm(request, price)
    actual = actual_llm_cost(outcome(None, "partial", received, calls), estimate)
    assert actual is not None
    assert 0 <= actual <= estimate.max_cost_nano_usd
    if price.hides_reasoning:
        assert actual == estimate.max_cost_nano_usd
    more = actual_llm_cost(outcome(None, "partial", received + 1_000, calls), estimate)
    assert more is not None
    assert more >= actual


@unhurried
@given(REQUESTS, prices(), st.integers(1, 100))
def test_what_is_reported_beyond_the_hold_is_counted_in_full(request: ModelRequest, price: Price, factor: int) -> None:
    estimate = estimate_llm(request, price)
    usage = Usage(estimate.input_tokens_bound * factor, estimate.output_tokens_bound * factor)
    for cost in ("known", "partial"):
        actual = actual_llm_cost(outcome(usage, cost, 0), estimate)
        assert actual is not None
        assert actual >= price.cost_nano_usd(usage)


def test_nothing_costs_nothing_and_unknown_is_not_guessed() -> None:
    price = price_of("anthropic", "claude-haiku-4-5", NOW)
    estimate = estimate_llm(ModelRequest("anthropic", "m", 100, "", [{"kind": "user", "text": "x"}], []), price)
    for cost, expected, tokens in (("nothing", 0, TokenCount()), ("unknown", None, None)):
        result = outcome(Usage(5, 5), cost, 10)  # type: ignore[arg-type]  # the pairs' first members are costs
        assert actual_llm_cost(result, estimate) == expected
        assert actual_llm_tokens(result, estimate) == tokens


def test_a_count_of_output_is_not_believed_below_what_was_received() -> None:
    price = price_of("anthropic", "claude-haiku-4-5", NOW)
    estimate = estimate_llm(ModelRequest("anthropic", "m", 1_000, "", [{"kind": "user", "text": "x"}], []), price)
    lie = outcome(Usage(10, 0), "known", 1_280)
    assert actual_llm_cost(lie, estimate) == price.cost_nano_usd(Usage(10, 10))
    assert actual_llm_tokens(lie, estimate) == TokenCount(10, 0, 10)


def test_tokens_are_told_apart_by_what_went_in_what_was_cached_and_what_came_out() -> None:
    price = price_of("anthropic", "claude-haiku-4-5", NOW)
    estimate = estimate_llm(ModelRequest("anthropic", "m", 1_000, "", [{"kind": "user", "text": "x"}], []), price)
    told = outcome(Usage(10, 7, cache_read_tokens=100, cache_write_tokens=3), "known", 5)
    tokens = actual_llm_tokens(told, estimate)
    assert tokens == TokenCount(113, 100, 7)
    assert tokens.total == 120
    cut = actual_llm_tokens(outcome(None, "partial", 30), estimate)
    assert cut == TokenCount(estimate.input_tokens_bound, 0, 30 + BLOCK_OVERHEAD_TOKENS)
    assert worst_llm_tokens(estimate) == TokenCount(estimate.input_tokens_bound, 0, 1_000)


@unhurried
@given(REQUESTS, prices(), st.data())
def test_more_of_anything_never_costs_less(request: ModelRequest, price: Price, data: st.DataObject) -> None:
    estimate = estimate_llm(request, price)
    assert estimate_llm(replace(request, max_tokens=request.max_tokens + 1), price).max_cost_nano_usd >= (
        estimate.max_cost_nano_usd
    )
    extra: dict[str, Any] = {"kind": "user", "text": data.draw(TEXTS)}
    longer = estimate_llm(replace(request, entries=[*request.entries, extra]), price)
    assert longer.max_cost_nano_usd >= estimate.max_cost_nano_usd
    assert longer.input_tokens_bound > estimate.input_tokens_bound
    tool = data.draw(TOOLS)
    assert input_tokens_bound(replace(request, tools=[*request.tools, tool])) > estimate.input_tokens_bound


@unhurried
@given(REQUESTS, prices())
def test_an_estimate_has_a_canonical_form_and_comes_back_from_it(request: ModelRequest, price: Price) -> None:
    estimate = estimate_llm(request, price)
    small = replace(estimate, max_cost_nano_usd=min(estimate.max_cost_nano_usd, 2**53 - 1))
    assert Estimate.from_json(json.loads(canonical_bytes(small.to_json()))) == small


@unhurried
@given(TEXTS)
def test_the_bound_covers_a_tokenizer_that_makes_a_token_of_every_byte(text: str) -> None:
    assert text_tokens_bound(text) >= len(text.encode())
    escaped = json.dumps(text)
    assert json_tokens_bound(text) >= 2 * len(escaped)


@unhurried
@given(REQUESTS)
def test_the_bound_covers_all_that_the_wire_carries(request: ModelRequest) -> None:
    """A tokenizer of one token a byte, over every string that the request holds and the tools' whole JSON."""
    size = len(request.system.encode())
    for entry in request.entries:
        for name in ("text", "content"):
            size += len(str(entry.get(name, "")).encode())
        for call in entry.get("tool_calls", []):  # type: ignore[union-attr]  # made above as a list of calls
            size += len(json.dumps(call["arguments"]).encode())  # type: ignore[index, call-overload]  # the same
    for tool in request.tools:
        size += len(json.dumps(tool.parameters).encode()) + len(tool.description.encode())
    assert input_tokens_bound(request) >= size


def test_a_huge_schema_is_bounded_quickly_and_by_its_size() -> None:
    properties: dict[str, Any] = {f"p{n}": {"type": "string", "enum": ["漢字"] * 50} for n in range(1_000)}
    tool = ToolSpec("big.tool", "x" * 10_000, {"type": "object", "properties": properties})
    request = ModelRequest("openai", "m", 1, "", [{"kind": "user", "text": "x"}], [tool])
    assert input_tokens_bound(request) > len(json.dumps(properties, ensure_ascii=False).encode())


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_an_output_of_nothing_is_not_estimated(max_tokens: int) -> None:
    price = price_of("anthropic", "claude-haiku-4-5", NOW)
    with pytest.raises(RequestInvalid):
        estimate_llm(ModelRequest("anthropic", "m", max_tokens, "", [{"kind": "user", "text": "x"}], []), price)


@unhurried
@given(REQUESTS, prices(), st.integers(-(10**6), 10**16), st.none() | st.integers(-10, 10**6))
def test_what_is_called_affordable_is_and_is_useful_and_leaves_something(
    request: ModelRequest, price: Price, available_nano_usd: int, available_tokens: int | None
) -> None:
    headroom = Headroom(available_nano_usd, available_tokens)
    given_tokens = affordable_max_tokens(input_tokens_bound(request), price, headroom)
    least = estimate_llm(replace(request, max_tokens=256), price)
    affords_least = least.max_cost_nano_usd <= max(available_nano_usd, 0) and (
        available_tokens is None or least.max_tokens_total <= available_tokens
    )
    assert (given_tokens is not None) == affords_least
    fit = fitted(request, price, headroom, None)
    assert fit.output_tokens_bound == (given_tokens or min(256, price.max_output_tokens or 256))
    if given_tokens is None:
        assert not headroom.covers(replace(fit, max_cost_nano_usd=least.max_cost_nano_usd))
        return
    assert headroom.covers(fit)
    assert given_tokens <= 4_096
    assert given_tokens >= min(256, price.max_output_tokens or 256)
    taken = estimate_llm(replace(request, max_tokens=given_tokens), price)
    assert taken.max_cost_nano_usd <= available_nano_usd
    if given_tokens > 256:
        twice = estimate_llm(replace(request, max_tokens=2 * given_tokens), price)
        assert twice.max_cost_nano_usd <= available_nano_usd


def test_without_caps_in_the_way_the_default_is_given() -> None:
    price = price_of("anthropic", "claude-haiku-4-5", NOW)
    assert affordable_max_tokens(100, price, Headroom()) == 4_096
    assert affordable_max_tokens(100, price, Headroom(), default=512) == 512
    assert affordable_max_tokens(100, replace(price, max_output_tokens=100), Headroom()) == 100
