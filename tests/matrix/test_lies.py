"""What the matrix says of its provider is what the simulated one does over loopback, seen through the provider's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from activities.model_call import call_model
from bench.matrix import governed, ground, lies
from bench.matrix.brain import MARK
from bench.matrix.cells import DIMENSIONS, Cell
from holdfast.pricing.actual import actual_llm_cost
from holdfast.providers.model import ModelOutcome, Usage
from tests.providers.simulated import Outward, Simulated, ignore, running

MAX_TOKENS = 100


@pytest.fixture(scope="module")
def liar() -> Iterator[Simulated]:
    with running("--brain", "bench.matrix.brain:answer") as (simulated, _):
        yield simulated


def cell(stream: str, provider: str) -> Cell:
    return Cell("1", "1", "given", "exact", stream, provider, "once", "alive", "quiet")


async def asked(liar: Simulated, one: Cell, kind: str) -> tuple[ModelOutcome, Usage, int]:
    """Calls the liar; returns the outcome, its bill, and the input tokens."""
    liar.reset()
    marker = f"{one.stream} {one.provider} {kind}"
    length = lies.answer_bytes(one.provider if kind == "lie" else "less", MAX_TOKENS)
    if kind != "honest":
        fault = {"kind": "status", "status": 429} if kind == "refused" else governed.lie(one)
        liar.faults([{**fault, "match": "somebody else"}, {**fault, "match": marker}])
    request = ground.request(lies.CHEAP_MODEL, MAX_TOKENS)
    request = replace(request, entries=[{"kind": "user", "text": f"{marker}\n{MARK}{length}"}])
    credential = liar.credential("anthropic")
    outcome = await call_model(request, credential, "key", Outward(), ignore, 60_000)
    [call] = await asyncio.to_thread(liar.calls)
    return outcome, Usage(**call["usage"]), lies.input_tokens(request)


@pytest.mark.parametrize("provider", DIMENSIONS["provider"])
@pytest.mark.parametrize("stream", DIMENSIONS["stream"])
async def test_each_lie_is_told_as_it_is_said_to_be(liar: Simulated, stream: str, provider: str) -> None:
    await compare(liar, cell(stream, provider), "lie")


@pytest.mark.parametrize("kind", ["refused", "honest"])
async def test_so_is_what_is_no_lie(liar: Simulated, kind: str) -> None:
    await compare(liar, cell("whole", "four"), kind)


async def compare(liar: Simulated, one: Cell, kind: str) -> None:
    outcome, bill, tokens_in = await asked(liar, one, kind)
    assert bill == lies.bill(one, kind, tokens_in, MAX_TOKENS)
    said = lies.outcome(one, kind, tokens_in, MAX_TOKENS)
    wording = {
        "text": outcome.text,
        "provider_request_id": outcome.provider_request_id,
        "error_message": outcome.error_message,
        "stop_reason": outcome.stop_reason,
    }
    assert outcome == replace(said, **wording)  # type: ignore[arg-type]  # members by name
    assert outcome.simulated
    # and what it is settled at covers the bill; where that is over the hold, by what it said
    estimate = ground.estimate(lies.CHEAP_MODEL, MAX_TOKENS)
    settled = actual_llm_cost(said, estimate)
    billed = ground.price(lies.CHEAP_MODEL).cost_nano_usd(bill)
    assert (estimate.max_cost_nano_usd if settled is None else settled) >= billed
