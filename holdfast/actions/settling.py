"""Judging a hold by what is recorded of it: where it goes next, what it cost, what the model is shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import orjson

from holdfast.contracts.gate import ProposedCall
from holdfast.ledger.types import (
    CACHED_TOKENS,
    CALLS,
    INPUT_TOKENS,
    NANO_USD,
    SETTLED_STATES,
    TOKENS,
    HoldView,
    OutcomeView,
)
from holdfast.pricing.actual import TokenCount, actual_llm_cost, actual_llm_tokens, worst_llm_tokens
from holdfast.pricing.code import CodeEstimate
from holdfast.pricing.estimate import Estimate
from holdfast.providers.model import ModelOutcome
from holdfast_verdict.canonical import JsonValue, canonical_bytes

TIMELINE_TEXT_LENGTH_MAX = 4_000
NOT_DONE = "not done: "
"""How the sentence begins that tells a model of a call that was not made."""

_TOOL_NAME_LENGTH_MAX = 128
_CONFIRMED = "a person looked and confirmed that this happened; its answer is lost"
_NEVER_KNOWN = "nobody found out in time whether this happened"
_UNREADABLE = "outcome.unreadable"
_CODE_SHOWN = ("exit_status", "killed", "used", "files", "refused", "called", "receipt")
"""What the timeline shows of a run of code beside what it printed."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What follows from a hold as it stands.

    Attributes:
        to: The state it goes to; `None` if it stays where it is.
        actual: What it cost by unit.
        reason: Why, for the journal.
    """

    to: Literal["committed", "voided", "unknown"] | None
    actual: Mapping[str, int]
    reason: str


def judge(hold: HoldView, *, deadline_passed: bool = False) -> Judgement:
    """Says where a hold goes next.

    Args:
        hold: The hold as it stands, and its outcome if one is recorded.
        deadline_passed: Whether an unknown outcome has been waited for long enough: then the worst case is committed.
    """
    if hold.state in SETTLED_STATES:
        return Judgement(None, {}, "settled before")
    if hold.state == "held":
        return Judgement("voided", {}, "its permit was never redeemed")
    if hold.outcome is not None:
        actual = _actual(hold)
        if actual is not None:
            return Judgement("committed" if actual else "voided", actual, f"outcome: {hold.outcome.cost_class}")
    elif hold.state == "executing" and not hold.went_outward:
        # INVARIANT (LAW 4): voided only because a late executor's begin_outward fails from this transaction on
        return Judgement("voided", {}, "nothing had gone outside")
    if hold.state != "unknown":
        return Judgement("unknown", {}, "it went outside, and nobody knows what came of it")
    if deadline_passed:
        return Judgement("committed", _worst_case(hold), "still unknown at its deadline: the worst case counts")
    return Judgement(None, {}, "still unknown")


def _estimate(hold: HoldView) -> Estimate | None:
    return Estimate.from_json(hold.estimate) if hold.kind == "llm.call" else None


def _by_unit(tokens: TokenCount) -> dict[str, int]:
    return {TOKENS: tokens.total, INPUT_TOKENS: tokens.input_tokens, CACHED_TOKENS: tokens.cached_tokens}


def _worst_case(hold: HoldView) -> dict[str, int]:
    estimate = _estimate(hold)
    tokens = {} if estimate is None else _by_unit(worst_llm_tokens(estimate))
    return {NANO_USD: hold.max_cost_nano_usd, CALLS: 1, **tokens}


def _value(outcome: OutcomeView) -> Mapping[str, JsonValue] | None:
    """Reads what an executor stored; `None` if it is rubbish, which costs the worst case and settles all the same (LAW 7)."""
    try:
        value = orjson.loads(outcome.result)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _model_outcome(outcome: OutcomeView) -> ModelOutcome | None:
    value = _value(outcome)
    try:
        read = None if value is None else ModelOutcome.from_json(value)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return read if read is not None and read.cost == outcome.cost_class else None


def _actual(hold: HoldView) -> dict[str, int] | None:
    outcome = hold.outcome
    assert outcome is not None  # only asked when there is one
    estimate = _estimate(hold)
    if hold.kind == "code.exec" and outcome.cost_class not in ("nothing", "unknown"):
        return {NANO_USD: _code_cost(hold, outcome), CALLS: 1}
    if estimate is None:
        if outcome.cost_class == "unknown":
            return None
        return {} if outcome.cost_class == "nothing" else {NANO_USD: hold.max_cost_nano_usd, CALLS: 1}
    model_outcome = _model_outcome(outcome)
    if model_outcome is None:
        return None if outcome.cost_class == "unknown" else _worst_case(hold)
    cost = actual_llm_cost(model_outcome, estimate)
    tokens = actual_llm_tokens(model_outcome, estimate)
    if cost is None or tokens is None:
        return None
    return {} if outcome.cost_class == "nothing" else {NANO_USD: cost, CALLS: 1, **_by_unit(tokens)}


def _code_cost(hold: HoldView, outcome: OutcomeView) -> int:
    """Returns what a run of code cost by what was measured of it; one whose measures cannot be read costs the worst case."""
    used = (_value(outcome) or {}).get("used")
    measured = [used.get(name) if isinstance(used, dict) else None for name in ("cpu_ms", "wall_ms", "memory_bytes")]
    cpu_ms, wall_ms, memory_bytes = (each if type(each) is int and each >= 0 else None for each in measured)
    if cpu_ms is None or wall_ms is None or memory_bytes is None:
        return hold.max_cost_nano_usd
    estimate = CodeEstimate.from_json(hold.estimate)
    return estimate.actual_nano_usd(cpu_ms=cpu_ms, wall_ms=wall_ms, memory_bytes=memory_bytes)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an action, for the transcript, the workflow and the timeline.

    Attributes:
        ok: Whether the action did what it should.
        error_code: Why not.
        retryable: Whether a new try may do better.
        content: The transcript entry, canonical; None if nothing is to be written down.
        calls: What the model proposes, names only.
        shown: What the timeline shows.
    """

    ok: bool
    error_code: str
    retryable: bool
    content: bytes | None = None
    calls: tuple[ProposedCall, ...] = ()
    shown: Mapping[str, JsonValue] = field(default_factory=dict)


def answer_of(hold: HoldView, call_id: str) -> Answer:
    """Returns what is known of an action's outcome; for failures that may pass, nothing is written down yet.

    Args:
        hold: The hold as it stands.
        call_id: For tool calls, the id under which the model proposed it.
    """
    outcome = hold.outcome
    if outcome is None or (outcome.cost_class == "unknown" and hold.state in SETTLED_STATES):
        return _without_outcome(hold, call_id)  # what a person found out counts more than a lost answer
    if not outcome.ok and outcome.retryable:
        return Answer(ok=False, error_code=outcome.error_code, retryable=True)
    if hold.kind == "llm.call":
        model_outcome = _model_outcome(outcome)
        return (
            Answer(ok=False, error_code=_UNREADABLE, retryable=True)
            if model_outcome is None
            else _model_answer(model_outcome)
        )
    value = _value(outcome) or {}
    content = str(value.get("content", "its answer cannot be read"))
    more = {name: value[name] for name in _CODE_SHOWN if name in value} if hold.kind == "code.exec" else {}
    return Answer(
        ok=outcome.ok,
        error_code=outcome.error_code,
        retryable=False,
        content=tool_result(call_id, hold.tool, ok=outcome.ok, content=content),
        shown={"tool": hold.tool, "ok": outcome.ok, "content": content[:TIMELINE_TEXT_LENGTH_MAX], **more},
    )


def words_of(hold: HoldView) -> str:
    """Returns what is told of a call's outcome, whole."""
    content = answer_of(hold, "").content
    if content is not None:
        return str(orjson.loads(content)["content"])
    value = {} if hold.outcome is None else _value(hold.outcome) or {}
    return str(value.get("content", ""))


def _without_outcome(hold: HoldView, call_id: str) -> Answer:
    if hold.kind == "llm.call" or hold.state != "committed":
        return Answer(ok=False, error_code="outcome.unknown", retryable=True)
    # settled without an outcome: by a person who knows, or by the deadline, after which nobody does
    confirmed = hold.settled_by not in ("run", "sweeper")
    content = _CONFIRMED if confirmed else _NEVER_KNOWN
    return Answer(
        ok=confirmed,
        error_code="" if confirmed else "outcome.unknown",
        retryable=False,
        content=tool_result(call_id, hold.tool, ok=confirmed, content=content),
    )


def _model_answer(outcome: ModelOutcome) -> Answer:
    if not outcome.ok:
        return Answer(ok=False, error_code=outcome.error_code or "provider.failed", retryable=False)
    entry: dict[str, JsonValue] = {
        "kind": "assistant",
        "text": outcome.text,
        "thinking": outcome.thinking,
        "tool_calls": [call.to_json() for call in outcome.tool_calls],
        "stop_reason": outcome.stop_reason,
    }
    calls = tuple(
        ProposedCall(index=index, tool=call.tool[:_TOOL_NAME_LENGTH_MAX])
        for index, call in enumerate(outcome.tool_calls)
    )
    return Answer(
        ok=True,
        error_code="",
        retryable=False,
        content=canonical_bytes(entry),
        calls=calls,
        shown={"text": outcome.text, "thinking": outcome.thinking},
    )


def tool_result(call_id: str, tool: str, *, ok: bool, content: str) -> bytes:
    """Returns the canonical transcript entry that answers a proposed call."""
    return canonical_bytes({"kind": "tool_result", "call_id": call_id, "tool": tool, "ok": ok, "content": content})


def refusal(call_id: str, tool: str, code: str, sentence: str) -> bytes:
    """Returns the canonical transcript entry that says why a proposed call was not made.

    Its `stop_reason`, the code, tells it from whatever a tool may answer: only the governor writes one into a result. That is a
    member which processes of a version before know, too, so that a run may go on in them.
    """
    content = f"{NOT_DONE}{code}: {sentence}"
    entry: dict[str, JsonValue] = {"kind": "tool_result", "call_id": call_id, "tool": tool, "ok": False}
    return canonical_bytes({**entry, "stop_reason": code, "content": content})


def proposed_call(entry: Mapping[str, JsonValue], index: int) -> tuple[str, str]:
    """Returns id and tool of a call that a transcript entry proposes."""
    calls = cast("list[Mapping[str, JsonValue]]", entry["tool_calls"])
    return str(calls[index]["call_id"]), str(calls[index]["tool"])
