"""What happened, in plain sentences, from the records of a bundle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson

from holdfast_verdict.verify.across import Bundle
from holdfast_verdict.verify.records import Decided
from holdfast_verdict.verify.report import Report

TOLD_MAX: Final = 5_000
"""Up to so many decisions each is told; beyond it they are counted."""

_NANO: Final = 1_000_000_000
_TEXT_MAX: Final = 120
_OF_NO_RUN: Final = "of no run"


class Told(NamedTuple):
    """One sentence.

    Attributes:
        time: When, as text.
        verdict: What came of it.
        sentence: What happened.
        decision_id: The record that says so.
        holds: Whether that record holds.
    """

    time: str
    verdict: str
    sentence: str
    decision_id: str
    holds: bool


class Chapter(NamedTuple):
    """What happened in one run, or beside all runs."""

    title: str
    told: list[Told]


def dollars(nano: int) -> str:
    """Returns an amount of nano-dollars as text, exactly and without needless zeros."""
    whole, rest = divmod(abs(nano), _NANO)
    digits = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nano < 0 else ''}${whole}.{digits}"


def clock(time_ms: int) -> str:
    """Returns a time of the epoch as text, in UTC."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"


def summary(report: Report) -> list[str]:
    """Says in some sentences what was looked at, whom it is believed, and what came of it."""
    if not report.is_read:
        return ["This is no audit bundle that can be read."]
    scope = report.header["scope"]
    what = f"run {scope['run_id']}" if scope["run_id"] else f"{clock(scope['from_ms'])} to {clock(scope['to_ms'])}"
    whose = f"{report.header['tenant']} ({report.header['tenant_id']})"
    counts = report.counts()
    decisions = ", ".join(f"{counts[name]} {_VERDICTS[name]}" for name in _VERDICTS if name in counts)
    said = [
        f"The bundle is of the tenant {whose}, {what}, read at {clock(report.header['read_at_ms'])}.",
        f"It has {sum(counts.values())} decisions: {decisions or 'none'}.",
        *_trusted(report),
        *_missing(report),
    ]
    if report.holds:
        each = "every other decision" if report.withheld or report.deleted else "every decision"
        said.append(
            f"All of it holds: every record is in the signed log as it was written, {each} on an action comes out the same when "
            "it is evaluated again, every consent was for the action that used it, nothing was executed that was not allowed, "
            "and the amounts add up."
        )
    else:
        said.append(f"It does NOT hold: {len(report.findings)} things are wrong.")
    return said


_VERDICTS: Final = {"allow": "allowed", "deny": "refused", "needs_approval": "sent to a person for consent"}


def _trusted(report: Report) -> Iterator[str]:
    trust = report.trust
    if trust.checkpoint is None:
        yield "Nobody who is trusted has signed for it: NOTHING in it is proved."
        return
    at = f"the log {trust.checkpoint.origin} at {trust.checkpoint.size} records"
    if trust.source == "given":
        yield f"The key that you trust has signed {at}."
    else:
        yield (
            f"{at[0].upper()}{at[1:]} is signed by a key that THE BUNDLE ITSELF brought: whoever made the bundle may have "
            f"made the key. Compare it with the key that you had from elsewhere, or name yours with --key: {trust.key}"
        )
    if trust.witnesses:
        yield f"It is cosigned by {', '.join(trust.witnesses)}."
    if trust.since is not None:
        yield f"It continues the log as you saw it at {trust.since} records: nothing of its past was changed."


def _missing(report: Report) -> Iterator[str]:
    for one in report.withheld:
        yield (
            f"Decision {one.decision_id} could NOT be evaluated again: its policy asks for {one.path}, and that value was erased. "
            "Its record is in the log as it was written."
        )
    if report.deleted:
        yield (
            f"Of {report.deleted} records what was evaluated was deleted; what was decided is there, and each is in the log with the "
            "hash of what is gone."
        )


def chapters(report: Report) -> list[Chapter]:
    """Tells every decision, run by run; for many there are counts in place of sentences."""
    bundle = report.bundle
    if bundle is None:
        return []
    wrong = {finding.subject.removeprefix("decision ") for finding in report.findings}
    holds = {line["hold_id"]: line for _, line in bundle.holds}
    by_run: dict[str, list[Told]] = {}
    for one in sorted(bundle.decided, key=lambda each: (each.time_ms, each.decision_id)):
        told = Told(
            clock(one.time_ms),
            one.verdict,
            _sentence(bundle, one, holds),
            one.decision_id,
            one.decision_id not in wrong,
        )
        by_run.setdefault(one.run_id, []).append(told)
    return [Chapter(f"Run {run_id}" if run_id else f"Decisions {_OF_NO_RUN}", told) for run_id, told in by_run.items()]


def totals(report: Report) -> list[tuple[str, int]]:
    """Counts decisions by what was decided on, what came of it and why, most first."""
    counted: Counter[str] = Counter()
    for (what, verdict, code), count in report.totals.items():
        counted[f"{what}: {_VERDICTS[verdict]} ({code})"] += count
    return counted.most_common()


def _sentence(bundle: Bundle, one: Decided, holds: Mapping[str, dict[str, Any]]) -> str:
    if one.deleted:
        return f"{one.kind}: {_VERDICTS[one.verdict]} ({one.code}). What was evaluated was deleted."
    if one.step < 0 or not one.digest:
        return f"{one.kind}: {one.message or one.code}."
    who = f"{one.agent} (role {one.role})"
    what = f"{one.tool or one.kind}{_arguments(one.arguments)}"
    place = f"step {one.step}" + (f", try {one.try_number}" if one.try_number else "")
    match one.verdict:
        case "needs_approval":
            return f"{place}: {who} asked for {what}. Rule {one.rule_id} asks for a person's consent first."
        case "deny":
            return f"{place}: {who} asked for {what}. It was refused: {one.message or one.code} ({one.code})."
    used = " and ".join(approval.approval_id for approval in one.approvals)
    consent = f", with the consent given for approval {used}" if used else ""
    rule = f"by rule {one.rule_id}{consent}"
    return f"{place}: {who} asked for {what}. It was allowed {rule}. {_outcome(holds.get(one.hold_id))}"


def _outcome(hold: Mapping[str, Any] | None) -> str:
    if hold is None:
        return "Nothing says what became of it."
    outcome, state = hold["outcome"], hold["state"]
    cost = f" at {dollars(int(hold['cost_nano_usd'] or 0))}" if hold["cost_nano_usd"] not in (None, "0") else ""
    simulated = ", simulated" if outcome and outcome["simulated"] else ""
    if state == "unknown":
        return "It was begun, and nobody knows what became of it; what it may cost stays held."
    if state in ("held", "executing", "executed"):
        return f"It was under way when the bundle was made ({state})."
    if outcome is None:
        return "It was settled on a person's word" + cost + "." if hold["unknown_at_ms"] else "It was not executed."
    went = "It was executed and went well" if outcome["ok"] else f"It was executed and failed ({outcome['error_code']})"
    return f"{went}{cost}{simulated}."


def _arguments(text: str) -> str:
    try:
        arguments = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        arguments = {}
    if not isinstance(arguments, dict):
        return ""
    shown = ", ".join(f"{name}={orjson.dumps(value).decode()}" for name, value in arguments.items())
    return f"({shown if len(shown) <= _TEXT_MAX else shown[:_TEXT_MAX] + '…'})"
