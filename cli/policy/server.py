"""`holdfast policy push`, `list`, `show`, `activate`, `rollback`, `shadow` and `log`: the policy that a server decides by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.session import Session, with_session
from cli.terminal import EXIT_CODES_HELP, note, say
from cli.text import columns, json_line
from holdfast.errors import NotFound

if TYPE_CHECKING:
    from sdk import PolicyActivation, PolicyVersion, ShadowReport

_HASH_SHOWN: Final = 12

PolicyFile = Annotated[Path, typer.Argument(metavar="POLICY", help="The policy's file; - for standard input.")]
Version = Annotated[
    int, typer.Argument(min=1, metavar="VERSION", help="Number of a version, as `policy list` shows it.")
]
Reason = Annotated[
    str, typer.Option(metavar="TEXT", help="Why; stands in the log of activations and in the decision log.")
]
Limit = Annotated[int, typer.Option(min=1, help="Most of them.")]


def register(group: typer.Typer) -> None:
    """Adds the commands to `holdfast policy`."""
    for command in (push, show, activate, rollback, shadow, log):
        group.command(epilog=EXIT_CODES_HELP)(command)
    group.command("list", epilog=EXIT_CODES_HELP)(list_)


@with_session
def push(
    session: Session,
    policy: PolicyFile,
    cases: Annotated[
        Path | None,
        typer.Option(help="Cases that it has to pass. Default: NAME.cases.toml beside it, if there is one."),
    ] = None,
    note_: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; kept with the version.")] = "",
    and_activate: Annotated[bool, typer.Option("--activate", help="Make it active as well.")] = False,
) -> None:
    """Stores a policy on the server as a new version; it decides nothing until it is made active.

    The server holds it against the tenant's tools and plays its cases, and says everything that is wrong at once.
    """
    from cli.policy import files
    from sdk import HoldfastApiError

    source = files.read_text(policy)
    if cases is None and str(policy) != "-" and (beside := files.beside(policy, ".cases.toml")).is_file():
        cases = beside
    try:
        stored = session.client.policies.push(source, cases="" if cases is None else files.read_text(cases), note=note_)
    except HoldfastApiError as error:
        if session.as_json and error.problems:
            say(json_line({"ok": False, "problems": error.problems}))
        raise
    done = None
    if and_activate and not stored.active:
        done = session.client.policies.activate(stored.version, reason=note_)
    is_active = stored.active or done is not None
    answer = {"policy": stored, "activation": done}
    session.show(answer, lambda: _pushed(stored, is_active=is_active))


def _pushed(stored: PolicyVersion, *, is_active: bool) -> Iterator[str]:
    yield f"version {stored.version} is stored, {stored.policy_hash[:_HASH_SHOWN]}"
    if is_active:
        yield "it is active: runs that begin now are decided by it"
    else:
        yield f"look at it beside the active one with `holdfast policy shadow {stored.version}`"
        yield f"make it active with `holdfast policy activate {stored.version}`"


@with_session
def list_(session: Session, limit: Limit = 20) -> None:
    """Lists the versions of the policy, newest first: which is active, who put it, when and why."""
    found = session.client.policies.versions(count=limit)
    rows = (
        [
            str(each.version),
            _use(each),
            each.policy_hash[:_HASH_SHOWN],
            each.origin,
            each.put_by,
            f"{each.put_at:%Y-%m-%d %H:%M}",
            each.note,
        ]
        for each in found
    )
    headings = ["version", "use", "hash", "origin", "put by", "put at", "note"]
    session.show_table(found, headings, rows, "there is no policy, so everything is denied: push one")


def _use(version: PolicyVersion) -> str:
    return ", ".join(word for word, is_so in (("active", version.active), ("shadow", version.shadow)) if is_so)


def _active(session: Session) -> int:
    for each in session.client.policies.log(count=200):
        if each.use == "active" and each.version is not None:
            return each.version
    raise NotFound(
        "no version of the policy is active", remedy="push one with --activate, or see `holdfast policy list`"
    )


@with_session
def show(
    session: Session,
    version: Annotated[
        int | None, typer.Argument(min=1, metavar="VERSION", help="Number of a version. Default: the active one.")
    ] = None,
) -> None:
    """Prints the text of a version; who put it stands on stderr."""
    found = session.client.policies.show(version or _active(session))
    if not session.as_json:
        use = f", {_use(found)}" if _use(found) else ""
        note(
            f"version {found.version}{use}, {found.policy_hash}, put by {found.put_by} at {found.put_at:%Y-%m-%d %H:%M}"
        )
    session.show(found, found.source.splitlines)


@with_session
def activate(session: Session, version: Version, reason: Reason = "") -> None:
    """Makes a version active: runs that begin from now on are decided by it, those that run keep theirs."""
    done = session.client.policies.activate(version, reason=reason)
    session.show(done, lambda: [f"version {done.version} is active"])


@with_session
def rollback(
    session: Session,
    version: Annotated[
        int | None,
        typer.Argument(min=1, metavar="VERSION", help="Number of a version. Default: the one that was active before."),
    ] = None,
    reason: Reason = "",
) -> None:
    """Makes an older version active again."""
    done = session.client.policies.roll_back(version, reason=reason)
    session.show(done, lambda: [f"version {done.version} is active again"])


@with_session
def shadow(
    session: Session,
    version: Annotated[
        int | None,
        typer.Argument(min=1, metavar="VERSION", help="The candidate. Default, with --report: the current one."),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Say where it would have decided otherwise.")] = False,
    off: Annotated[bool, typer.Option("--off", help="Look at none any more.")] = False,
    reason: Reason = "",
) -> None:
    """Names the version that is looked at beside the active one; it is asked about every action, and decides none."""
    if off + report > 1 or (off and version is not None) or not (off or report or version is not None):
        raise typer.BadParameter("give a version to begin, --report to see what came of it, or --off to end it")
    policies = session.client.policies
    if report:
        found = policies.shadow_report(version)
        session.show(found, lambda: _report_lines(found))
        return
    done = policies.shadow(version, reason=reason)
    words = (
        "no version is looked at any more"
        if done.version is None
        else f"version {done.version} is looked at; see `holdfast policy shadow --report`"
    )
    session.show(done, lambda: [words])


def _report_lines(found: ShadowReport) -> Iterator[str]:
    if not found.decisions:
        yield f"version {found.version} was not asked yet: it is looked at when an action is decided"
        return
    yield f"version {found.version}: {found.different} of {found.decisions} decisions would have been otherwise"
    rows = [["decisions", "action", "role", "was", "would be", "rule", "would be rule", "newest"]]
    for each in found.differences:
        changed = [str(each[name]) for name in ("decisions", "action", "role", "active_verdict", "verdict")]
        rows.append([*changed, each["active_rule"], each["rule"] or each["code"], each["newest_id"]])
    if len(rows) > 1:
        yield from columns(rows)


@with_session
def log(session: Session, limit: Limit = 20) -> None:
    """Lists who made which version active, looked at one in the shadow or rolled back, and why; newest first."""
    found = session.client.policies.log(count=limit)
    rows = (
        [str(each.seq), f"{each.activated_at:%Y-%m-%d %H:%M:%S}", _act(each), each.activated_by, each.reason]
        for each in found
    )
    session.show_table(found, ["no.", "at", "what", "by", "reason"], rows, "no version was made active yet")


def _act(each: PolicyActivation) -> str:
    return "shadow ended" if each.version is None else f"{each.action.replace('_', ' ')} {each.version}"
