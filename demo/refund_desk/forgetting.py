"""A customer asks to be forgotten: what is personal in the records goes, and everything that was proved before still is.

Like an auditor, it trusts nothing of the server's: each export is verified as a file, and searched byte for byte.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from demo.refund_desk import policy
from demo.refund_desk.checks import Found
from demo.refund_desk.setting import Setting
from demo.refund_desk.show import Show
from demo.refund_desk.story import StoryBrokenError, Told
from demo.refund_desk.world.orders import customers
from holdfast_verdict.log.checkpoint import Checkpoint
from holdfast_verdict.log.note import Note, VerifierKey
from holdfast_verdict.verify.report import Report
from holdfast_verdict.verify.verifying import Request, verify
from sdk import Erasure

_REASON: Final = "a customer has asked to be forgotten"
_LOOK_S: Final = 0.1
_DONE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Exported:
    """An export, and what an auditor finds in it.

    Attributes:
        holds: Whether all of it holds.
        findings: What does not.
        checkpoint: The signed checkpoint of the log.
        size: How many records the log had then.
        since: The size of an earlier checkpoint that the log was proved to go on from.
        names: Which of the customers' names, addresses and numbers stand in it.
        unread: How many decisions could not be evaluated again, because their rule asks for something that is gone.
        decisions: How many decisions of the run it has.
    """

    holds: bool
    findings: tuple[str, ...]
    checkpoint: str
    size: int
    since: int | None
    names: frozenset[str]
    unread: int
    decisions: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What came of the customer's wish."""

    before: Exported
    erasure: Erasure
    after: Exported


async def forget(setting: Setting, show: Show, told: Told) -> Forgotten:
    """Exports a run's decisions, erases what is personal in them, and exports them again."""
    owner = setting.people.owner
    before = await asyncio.to_thread(_export, setting, told.run_id, None)
    show.say(f"an export of the run: {_told(before)}")
    for hold in await asyncio.to_thread(owner.holds, run_id=told.run_id, state="unknown"):
        # only what is over is erased: the one answer that was lost is settled first, on a person's word
        await asyncio.to_thread(owner.resolve_hold, hold.hold_id, happened=True, reason="it stands on the invoice")
    erasure = await asyncio.to_thread(owner.erase, run_id=told.run_id, reason=_REASON)
    erasure = await asyncio.to_thread(_wait, setting, erasure)
    show.say(f"{_REASON}: personal values of {erasure.records} records are erased")
    after = await asyncio.to_thread(_export, setting, told.run_id, before)
    show.say(f"an export now: {_told(after)}")
    if after.unread:
        show.say(
            f"what cannot be evaluated again: {after.unread} decisions, whose rule asks where a mail went. "
            "That they were made, by which rule, is proved as before"
        )
    return Forgotten(before, erasure, after)


def check(forgotten: Forgotten) -> Iterator[Found]:
    """Yields what has to be so."""
    before, after = forgotten.before, forgotten.after
    yield Found(
        before.holds and bool(before.names),
        "an export of the run can be checked without the server, and names customers as long as it may",
        "; ".join(before.findings) or f"{before.decisions} decisions, {len(before.names)} personal values",
    )
    left = forgotten.erasure.held + forgotten.erasure.open
    yield Found(
        not after.names and forgotten.erasure.records > 0 and not left,
        "after the erasure no name, address or number of a customer stands in it",
        ", ".join(sorted(after.names)),
    )
    yield Found(
        after.holds and after.since == before.size and after.decisions >= before.decisions,
        "and all of it is still proved, by the same log as before",
        "; ".join(after.findings) or f"{after.decisions} decisions, log of {after.size} after {before.size}",
    )


def _told(exported: Exported) -> str:
    proof = "the proof holds" if exported.holds else "it does NOT hold"
    return f"{exported.decisions} decisions, {proof}, {len(exported.names)} names, addresses and numbers of customers are in it"


def _export(setting: Setting, run_id: str, before: Exported | None) -> Exported:
    """Exports a run and looks at it as an auditor does: offline, and going on from what was seen before."""
    since = None if before is None else before.size
    bundle = b"".join(setting.people.owner.audit_export(run_id=run_id, since=since))
    lines: list[dict[str, Any]] = [orjson.loads(line) for line in bundle.splitlines()]
    keys = tuple(VerifierKey.parse(line["vkey"]) for line in lines if line["type"] == "key")
    checkpoint = next(str(line["note"]) for line in lines if line["type"] == "checkpoint")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bundle.jsonl"
        file.write_bytes(bundle)
        report: Report = verify(Request(file, keys, "" if before is None else before.checkpoint, workers=1))
    return Exported(
        holds=report.holds,
        findings=tuple(f"{one.code}: {one.wrong}" for one in report.findings),
        checkpoint=checkpoint,
        size=Checkpoint.parse(Note.parse(checkpoint.encode()).text).size,
        since=report.trust.since,
        names=frozenset(name for name in customers(policy.TENANT) if name.encode() in bundle),
        unread=len(report.withheld),
        decisions=report.records,
    )


def _wait(setting: Setting, erasure: Erasure) -> Erasure:
    until = time.monotonic() + _DONE_S
    while erasure.ended_at is None:
        if time.monotonic() > until:
            raise StoryBrokenError(f"the erasure was not done within {_DONE_S:g} s")
        time.sleep(_LOOK_S)
        erasure = setting.people.owner.erasure(erasure.erasure_id)
    return erasure
