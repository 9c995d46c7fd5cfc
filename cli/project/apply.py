"""Brings a project folder to a server, once or whenever a file changes; nothing is restarted."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.project import cases
from cli.project.files import FOLDERS, Project, read_project
from cli.project.plan import Item, Server, check_references
from cli.session import Session
from cli.terminal import errors, say
from holdfast.tools.toolset import toolset

_LOOK_S = 0.5
_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one thing."""

    kind: str
    name: str
    change: str
    version: int
    put: bool


def watch(folder: Path, arguments: Sequence[str]) -> None:
    """Applies the folder, and again whenever it changes, until Ctrl-C.

    Each time in a process of its own, which imports the code of Python tools as it is by then. What failed is tried again: the
    server may be back, or a tool's package installed. Its error is shown once.

    Args:
        folder: The project.
        arguments: Those of the command that applies it once.
    """
    as_json = "--json" in arguments
    if not as_json:
        say(f"watching {folder.expanduser().absolute()}; Ctrl-C ends")
    tried, failed_at, shown = "", 0.0, ""
    try:
        while True:
            state = _settled(folder)
            if state != tried or (shown and time.monotonic() - failed_at >= _AGAIN_S):
                error = _apply_apart(arguments)
                if error and error != shown:
                    errors.print(error, markup=False, style="red")
                tried, failed_at, shown = state, time.monotonic(), error
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        if not as_json:
            say("no longer watching")


def _apply_apart(arguments: Sequence[str]) -> str:
    """Applies once in a process of its own, and returns what it said on stderr if that failed."""
    command = [sys.executable, "-m", "cli.main", *arguments]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603 (this command itself)
    return "" if ended.returncode == 0 else ended.stderr.strip() or f"`apply` ended with {ended.returncode}"


def _settled(folder: Path) -> str:
    """Returns a digest of what lies in the folder, once it has stood still for a moment: an editor may be in the middle."""
    state = _state(folder)
    while True:
        time.sleep(_LOOK_S / 5)
        before, state = state, _state(folder)
        if state == before:
            return state


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
    server = Server.read(session.client)
    played = _checked(project, server)
    applied = [_apply(item, check=check) for item in server.items(project)]
    session.show(
        {"folder": str(project.folder), "check": check, "cases": played, "items": [_json(one) for one in applied]},
        lambda: _lines(applied, played, check=check),
    )


def _checked(project: Project, server: Server) -> int:
    """Checks all that can be checked before anything is put, and returns how many cases were played."""
    tools = toolset({**server.own_tools(), **project.tools}.values())
    policy, played = cases.check_policy(project.policy, tools) if project.policy is not None else (None, 0)
    of_policy = policy.roles if policy is not None else ()
    check_references(project, tools, {*server.roles, *of_policy})
    return cases.check(list(project.roles.values()), tools) + played


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
    yield f"{changed} of {len(applied)} {verb}; {played} cases decide as they say"
