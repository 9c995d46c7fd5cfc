"""Holds: no allow without its hold and what became of it, and nothing executed that was not allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from holdfast_verdict.verify.across import Bundle, at
from holdfast_verdict.verify.findings import Finding
from holdfast_verdict.verify.records import Decided

_CODE: Final = "audit.outcome"
BUDGET: Final = "run.budget"
"""Kind of the hold that a run's admission takes."""
_SETTLED: Final = frozenset({"committed", "voided", "expired"})
_STATES: Final = _SETTLED | {"held", "executing", "executed", "unknown"}


def check_outcomes(bundle: Bundle) -> Iterator[Finding]:
    """Checks every allow against its hold, and every hold against its allow."""
    lines = {line["hold_id"]: (number, line) for number, line in bundle.holds}
    for one in bundle.decided:
        if one.hold_id and one.kind != "hold.resolution":
            found = lines.get(one.hold_id)
            if found is None:
                yield at(one, _CODE, f"it allowed hold {one.hold_id}, of which the file says nothing")
            else:
                yield from _check_allowed(one, found[1])
    read_at_ms = bundle.header["read_at_ms"]
    for number, line in bundle.holds:
        subject = f"hold {line['hold_id']}"
        if line["hold_id"] not in bundle.by_hold and line["decision_id"] not in bundle.failed:
            yield Finding(_CODE, subject, "no decision that allows stands behind it", number)
        yield from (Finding(_CODE, subject, wrong, number) for wrong in wrong_states(line, read_at_ms))


def _check_allowed(one: Decided, line: dict[str, Any]) -> Iterator[Finding]:
    name = f"hold {one.hold_id}"
    if line["decision_id"] != one.decision_id or line["run_id"] != one.run_id:
        yield at(one, _CODE, f"{name} names another decision or run")
    if one.kind == "run.admission":
        if line["kind"] != BUDGET:
            yield at(one, _CODE, f"{name} is no budget of a run, which is all that an admission takes")
        return
    said = (line["kind"], line["step"], line["try"], line["digest"])
    if said != (one.kind, one.step, one.try_number, one.digest) and not one.deleted:
        yield at(one, _CODE, f"{name} is for another action than the one that was allowed")
    if {leg["cap_id"]: int(leg["amount"]) for leg in line["legs"]} != {leg.cap_id: leg.amount for leg in one.legs}:
        yield at(one, _CODE, f"{name} holds other amounts than the decision took")


def wrong_states(line: Mapping[str, Any], read_at_ms: int) -> Iterator[str]:  # Any: as in `across.Rows`
    """Says what in a hold's line is against itself."""
    state, outcome, kind = line["state"], line["outcome"], line["kind"]
    if state not in _STATES:
        yield f"its state is {state}, which no hold has"
    if (state in _SETTLED) != (line["settled_at_ms"] is not None):
        yield f"it is {state}, and {'not ' if line['settled_at_ms'] is None else ''}settled"
    if state in ("executed", "committed") and outcome is None and line["unknown_at_ms"] is None and kind != BUDGET:
        yield f"it is {state}, and there is neither an outcome nor was it unknown"
    if outcome is not None and line["outward_at_ms"] is None and outcome["ok"] and kind != BUDGET:
        yield "it has an outcome that went well, and nothing went outside"
    if state == "held" and outcome is not None:
        yield "it has an outcome, and nobody redeemed its permit"
    if (
        state == "voided"
        and outcome is not None
        and outcome["cost_class"] in ("known", "partial")
        and line["unknown_at_ms"] is None
    ):
        yield "it was executed at a cost, and taken back as if nothing had happened"
    if state in ("held", "executing") and line["expires_at_ms"] < read_at_ms:
        yield f"it is {state} and its time is over: an allow without an outcome, which nobody calls unknown"
