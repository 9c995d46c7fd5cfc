"""What a lying provider does with a call: what it bills, and the outcome that is left of it here. Pure.

`tests/matrix/test_lies.py` compares with the simulated provider, called over loopback through the provider's own client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.matrix.cells import Cell
from holdfast.pricing.prices import Price
from holdfast.providers.model import ModelOutcome, ModelRequest, Usage

BYTES_PER_TOKEN = 4
"""The simulated provider's: it writes and counts this many bytes a token."""
_CHUNK_BYTES = 24
_MESSAGE_BYTES = 16

CHEAP_MODEL = "claude-haiku-4-5"
DEAR_MODEL = "claude-sonnet-4-5"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a call, as its provider will treat it.

    Attributes:
        model: The model asked.
        kind: `lie` = as the cell says; `refused` = refused without a bill; `honest` = an answer as it should be.
    """

    model: str
    kind: Literal["lie", "refused", "honest"]


def attempts(cell: Cell) -> list[Attempt]:
    """Returns the tries that a call of the cell may come to: a second one only after the first has failed.

    Where the cell's provider makes no call fail, the first try is refused, so that there is something to try again after.
    """
    if cell.again == "once":
        return [Attempt(CHEAP_MODEL, "lie")]
    second = DEAR_MODEL if cell.again == "fallback" else CHEAP_MODEL
    if cell.stream == "whole" and cell.provider != "error":
        return [Attempt(CHEAP_MODEL, "refused"), Attempt(second, "lie")]
    return [Attempt(CHEAP_MODEL, "lie"), Attempt(second, "honest")]


def answer_bytes(provider: str, max_tokens: int) -> int:
    """Returns how long the provider's answer is: all that `max_tokens` lets it be, or three fifths."""
    tokens = max_tokens if provider in ("equal", "nousage") else max(max_tokens * 3 // 5, 1)
    return tokens * BYTES_PER_TOKEN


def input_tokens(request: ModelRequest) -> int:
    """Returns the input that the simulated provider counts for a request of one message."""
    size_bytes = len(request.system.encode()) + sum(
        _MESSAGE_BYTES + len(str(entry["text"]).encode()) for entry in request.entries
    )
    return -(-size_bytes // BYTES_PER_TOKEN)


def _sent_bytes(stream: str, answer: int) -> int:
    if stream == "start":
        return 0
    if stream == "middle":
        chunks = -(-answer // _CHUNK_BYTES)
        return min((chunks + 1) // 2 * _CHUNK_BYTES, answer)
    return answer


def bill(cell: Cell, kind: str, tokens_in: int, max_tokens: int) -> Usage:
    """Returns what the provider bills for a call that it received whole."""
    if kind == "refused":
        return Usage(0, 0)
    if kind == "honest":
        return Usage(tokens_in, answer_bytes("less", max_tokens) // BYTES_PER_TOKEN)
    whole = answer_bytes(cell.provider, max_tokens)
    if cell.provider == "error":
        return Usage(tokens_in, whole // BYTES_PER_TOKEN)
    if cell.stream == "whole":
        return Usage(tokens_in, 4 * max_tokens if cell.provider == "four" else whole // BYTES_PER_TOKEN)
    return Usage(tokens_in, -(-_sent_bytes(cell.stream, whole) // BYTES_PER_TOKEN))


def outcome(cell: Cell, kind: str, tokens_in: int, max_tokens: int) -> ModelOutcome:
    """Returns what is left here of such a call."""
    if kind == "refused":
        return _failed("provider.rate_limited", "nothing", None, 0)
    if kind == "honest":
        return _answered(bill(cell, kind, tokens_in, max_tokens), answer_bytes("less", max_tokens), "end_turn")
    whole = answer_bytes(cell.provider, max_tokens)
    if cell.stream == "whole":
        if cell.provider == "error":
            return _failed("provider.failed", "unknown", None, 0)
        usage = None if cell.provider == "nousage" else bill(cell, kind, tokens_in, max_tokens)
        return _answered(usage, whole, "end_turn")
    if cell.stream == "start":
        return _failed("provider.cut", "unknown", None, 0)
    # the stream's first event tells the input, and one token of output
    usage = None if cell.provider == "nousage" else Usage(tokens_in, 1)
    return _failed("provider.cut", "partial", usage, _sent_bytes(cell.stream, whole))


def _answered(usage: Usage | None, size_bytes: int, stop_reason: str) -> ModelOutcome:
    return ModelOutcome(
        ok=True,
        text="simulated",
        thinking="",
        tool_calls=(),
        stop_reason=stop_reason,
        usage=usage,
        provider_request_id="req_sim",
        error_code=None,
        error_message=None,
        retryable=False,
        retry_after_ms=None,
        cost="partial" if usage is None else "known",
        received_output_bytes=size_bytes,
        simulated=True,
    )


def _failed(
    code: str, cost: Literal["nothing", "partial", "unknown"], usage: Usage | None, size_bytes: int
) -> ModelOutcome:
    return ModelOutcome(
        ok=False,
        text="",
        thinking="",
        tool_calls=(),
        stop_reason=None,
        usage=usage,
        provider_request_id="req_sim",
        error_code=code,
        error_message="simulated",
        retryable=True,
        retry_after_ms=None,
        cost=cost,
        received_output_bytes=size_bytes,
        simulated=True,
    )


def billed_nano_usd(price: Price, usage: Usage) -> int:
    """Returns a bill in nano-dollars."""
    return price.cost_nano_usd(usage)
