"""The command `holdfast doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import typer

from cli import profile_file
from cli.doctor.finding import Finding, State, of_error, ok
from cli.session import Session, with_session
from cli.terminal import EXIT_CODES_HELP, ExitCode, say, styled
from cli.text import json_line, one_line
from holdfast.errors import HoldfastError

_STYLES: Final = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "red"}
_PART_WIDTH: Final = 16


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXIT_CODES_HELP)(doctor)


@with_session
def doctor(session: Session) -> None:
    """Looks at everything that Holdfast needs: what is there, what is missing, and what to do. It changes nothing.

    Without a server it looks at this machine and at the stack on the data folder, if one runs. With --url or a profile it
    looks at that server only. Where settings name a bucket of S3, it writes an object of its own there, and removes it. Exit
    code 0 if nothing failed.
    """
    found: list[Finding] = []
    for finding in findings(session):
        found.append(finding)
        if not session.as_json:
            _print(finding)
    good = all(one.state is not State.FAILED for one in found)
    if session.as_json:
        say(json_line({"ok": good, "findings": [one.to_json() for one in found]}))
    else:
        say(_sum(found))
    if not good:
        raise typer.Exit(ExitCode.FAILED)


def findings(session: Session) -> Iterator[Finding]:
    """Yields what is found, one after the other."""
    from cli.doctor import machine, server

    yield from machine.software()
    try:
        yield from _profiles()
        chosen = session.server()
    except HoldfastError as error:
        yield of_error("profiles", error)
        return
    if chosen.url is not None:
        yield from server.api(session, chosen.url)
        return
    yield from _local(session)


def _profiles() -> Iterator[Finding]:
    profiles = profile_file.read()
    if not profiles.by_name:
        return
    yield ok("profiles", f"{', '.join(sorted(profiles.by_name))}; current: {profiles.current}")
    for profile in profiles.by_name.values():
        if profile.key_file is not None:
            try:
                profile_file.check_key_file(profile.key_file)
            except HoldfastError as error:
                yield of_error(f"key of {profile.name}", error)


def _local(session: Session) -> Iterator[Finding]:
    from cli.doctor import folder, machine, own_servers, sandbox, server, stack, storage

    yield from machine.programs()
    yield from sandbox.layers()
    yield sandbox.languages()
    yield sandbox.backends()
    yield from own_servers.named()
    yield from storage.bucket()
    yield from folder.data_folder(session.folder)
    yield from folder.secrets(session.folder)
    yield from folder.ports(session.folder)
    if session.folder.running_pid() is None:
        yield ok("stack", f"none runs on {session.folder.path}; `holdfast up` starts one")
        return
    try:
        state = session.folder.read_state()
    except HoldfastError as error:
        yield of_error("stack", error)
        return
    yield from stack.running(session.folder, state)
    urls = state.get("urls")
    if isinstance(urls, dict) and urls.get("api"):
        yield from server.api(session, str(urls["api"]))


def _print(finding: Finding) -> None:
    say(
        styled(f"{finding.state.value:<8} ", _STYLES[finding.state])
        + one_line(f"{finding.part:<{_PART_WIDTH}} {finding.what}")
    )
    if finding.remedy:
        say(f"{'':<9}{'':<{_PART_WIDTH}} to do: {one_line(finding.remedy)}")


def _sum(found: list[Finding]) -> str:
    counts = {state: sum(one.state is state for one in found) for state in State}
    if not counts[State.FAILED]:
        return f"nothing failed: {counts[State.OK]} ok, {counts[State.WARNING]} to know about"
    return f"{counts[State.FAILED]} failed, {counts[State.WARNING]} to know about, {counts[State.OK]} ok"
