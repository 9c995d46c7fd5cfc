"""`holdfast profiles add|list|use|remove`: several servers, each under a short name."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import profile_file
from cli.profile_file import LOCAL, Profile, Profiles
from cli.session import AsJson, Session, check_key, known_profiles
from cli.terminal import EXIT_CODES_HELP, reported
from holdfast.errors import Conflict

if TYPE_CHECKING:
    from pydantic import JsonValue

Name = Annotated[str, typer.Argument(help="A short name, such as staging.", autocompletion=known_profiles)]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="Servers under short names.", no_args_is_help=True)
    group.command(epilog=EXIT_CODES_HELP)(add)
    group.command("list", epilog=EXIT_CODES_HELP)(list_)
    group.command(epilog=EXIT_CODES_HELP)(use)
    group.command(epilog=EXIT_CODES_HELP)(remove)
    app.add_typer(group, name="profiles")


def add(
    name: Name,
    url: Annotated[str, typer.Option(help="The server's API.")],
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the API key, which only you can read; - takes the key from standard input and keeps it in such a "
            "file beside the profiles. Default: none, HOLDFAST_API_KEY has to say it."
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a profile of this name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Adds a server. The profile names the file of its key and never holds the key."""
    with reported():
        profile_file.check_name(name)
        profile_file.check_url(url)
        if name in profile_file.read().by_name and not replace:
            raise Conflict(f"there is a profile {name} already", remedy="give --replace, or take another name")
        if key_file is not None:
            key_file = _keep(name) if str(key_file) == "-" else profile_file.check_key_file(key_file)
        profile = Profile(name, url, key_file)
        profile_file.put(profile)
        _session(as_json).show(
            _json(profile, Profiles()),
            lambda: [f"added {name}; take it with `--profile {name}`, or for good with `holdfast profiles use {name}`"],
        )


def _keep(name: str) -> Path:
    asked = "the API key (not shown): "
    key = getpass.getpass(asked) if sys.stdin.isatty() else sys.stdin.readline()
    return profile_file.keep_key(name, check_key(key.strip(), "standard input"))


def list_(as_json: AsJson = False) -> None:
    """Lists profiles; the current one is marked."""
    with reported():
        found = profile_file.read()
        session = _session(as_json)
        rows = [["*" if found.current == LOCAL else "", LOCAL, "the stack on this machine", "its first tenant's"]]
        for one in found.by_name.values():
            key = "HOLDFAST_API_KEY" if one.key_file is None else str(one.key_file)
            rows.append(["*" if found.current == one.name else "", one.name, one.url, key])
        answers = [_json(one, found) for one in found.by_name.values()]
        local: dict[str, JsonValue] = {"name": LOCAL, "url": None, "key_file": None, "current": found.current == LOCAL}
        session.show_table([local, *answers], ["", "name", "server", "key"], rows, "")


def use(name: Name, as_json: AsJson = False) -> None:
    """Makes a profile the current one; `local` is the stack on this machine."""
    with reported():
        if name != LOCAL:
            profile_file.read().find(name)
        profile_file.use(name)
        _session(as_json).show({"current": name}, lambda: [f"{name} is current"])


def remove(name: Name, as_json: AsJson = False) -> None:
    """Removes a profile; its key's file stays, unless it was kept beside the profiles."""
    with reported():
        profile = profile_file.read().find(name)
        profile_file.remove(name)
        profile_file.forget_key(profile)
        _session(as_json).show({"removed": name}, lambda: [f"removed {name}"])


def _session(as_json: bool) -> Session:
    return Session(None, None, None, as_json)


def _json(profile: Profile, found: Profiles) -> dict[str, JsonValue]:
    return {
        "name": profile.name,
        "url": profile.url,
        "key_file": None if profile.key_file is None else str(profile.key_file),
        "current": found.current == profile.name,
    }
