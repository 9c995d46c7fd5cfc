"""`holdfast policy check`, `diff`, `test`, `explain`, `fmt`, `simulate` and `translate`: of files; `explain` may ask a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from cli.policy import rehearsing, server
from cli.session import AsJson, Session, with_session
from cli.terminal import ExitCode, reported, say
from cli.text import json_line, safe
from holdfast.errors import RequestInvalid

_EXIT_CODES: Final = "Exit codes: 0 fine, 1 something was found, 2 a file cannot be used."

Policies = Annotated[list[Path], typer.Argument(metavar="POLICY", help="Files, or folders with *.policy in them.")]
OnePolicy = Annotated[Path, typer.Argument(metavar="POLICY", help="The policy's file.")]
Actions = Annotated[
    Path | None,
    typer.Option(
        "--actions",
        help="Catalogue of actions: ours, an MCP server's list of tools, or a list of functions, as JSON or TOML. "
        "Default: NAME.actions.toml or NAME.actions.json beside the policy.",
    ),
]
Role = Annotated[str | None, typer.Option(help="Role that acts. Default: as the file says, or the policy's only role.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(
        help="Policies: is a file what its author meant, and which version does the server decide by?",
        no_args_is_help=True,
    )
    for command in (check, diff, explain, simulate):
        group.command(epilog=_EXIT_CODES)(command)
    group.command("test", epilog=_EXIT_CODES)(cases)
    group.command("fmt", epilog=_EXIT_CODES)(fmt)
    group.command(epilog="Exit codes: 0 done, 2 the file cannot be used.")(translate)
    server.register(group)
    rehearsing.register(group)
    app.add_typer(group, name="policy")


@contextmanager
def _usable(*, as_json: bool) -> Iterator[None]:
    """Ends with 2 if something cannot be used; as JSON, the problems are the result."""
    from cli.policy.files import PolicyUnusable

    try:
        with reported():
            try:
                yield
            except PolicyUnusable as unusable:
                if as_json:
                    say(json_line({"ok": False, "problems": unusable.problems}))
                raise
    except typer.Exit:
        raise typer.Exit(ExitCode.USAGE) from None


def _end(*, good: bool) -> None:
    if not good:
        raise typer.Exit(ExitCode.FAILED)


def check(policies: Policies, actions: Actions = None, as_json: AsJson = False) -> None:
    """Looks for what a policy can never do, before it is switched on.

    Rules that cannot fire, permits that forbids swallow, actions that are always denied, invariants that ask for a step nobody
    may take, gates that never ask, limits that hold nothing. Each finding is proved, or comes with a request that the engine
    itself confirms.
    """
    with _usable(as_json=as_json):
        from cli.policy import files, reports
        from holdfast_verdict.check.checking import check_policy

        results = []
        for path in files.policies_in(policies):
            file = files.read_policy(path, actions)
            report = check_policy(file.policy, file.catalogue)
            results.append((file, report))
            if not as_json:
                for line in reports.check_lines(file, report):
                    say(safe(line))
        good = all(not report.findings for _, report in results)
        if as_json:
            say(
                json_line(
                    {"ok": good, "policies": [{"file": str(file.path), **report.to_json()} for file, report in results]}
                )
            )
    _end(good=good)


def diff(
    before: Annotated[Path, typer.Argument(help="The policy as it is.")],
    after: Annotated[Path, typer.Argument(help="The policy as it would be.")],
    actions: Actions = None,
    as_json: AsJson = False,
) -> None:
    """Lists concrete requests that a change newly allows, newly denies or newly asks consent for, by role and action."""
    with _usable(as_json=as_json):
        from cli.policy import files, reports
        from holdfast_verdict.check.diff import diff_policies

        new = files.read_policy(after, actions)
        old = files.read_policy(before, actions or new.catalogue_path)
        report = diff_policies(old.policy, new.policy, new.catalogue)
        if as_json:
            say(json_line({"ok": not report.findings, **report.to_json()}))
        else:
            for line in reports.diff_lines(old, new, report):
                say(safe(line))
    _end(good=not report.findings)


def cases(policies: Policies, actions: Actions = None, as_json: AsJson = False) -> None:
    """Plays the cases that lie beside policies: NAME.cases.toml beside NAME.policy."""
    with _usable(as_json=as_json):
        from cli.policy import files, reports, running

        results = []
        for path in files.policies_in(policies):
            played = running.play_file(path, actions)
            results.append((path, played))
            if not as_json:
                for line in reports.test_lines(path, played):
                    say(safe(line))
        good = all(result.passed for _, played in results for result in played)
        if as_json:
            say(
                json_line(
                    {
                        "ok": good,
                        "policies": [
                            {"file": str(path), "cases": [each.to_json() for each in played]}
                            for path, played in results
                        ],
                    }
                )
            )
        else:
            say(reports.test_sum([result for _, played in results for result in played]))
    _end(good=good)


@with_session
def explain(
    session: Session,
    policy: Annotated[
        Path, typer.Argument(metavar="POLICY|DECISION_ID", help="The policy's file, or the id of a recorded decision.")
    ],
    request: Annotated[
        str | None,
        typer.Argument(
            help="The action and what is known, with the keys of a case: a JSON or TOML file, - for standard input, or JSON itself."
        ),
    ] = None,
    actions: Actions = None,
    role: Role = None,
) -> None:
    """Says which rule decides on an action and which nearly did, condition by condition, with the values that were read.

    With a file, on any request; no server is asked. With the id of a decision, on the facts that were recorded, by the version of the
    policy that decided then; what the record cannot say is said.
    """
    from cli.policy import files, reports, running

    if request is None and (decision_id := running.decision_id_of(policy)) is not None:
        told = session.client.policies.explain_decision(decision_id)
        session.show(told, lambda: reports.recorded_lines(told))
        return
    with _usable(as_json=session.as_json):
        if request is None:
            raise RequestInvalid(f"{policy} is no id of a decision, and a policy's file needs a REQUEST beside it")
        explanation = running.explain_request(files.read_policy(policy, actions), request, role)
        if session.as_json:
            say(json_line(explanation.to_json()))
            return
        for line in reports.explain_lines(explanation):
            say(safe(line))


def simulate(
    policy: OnePolicy,
    sequence: Annotated[
        Path, typer.Argument(help="Actions and outcomes, one JSON object a line; - for standard input.")
    ],
    actions: Actions = None,
    role: Role = None,
    as_json: AsJson = False,
) -> None:
    """Plays a sequence of actions through one run in memory, and shows what is decided on each.

    A line has the keys of a case's step, such as {"action": "payment.refund", "args": {"amount": 50}, "outcome": "succeeded"}.
    The first may say who acts and when: {"role": "billing-agent", "at": "2026-03-02T10:00:00Z"}. Where a line has `expect`,
    another verdict is a finding.
    """
    with _usable(as_json=as_json):
        from cli.policy import files, reports, running

        file = files.read_policy(policy, actions)
        played = running.simulate(file, files.read_text(sequence), str(sequence), role)
        if as_json:
            for each in played:
                say(json_line(each.to_json()))
        else:
            for line in reports.simulation_lines(played):
                say(safe(line))
    _end(good=not any(each.differences for each in played))


def fmt(
    policies: Policies,
    only_check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 if something would change.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Lays policies out in the one way; comments stay, and the meaning does. - reads standard input and writes standard output."""
    with _usable(as_json=as_json):
        from cli.policy import files, running

        changed = []
        listed = files.policies_in(policies)
        for path in listed:
            text = files.read_text(path)
            laid_out = running.laid_out(text, path)
            if str(path) == "-" and not only_check and not as_json:
                say(laid_out.removesuffix("\n"))
                continue
            if laid_out != text:
                changed.append(str(path))
                if not only_check and str(path) != "-":
                    path.write_text(laid_out, encoding="utf-8")
        if as_json:
            say(json_line({"ok": not (only_check and changed), "changed": changed, "files": len(listed)}))
        else:
            for name in changed:
                say(safe(f"{name} {'would be laid out anew' if only_check else 'was laid out anew'}"))
    _end(good=not (only_check and changed))


def translate(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE", help="roles/NAME.toml, or JSON as it was sent to the server; - for standard input."
        ),
    ],
    role: Annotated[
        str | None, typer.Option(help="The role's name. Default: as the file says, or the file's name.")
    ] = None,
    write: Annotated[
        bool,
        typer.Option("--write", help="Write NAME.policy and NAME.cases.toml beside the file; nothing is overwritten."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Says a role's table of rules in the language of policies. Servers and projects take texts alone.

    Rules keep their names, codes and messages. Where a row cannot be said exactly, the text is stricter, and a comment says so.
    """
    with _usable(as_json=as_json):
        from cli.policy import tables

        if write and str(table) == "-":
            raise RequestInvalid("there is no folder to write beside standard input", remedy="leave out --write")
        said = tables.translated(table, role)
        written = tables.write_beside(table, said) if write else []
        if as_json:
            say(
                json_line(
                    {
                        "ok": True,
                        "role": said.role,
                        "policy": said.policy,
                        "cases": said.cases,
                        "written": list(map(str, written)),
                    }
                )
            )
        elif not write:
            for line in [*said.policy.splitlines(), *([""] if said.cases else []), *said.cases.splitlines()]:
                say(safe(line))
        else:
            for each in written:
                say(safe(f"wrote {each}"))
            rest = (
                "leave max_tokens_default in it, and take rules and cases out"
                if said.max_tokens_default
                else "remove it"
            )
            say(safe(f"{table} still has the table: {rest}"))
