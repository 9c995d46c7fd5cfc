"""What an author of tools tests with: the outcome is the one that Holdfast would settle, and no server is needed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from decimal import Decimal

import pytest

from holdfast.errors import RequestInvalid
from holdfast.tools.functions import form_of
from sdk.testing import LeaseOver, late_call, try_tool
from sdk.tools import ToolCall, ToolRefused, tool

SENT: list[str] = []


@tool(name="crm.credit", external=True, idempotent=True, reversible=False)
def credit(call: ToolCall, amount: Decimal, fail: str = "") -> dict[str, object]:
    """Credits an amount."""
    if amount > 100:
        raise ToolRefused("at most 100", retryable=True)
    if fail == "early":
        raise ValueError("early")
    call.begin()
    SENT.append(call.idempotency_key)
    if fail == "exit":
        sys.exit(1)
    if fail == "late":
        raise ValueError("late")
    return {"amount": amount, "odd": object()} if fail == "odd" else {"amount": amount}


@tool(name="crm.wait", external=False, idempotent=False, reversible=True)
async def wait(seconds: int) -> str:
    """Waits."""
    await asyncio.sleep(0)
    if seconds < 0:
        raise ValueError(seconds)
    return f"waited {seconds}"


def test_what_a_tool_does_is_what_would_be_settled() -> None:
    done = try_tool(credit, ToolCall(idempotency_key="one"), amount=Decimal("12.50"))
    assert (done.kind, done.content, done.begun) == ("done", '{"amount":"12.50"}', True)
    assert SENT.pop() == "one"
    refused = try_tool(credit, amount=Decimal(101))
    assert (refused.kind, refused.content, refused.begun, refused.retried) == ("nothing", "at most 100", False, True)
    for fail, kind, retried in (
        ("early", "nothing", False),
        ("late", "unknown", True),
        ("exit", "unknown", True),
        ("odd", "unknown", True),
    ):
        outcome = try_tool(credit, amount=Decimal(1), fail=fail)
        assert (outcome.kind, outcome.retried) == (kind, retried)
        assert outcome.error is not None


def test_without_a_call_it_has_begun_when_it_is_entered() -> None:
    assert try_tool(wait, seconds=2).content == "waited 2"
    failed = try_tool(wait, seconds=-1)
    assert (failed.kind, failed.begun, failed.retried) == ("unknown", True, False)


def test_whoever_begins_too_late_goes_no_further() -> None:
    SENT.clear()
    outcome = try_tool(credit, late_call(tenant="acme"), amount=Decimal(1))
    assert (outcome.kind, outcome.begun) == ("nothing", False)
    assert isinstance(outcome.error, LeaseOver)
    assert SENT == []


def test_what_is_no_tool_is_said() -> None:
    with pytest.raises(TypeError, match="mark it with @tool"):
        try_tool(test_what_is_no_tool_is_said)
    with pytest.raises(RequestInvalid, match="is no tool"):
        form_of(test_what_is_no_tool_is_said)


def test_a_definition_is_made_without_installing_anything() -> None:
    form = form_of(credit)
    assert form.parameters["required"] == ["amount"]
    assert (form.external, form.idempotent, form.reversible) == (True, True, False)


def test_a_tool_brings_nothing_of_the_client_and_nothing_heavy() -> None:
    """Each call starts a process that imports it."""
    code = "import sys, sdk.tools; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"httpx", "pydantic", "holdfast", "asyncio", "temporalio"}
