"""Brings a project folder to a server, once or whenever a file changes; nothing is restarted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.project import cases
from cli.project.files import FOLDERS, Project, read_project
from cli.project.plan import Item, Server, check_references
from cli.session import Session, api_errors
from cli.terminal import errors, say
from holdfast.errors import HoldfastError
from holdfast.tools.toolset import toolset

_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one thing."""

    kind: str
    name: str
    change: str
    version: int
    put: bool


def watch(session: Session, folder: Path, *, check: bool) -> None:
    """Applies the folder, and again whenever it changes, until Ctrl-C."""
    try:
        for number, _ in enumerate(_states(folder)):
            _again(session, folder, check=check)
            if number == 0 and not session.as_json:
                say(f"watching {folder.expanduser().absolute()}; Ctrl-C ends")
    except KeyboardInterrupt:
        say("no longer watching")


def _again(session: Session, folder: Path, *, check: bool) -> None:
    """Applies a state of the folder; while a file is wrong or the server away, the server keeps what it has."""
    try:
        with api_errors():
            apply(session, folder, check=check)
    except HoldfastError as error:
        errors.print(f"error: {error.message}", markup=False, style="red")
        if error.remedy:
            errors.print(f"  to do: {error.remedy}", markup=False)


def _states(folder: Path) -> Iterator[str]:
    """Yields a digest of the folder's content now, and again whenever it has changed and then stood still for a moment."""
    shown = ""
    while True:
        state = _state(folder)
        if state != shown and state == _settled(folder, state):
            shown = state
            yield state
        time.sleep(_LOOK_S)


def _settled(folder: Path, state: str) -> str:
    time.sleep(_LOOK_S / 5)
    return _state(folder) if state else state


def _state(folder: Path) -> str:
    digest = hashlib.sha256()
    base = folder.expanduser().absolute()
    for path in sorted(path for kind in FOLDERS for path in (base / kind).rglob("*") if path.is_file()):
        if "__pycache__" in path.parts:
            continue
        try:
            stat = path.stat()
        except OSError:
            continue  # removed in between: the next look sees it
        digest.update(f"{path.relative_to(base)}\0{stat.st_mtime_ns}\0{stat.st_size}\0".encode())
    return digest.hexdigest()


def apply(session: Session, folder: Path, *, check: bool) -> None:
    """Applies the folder once.

    Raises:
        ProjectInvalid: Something in it is wrong; nothing was put.
    """
    project = read_project(folder)
    server = Server(session.client)
    played = _checked(project, server)
    applied = [_apply(item, check=check) for item in server.items(project)]
    session.show(
        {"folder": str(project.folder), "check": check, "cases": played, "items": [_json(one) for one in applied]},
        lambda: _lines(applied, played, check=check),
    )


def _checked(project: Project, server: Server) -> int:
    """Checks all that can be checked before anything is put, and returns how many cases were played."""
    tools = toolset({**server.own_tools(), **project.tools}.values())
    check_references(project, tools, [role.name for role in server.client.roles()])
    return cases.check(list(project.roles.values()), tools)


def _apply(item: Item, *, check: bool) -> Applied:
    if check or item.change == "unchanged":
        return Applied(item.kind, item.name, item.change, item.version, put=False)
    return Applied(item.kind, item.name, item.change, item.put(), put=True)


def _json(one: Applied) -> dict[str, str | int | bool]:
    return {"kind": one.kind, "name": one.name, "change": one.change, "version": one.version, "put": one.put}


def _lines(applied: list[Applied], played: int, *, check: bool) -> Iterator[str]:
    for one in applied:
        if one.change == "unchanged":
            yield f"  {one.kind:<6} {one.name:<32} unchanged, version {one.version}"
        elif check:
            yield f"~ {one.kind:<6} {one.name:<32} {one.change}: would be version {one.version + 1}"
        else:
            yield f"+ {one.kind:<6} {one.name:<32} {one.change}: version {one.version}"
    changed = sum(one.change != "unchanged" for one in applied)
    verb = "would change" if check else "changed"
    yield f"{changed} of {len(applied)} {verb}; {played} cases of roles decide as they say"
