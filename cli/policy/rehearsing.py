"""`holdfast policy rehearse`: what a candidate would have decided on what was decided, on a server or over an exported bundle."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.session import Session, with_session
from cli.terminal import EXIT_CODES_HELP, ExitCode, note, say
from cli.text import columns, json_line
from holdfast.errors import HoldfastError, RequestInvalid

if TYPE_CHECKING:
    from sdk import PolicyRehearsal
    from sdk.policies import Policies

_TIMES: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S"]
_DAYS: Final = 7
_POLL_S: Final = 0.5
_TELL_S: Final = 2.0
_WORDS: Final = {
    "newly_allowed": "newly allowed",
    "newly_refused": "newly refused",
    "newly_gated": "newly gated",
    "untold": "cannot be told",
    "other_reason": "another reason only",
}
EPILOG: Final = f"{EXIT_CODES_HELP} Here 0: nothing would change, 1: something would, or cannot be told, 130: Ctrl-C has cancelled it."

Time = datetime | None


class RehearsalFailed(HoldfastError):
    """A rehearsal was cancelled, or broke off."""

    code = "policy.rehearsal_failed"


def register(group: typer.Typer) -> None:
    """Adds the command to `holdfast policy`."""
    group.command(epilog=EPILOG)(rehearse)


@with_session
def rehearse(
    session: Session,
    candidate: Annotated[
        str,
        typer.Argument(
            metavar="CANDIDATE",
            help="The policy's file, - for standard input, or the number of a version on the server.",
        ),
    ],
    *,
    start: Annotated[
        Time, typer.Option("--from", formats=_TIMES, help=f"Decisions from then on, UTC. Default: {_DAYS} days ago.")
    ] = None,
    end: Annotated[Time, typer.Option("--to", formats=_TIMES, help="Decisions before then, UTC. Default: now.")] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Rehearse over this export of `holdfast audit export`, on this machine and without a server."
        ),
    ] = None,
    actions: Annotated[
        Path | None, typer.Option(help="With --bundle: the catalogue of actions. Default: that beside the policy.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="With --bundle: processes to use; 0 is one per core.")] = 0,
) -> None:
    """Asks a candidate about what was decided: what would newly be allowed, refused or gated, and by which rule.

    Each decision is made again twice: on the facts as they were, and on the facts as they would have become, where what the
    candidate refuses leaves no history and uses up no limit. What hangs on a fact that nobody has recorded is named, not guessed.
    """
    if bundle is not None:
        if start is not None or end is not None:
            raise typer.BadParameter("a bundle is rehearsed whole: give --from and --to to `holdfast audit export`")
        found = _offline(session, candidate, bundle, actions, workers)
        answer: dict[str, Any] = {"bundle": str(bundle), "result": found}  # Any: JSON
    else:
        if actions is not None or workers:
            raise typer.BadParameter("--actions and --workers are for --bundle: the server knows its tools")
        done = _on_server(session, candidate, start, end)
        found = done.result or {}
        answer = {"rehearsal": done, "result": found}
    session.show(answer, lambda: report_lines(found))
    if found["changes"] or found["untold"]:
        raise typer.Exit(ExitCode.FAILED)


def _offline(
    session: Session, candidate: str, bundle: Path, actions: Path | None, workers: int
) -> dict[str, Any]:  # Any: JSON
    from cli.policy import files
    from holdfast.policies.clocks import local_times_at
    from holdfast_verdict.rehearse.bundle import rehearse_bundle
    from holdfast_verdict.rehearse.places import BundleUnreadable

    try:
        policy = files.read_policy(Path(candidate), actions).policy
    except files.PolicyUnusable as unusable:
        if session.as_json:
            say(json_line({"ok": False, "problems": unusable.problems}))
        raise
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_S:
            told = time.monotonic()
            note(f"{done:,} of {total:,} records")

    try:
        tally = rehearse_bundle(bundle, policy, clocks=local_times_at, workers=workers, say=tell)
    except OSError as error:
        raise RequestInvalid(f"cannot read {bundle}: {error.strerror or error}") from None
    except BundleUnreadable as error:
        remedy = "write one with `holdfast audit export`, and check it with `holdfast audit verify`"
        raise RequestInvalid(f"{bundle}: {error}", remedy=remedy) from None
    return tally.to_json()


def _on_server(session: Session, candidate: str, start: Time, end: Time) -> PolicyRehearsal:
    from cli.policy import files
    from sdk import HoldfastApiError

    named: int | str = int(candidate) if candidate.isdecimal() else files.read_text(Path(candidate))
    since = datetime.now(UTC) - timedelta(days=_DAYS) if start is None else start.replace(tzinfo=UTC)
    until = None if end is None else end.replace(tzinfo=UTC)
    policies = session.client.policies
    try:
        found = policies.rehearse(named, start=since, end=until)
    except HoldfastApiError as error:
        if session.as_json and error.problems:
            say(json_line({"ok": False, "problems": error.problems}))
        raise
    try:
        found = _wait(session, found)
    except KeyboardInterrupt:
        _cancel(policies, found.rehearsal_id)
        raise
    if found.state != "done":
        words = found.error or f"it was {found.state}"
        raise RehearsalFailed(f"rehearsal {found.rehearsal_id} has no result: {words}", remedy="ask for it again")
    return found


def _cancel(policies: Policies, rehearsal_id: str) -> None:
    """Cancels it at the server for whoever pressed Ctrl-C, and says what became of that."""
    from sdk import HoldfastSdkError

    try:
        ended = policies.cancel_rehearsal(rehearsal_id)
    except HoldfastSdkError as error:
        note(f"rehearsal {rehearsal_id} could not be cancelled and may go on: {error}")
        return
    was = "is cancelled" if ended.state == "cancelled" else f"had ended already: {ended.state}"
    note(f"rehearsal {rehearsal_id} {was}")


def _wait(session: Session, found: PolicyRehearsal) -> PolicyRehearsal:
    told = time.monotonic()
    while not found.is_over:
        time.sleep(_POLL_S)
        found = session.client.policies.rehearsal(found.rehearsal_id)
        if time.monotonic() - told >= _TELL_S:
            told = time.monotonic()
            of = "" if found.total is None else f" of {found.total:,}"
            note(f"{found.state}: {found.done:,}{of} records")
    return found


def report_lines(found: Mapping[str, Any]) -> Iterator[str]:  # Any: JSON
    """Yields what was found, for people."""
    if not found["decisions"]:
        yield "there are no decisions of that time that a candidate can be asked about"
        yield from _skipped(found)
        return
    totals = found["totals"]
    yield f"{found['decisions']:,} decisions, asked again"
    yield ""
    rows = [["", "on the facts as they were", "as they would have become"]]
    for name, words in _WORDS.items():
        rows.append([words, f"{totals['as_recorded'][name]:,}", f"{totals['as_become'][name]:,}"])
    yield from columns(rows)
    for title in ("newly_allowed", "newly_refused", "newly_gated"):
        groups = [each for each in found["changes"] if each["change"] == title]
        if groups:
            yield ""
            yield f"{_WORDS[title]}:"
            for group in groups:
                yield from _group(group, _said(group["would"]))
    if found["untold"]:
        yield ""
        yield "cannot be told, because no record holds what the candidate asks for:"
        for group in found["untold"]:
            yield from _group(group, f"needs {', '.join(group['needs'])}")
    if found["left_off"]:
        yield f"  … and {found['left_off']:,} more kinds of change, which the totals count"
    yield ""
    yield from _notes(found)


def _group(group: Mapping[str, Any], would: str) -> Iterator[str]:  # Any: JSON
    counts = f"{group['as_recorded']:,} as they were, {group['as_become']:,} as they would have become"
    yield f"  {group['role']}: {group['action']}: {_said(group['was'])} → {would}: {counts}"
    if group["after_untaken"]:
        yield f"    {group['after_untaken']:,} of them after an action that was never taken"
    for each in group["examples"]:
        at = datetime.fromtimestamp(each["at_ms"] / 1000, UTC)
        yield f"    {at:%Y-%m-%d %H:%M:%S} decision {each['decision_id']}, run {each['run_id']} step {each['step']}"
        yield f"      {each['arguments']} {each['digest'][:16]}"


def _said(verdict: Mapping[str, str]) -> str:
    rule = f", {verdict['rule']}" if verdict["rule"] else ""
    return f"{verdict['verdict']} ({verdict['code']}{rule})"


def _notes(found: Mapping[str, Any]) -> Iterator[str]:  # Any: JSON
    if not found["changes"] and not found["untold"]:
        yield "nothing would be decided otherwise"
    if found["untaken"]:
        yield (
            f"{found['untaken']:,} actions would have been allowed and were never taken: nobody knows what would have come of "
            "them, so they count as asked for, and never as done"
        )
    yield from _skipped(found)


def _skipped(found: Mapping[str, Any]) -> Iterator[str]:  # Any: JSON
    for why, count in found["skipped"].items():
        yield f"{count:,} records left out: {why}"
