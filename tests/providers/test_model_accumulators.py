"""Feeds accumulators what the SDKs make of hostile bytes: objects that were never validated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic import _models as anthropic_models
from anthropic.types import RawMessageStreamEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import _models as openai_models
from openai.types.chat import ChatCompletionChunk

from holdfast.providers import answer as bounds
from holdfast.providers.answer import Failure, RubbishError
from holdfast.providers.anthropic import AnthropicAccumulator
from holdfast.providers.model import Delta, ModelOutcome
from holdfast.providers.openai import OpenAIAccumulator
from holdfast_verdict.canonical import canonical_bytes

unhurried = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # a busy machine is no failure
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BLOCK = {
    "type": st.sampled_from(["text", "thinking", "tool_use", "text_delta", "thinking_delta", "input_json_delta"])
    | JSON,
    "text": JSON,
    "thinking": JSON,
    "partial_json": JSON,
    "id": JSON,
    "name": JSON,
    "stop_reason": JSON,
}
USAGE = dict.fromkeys(("input_tokens", "output_tokens", "cache_read_input_tokens", "prompt_tokens"), JSON)
EVENT = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop", "new_one"]
        )
        | JSON
    },
    optional={
        "index": JSON,
        "message": st.fixed_dictionaries({}, optional={"id": JSON, "usage": st.fixed_dictionaries({}, optional=USAGE)}),
        "content_block": st.fixed_dictionaries({}, optional=BLOCK) | JSON,
        "delta": st.fixed_dictionaries({}, optional=BLOCK) | JSON,
        "usage": st.fixed_dictionaries({}, optional=USAGE) | JSON,
    },
)
CALL_DELTA = st.fixed_dictionaries(
    {},
    optional={
        "index": JSON,
        "id": JSON,
        "function": st.fixed_dictionaries({}, optional={"name": JSON, "arguments": JSON}) | JSON,
    },
)
CHUNK = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "choices": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "index": st.just(0) | JSON,
                    "delta": st.fixed_dictionaries(
                        {}, optional={"content": JSON, "refusal": JSON, "tool_calls": st.lists(CALL_DELTA) | JSON}
                    ),
                    "finish_reason": JSON,
                },
            )
            | JSON,
            max_size=2,
        )
        | JSON,
        "usage": st.fixed_dictionaries({}, optional={"prompt_tokens": JSON, "completion_tokens": JSON}) | JSON,
    },
)


def typed_event(value: object) -> Any:
    """Builds the typed event as the SDK does: without validation, and whatever comes out."""
    return anthropic_models.construct_type(type_=RawMessageStreamEvent, value=value)


def typed_chunk(value: object) -> Any:
    """Builds the typed chunk as the SDK does: without validation, and whatever comes out."""
    return openai_models.construct_type(type_=ChatCompletionChunk, value=value)


def untyped(value: object) -> Any:
    """Leaves the plain JSON, as the SDKs do where they know no type."""
    return value


def check(outcome: ModelOutcome) -> None:
    canonical_bytes(outcome.to_json())
    assert "\x00" not in outcome.text + outcome.thinking
    assert outcome.received_output_bytes >= len(outcome.text.encode())
    if outcome.usage is not None:
        assert outcome.usage.total_input_tokens > 0
        assert min(outcome.usage.input_tokens, outcome.usage.output_tokens) >= 0


@unhurried
@given(st.lists(EVENT, max_size=6))
def test_no_event_of_the_messages_wire_does_worse_than_rubbish(events: list[dict[str, Any]]) -> None:
    for build in (untyped, typed_event):
        accumulator = AnthropicAccumulator()
        for event in events:
            try:
                accumulator.feed(build(event))
            except RubbishError:
                break
        check(accumulator.outcome(None, None, simulated=True))


@unhurried
@given(st.lists(CHUNK, max_size=6))
def test_no_chunk_of_the_completions_wire_does_worse_than_rubbish(chunks: list[dict[str, Any]]) -> None:
    for build in (untyped, typed_chunk):
        accumulator = OpenAIAccumulator()
        for chunk in chunks:
            try:
                accumulator.feed(build(chunk))
            except RubbishError:
                break
        check(accumulator.outcome(None, None, simulated=True))


def start(usage: object) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_1", "usage": usage}}


def end(usage: object, reason: str = "end_turn") -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def text(value: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": value}}


def outcome_of(*events: Any) -> ModelOutcome:
    accumulator = AnthropicAccumulator()
    for event in events:
        accumulator.feed(event)
    return accumulator.outcome(None, None, simulated=False)


def completion(**delta: object) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def finished(reason: str, usage: object) -> list[Any]:
    return [
        {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
        {"id": "c", "choices": [], "usage": usage},
    ]


def completion_of(*chunks: Any, surcharge_percent: int = 0) -> ModelOutcome:
    accumulator = OpenAIAccumulator(surcharge_percent)
    for chunk in chunks:
        accumulator.feed(chunk)
    return accumulator.outcome(None, None, simulated=False)


def test_a_later_count_never_lowers_an_earlier_one() -> None:
    usage = outcome_of(
        start({"input_tokens": 100, "output_tokens": 5, "cache_read_input_tokens": 7}),
        end({"input_tokens": 1, "output_tokens": 3}),
    ).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (100, 5, 7)


@pytest.mark.parametrize("absurd", [-1, 10**15, 1.5, "12", True, [], {}])
def test_an_absurd_count_is_no_count(absurd: object) -> None:
    good = start({"input_tokens": 10, "output_tokens": 1})
    partial = outcome_of(good, text("x"), end({"output_tokens": absurd}))
    assert (partial.ok, partial.cost) == (True, "partial")
    assert partial.usage is not None
    none = outcome_of(start({"input_tokens": absurd}), text("x"), end({"output_tokens": 4}))
    assert (none.ok, none.cost, none.usage) == (True, "partial", None)
    other = completion_of(*finished("stop", {"prompt_tokens": absurd, "completion_tokens": 1}))
    assert (other.cost, other.usage) == ("partial", None)
    other = completion_of(*finished("stop", {"prompt_tokens": 1, "completion_tokens": absurd}))
    assert (other.cost, other.usage) == ("partial", None)


def test_inference_kept_in_a_region_is_dearer() -> None:
    events = [start({"input_tokens": 10, "inference_geo": "us"}), end({"output_tokens": 4})]
    usage = outcome_of(*events).usage
    assert usage is not None
    assert usage.surcharge_percent == 10
    usage = outcome_of(start({"input_tokens": 10, "inference_geo": "global"}), end({"output_tokens": 4})).usage
    assert usage is not None
    assert usage.surcharge_percent == 0
    counted = finished("stop", {"prompt_tokens": 5, "completion_tokens": 1})
    usage = completion_of(*counted, surcharge_percent=10).usage
    assert usage is not None
    assert usage.surcharge_percent == 10


def test_what_a_cache_held_is_part_of_the_prompt_on_the_completions_wire() -> None:
    details = {"cached_tokens": 60, "cache_write_tokens": 30}
    usage = completion_of(
        *finished("stop", {"prompt_tokens": 100, "completion_tokens": 1, "prompt_tokens_details": details})
    ).usage
    assert usage is not None
    assert (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens) == (10, 60, 30)
    lie = {"cached_tokens": 10_000, "cache_write_tokens": 30}
    usage = completion_of(
        *finished("stop", {"prompt_tokens": 100, "completion_tokens": 1, "prompt_tokens_details": lie})
    ).usage
    assert usage is not None
    assert usage.total_input_tokens == 100


def test_missing_or_repeated_call_ids_are_replaced_by_distinct_ones() -> None:
    calls = [
        {"index": n, "id": i, "function": {"name": "mail__send"}} for n, i in enumerate(["call_2", "", "call_2", "ü"])
    ]
    outcome = completion_of(completion(tool_calls=calls), *finished("tool_calls", None))
    ids = [call.call_id for call in outcome.tool_calls]
    assert ids[0] == "call_2"
    assert len(set(ids)) == 4
    assert {call.tool for call in outcome.tool_calls} == {"mail.send"}


def test_a_call_cut_off_by_max_tokens_has_no_arguments() -> None:
    opened = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "tool_use", "id": "a", "name": "pay"},
    }
    cut = outcome_of(start({"input_tokens": 1}), opened, end({"output_tokens": 1}, "max_tokens"))
    assert [call.arguments for call in cut.tool_calls] == [None]
    whole = outcome_of(start({"input_tokens": 1}), opened, end({"output_tokens": 1}, "tool_use"))
    assert [call.arguments for call in whole.tool_calls] == [{}]
    assert [call.arguments for call in outcome_of(start({"input_tokens": 1}), opened).tool_calls] == [None]


def test_calls_and_reasoning_have_channels_of_their_own() -> None:
    accumulator = OpenAIAccumulator()
    call = {"index": 0, "id": "c", "function": {"name": "mail__send", "arguments": "{}"}}
    deltas = [
        *accumulator.feed(untyped(completion(reasoning_content="hm", content="so"))),
        *accumulator.feed(untyped(completion(tool_calls=[call]))),
    ]
    assert deltas == [Delta("thinking", "hm"), Delta("answer", "so"), Delta("tool", "mail.send "), Delta("tool", "{}")]


def test_characters_that_cannot_be_stored_are_replaced() -> None:
    outcome = outcome_of(start({"input_tokens": 1}), text("a\x00b\ud800c"), end({"output_tokens": 1}))
    assert "\x00" not in outcome.text
    assert outcome.text.startswith("a\ufffdb\ufffd")
    json.dumps(outcome.to_json(), ensure_ascii=False).encode()


def test_every_part_of_an_answer_is_bounded() -> None:
    with pytest.raises(RubbishError, match="bytes"):
        outcome_of(*[text("x" * 500_000)] * (bounds.TEXT_BYTES_MAX // 500_000 + 1))
    with pytest.raises(RubbishError, match="tool calls"):
        completion_of(
            *[
                completion(tool_calls=[{"index": n, "function": {"name": "x"}}])
                for n in range(bounds.TOOL_CALLS_MAX + 1)
            ]
        )
    with pytest.raises(RubbishError, match="arguments"):
        completion_of(
            completion(tool_calls=[{"index": 0, "function": {"name": "x"}}]),
            completion(tool_calls=[{"index": 0, "function": {"arguments": "y" * (bounds.ARGUMENTS_BYTES_MAX + 1)}}]),
        )
    long = outcome_of(start({"input_tokens": 1}), end({"output_tokens": 1}, "r" * 1_000))
    assert long.stop_reason is not None
    assert len(long.stop_reason) <= 64
    failed = AnthropicAccumulator().outcome(
        Failure("provider.failed", "m" * 10_000, retryable=True), "i" * 1_000, simulated=False
    )
    assert failed.error_message is not None
    assert len(failed.error_message) <= bounds.MESSAGE_CHARS_MAX
    assert failed.provider_request_id is not None
    assert len(failed.provider_request_id) <= bounds.NAME_CHARS_MAX
