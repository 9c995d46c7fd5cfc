"""What a call is settled at covers what the provider billed for it, whatever went wrong (LAW 3, LAW 4)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from activities import model_call
from holdfast.pricing.actual import actual_llm_cost
from holdfast.pricing.estimate import estimate_llm
from holdfast.pricing.prices import price_of
from holdfast.providers.model import Delta, ModelOutcome, Usage, Wire

from .simulated import DEADLINES_MS, WIRES, Simulated, call, cut_off, request_for, script

NOW = datetime(2026, 11, 22, tzinfo=UTC)
STEP = {
    "think": "let me see",
    "say": "漢字 and 😀 and quite some text besides, so that there is a middle",
    "tools": [{"tool": "mail.send", "arguments": {"to": "ü@example.com", "body": "x" * 60}}],
}
FAULTS: list[dict[str, Any]] = [
    {"kind": "slow", "ms": 0},
    {"kind": "empty"},
    {"kind": "no_usage"},
    {"kind": "cut", "at": "start"},
    {"kind": "cut", "at": "middle"},
    {"kind": "cut", "at": "end"},
    {"kind": "stream_error"},
    {"kind": "error_after_billing"},
    {"kind": "rubbish"},
    {"kind": "rubbish", "form": "json"},
    {"kind": "hang", "at": "middle"},
    {"kind": "status", "status": 429},
    {"kind": "status", "status": 400},
    {"kind": "status", "status": 503},
    {"kind": "usage", "usage": {"output_tokens": -1, "completion_tokens": -1}},
    {"kind": "usage_factor", "factor": 1, "of": "max_tokens"},
    {"kind": "usage_factor", "factor": 4},
    {"kind": "usage_factor", "factor": 4, "of": "max_tokens"},
]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join(map(str, fault.values()))[:40])
async def test_the_settled_cost_covers_the_bill(simulated: Simulated, wire: Wire, fault: dict[str, Any]) -> None:
    request = request_for(wire, script(STEP), max_tokens=300)
    price = price_of(wire, request.model, NOW)
    # on the wire that has public tokenizers, the bound that is tightest
    estimate = estimate_llm(request, price, price.tokenizer)
    if fault["kind"] == "hang":
        outcome = await cut_off(simulated, request, fault["at"])
    else:
        simulated.faults([fault])
        outcome = await call(simulated, request)
    bill = await asyncio.to_thread(simulated.calls)
    billed_nano_usd = price.cost_nano_usd(Usage(**bill[0]["usage"])) if bill[0]["billed"] else 0
    settled_nano_usd = actual_llm_cost(outcome, estimate)
    if settled_nano_usd is None:
        assert billed_nano_usd <= estimate.max_cost_nano_usd  # the hold stays, and covers it
        return
    assert settled_nano_usd >= billed_nano_usd
    if fault["kind"] != "usage_factor" or fault["factor"] == 1:
        assert settled_nano_usd <= estimate.max_cost_nano_usd  # debt only where the provider bills over the bounds
    if fault.get("of") == "max_tokens":
        assert settled_nano_usd == billed_nano_usd


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("end", ["deadline", "cancellation", "error"])
async def test_an_answer_that_came_and_was_not_read_in_time_is_paid_for(
    simulated: Simulated, wire: Wire, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads slowly has not received less: the provider has sent all of it, and billed it."""
    monkeypatch.setattr(
        model_call, "_TAKE_IN_S", 60.0
    )  # the answer is over, and a busy machine may take long to read it
    request = request_for(wire, script({"say": "much to read, word for word, " * 40}), max_tokens=4_000)
    partial: list[ModelOutcome] = []
    came = asyncio.Event()

    async def stand(_: Delta) -> None:
        while not (await asyncio.to_thread(simulated.calls))[0]["completed"]:
            await asyncio.sleep(0.01)
        came.set()
        if end == "error":
            raise ConnectionError("whoever shows it has gone")
        await asyncio.Event().wait()

    if end == "deadline":
        for deadline_ms in DEADLINES_MS[1:]:
            simulated.reset()
            outcome = await call(simulated, request, on_delta=stand, deadline_ms=deadline_ms)
            if came.is_set():
                break
    else:
        calling = asyncio.create_task(call(simulated, request, on_delta=stand, on_partial=partial.append))
        await came.wait()
        if end == "cancellation":
            calling.cancel()
        with pytest.raises(asyncio.CancelledError if end == "cancellation" else ConnectionError):
            await calling
        [outcome] = partial
    price = price_of(wire, request.model, NOW)
    [bill] = await asyncio.to_thread(simulated.calls)
    billed_nano_usd = price.cost_nano_usd(Usage(**bill["usage"]))
    assert outcome.text == "much to read, word for word, " * 40
    assert actual_llm_cost(outcome, estimate_llm(request, price)) == billed_nano_usd
