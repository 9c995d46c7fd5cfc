"""Histories of runs: the one that is kept, and Temporal's held against the log."""

from __future__ import annotations

from collections import Counter
from typing import Literal, Self
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import Field

from api.authentication import Caller, require_reader
from api.context import EXPORTS_MAX, Parts
from api.forms import Answer
from api.runs import read_visible
from holdfast.audit.counts import count_event
from holdfast.database.engine import transaction
from holdfast.errors import NotFound, Unavailable
from holdfast.histories import storing
from holdfast.histories.cross_check import CrossCheck as Checked
from holdfast.histories.cross_check import cross_check

router = APIRouter(prefix="/v1/runs/{run_id}", tags=["audit"])

DIGEST_HEADER = "holdfast-history-digest"


class Difference(Answer):
    """Something in which history and log do not agree."""

    code: str
    sentence: str
    activity_id: str = Field(description="the activity in the history; empty if it is about none")
    hold_id: str
    decision_id: str


class CrossCheck(Answer):
    """What came of holding a run's history against the log."""

    run_id: UUID
    agrees: bool
    status: str = Field(description="where the run stands")
    source: Literal["temporal", "stored", "none"] = Field(description="whose history was read")
    is_open: bool = Field(description="the run goes on: this is how it stands now")
    executions: int
    events: int
    activities: int = Field(description="activities that the history has")
    allowed: int = Field(description="actions that the log allowed")
    digest: str = Field(description="SHA-256 over the history, as the log has it; empty if it has none yet")
    recorded_in: str = Field(description="the decision record that has the digest")
    children: list[str] = Field(description="runs that this one started, each with a history of its own")
    differences: list[Difference]
    notes: list[str]

    @classmethod
    def of(cls, checked: Checked) -> Self:
        """Builds the answer."""
        return cls.model_validate(checked, from_attributes=True)


@router.get("/cross-check", summary="Hold a run's history against the log")
async def cross_check_run(run_id: UUID, caller: Caller, parts: Parts) -> CrossCheck:
    """Compares Temporal's history of a run, or the one that is kept, with the decision log, and names every difference."""
    await read_visible(caller, parts, run_id)
    if parts.exports >= EXPORTS_MAX:
        raise Unavailable(f"this server reads {EXPORTS_MAX} histories or exports already", remedy="ask again later")
    parts.exports += 1
    try:
        checked = await cross_check(parts.engine, parts.temporal, caller.tenant_id, run_id)
    finally:
        parts.exports -= 1
    async with transaction(parts.engine, caller.tenant_id) as connection:
        await count_event(connection, caller.tenant_id, "cross_check", "agrees" if checked.agrees else "differs")
        for code, count in Counter(each.code for each in checked.differences).items():
            await count_event(connection, caller.tenant_id, "cross_check_difference", code, count)
    return CrossCheck.of(checked)


@router.get(
    "/history",
    summary="Download a run's history",
    response_class=Response,
    responses={200: {"description": "the kept document, compressed", "content": {"application/octet-stream": {}}}},
)
async def get_history(run_id: UUID, caller: Caller, parts: Parts) -> Response:
    """Answers with the workflow's history as it was kept when the run had ended; the digest that the log has is in a header."""
    require_reader(caller)
    await read_visible(caller, parts, run_id)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        recorded = await storing.read_recorded(connection, caller.tenant_id, run_id)
        pieces = await storing.read_stored(connection, caller.tenant_id, run_id)
    if recorded is None or not pieces:
        raise NotFound("no history of the run is kept", remedy="it is kept soon after the run has ended")
    return Response(b"".join(pieces), media_type="application/octet-stream", headers={DIGEST_HEADER: recorded.digest})
