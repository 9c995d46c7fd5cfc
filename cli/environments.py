"""`holdfast sandbox build|list|remove`: the packages that code in the sandbox may import on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli import sandbox_tiers
from cli.terminal import EXIT_CODES_HELP, note, reported, say
from cli.text import json_line
from holdfast.errors import ConfigurationInvalid, NotFound

if TYPE_CHECKING:
    from sandbox.environments import Environment, Environments

FOLDER: Final = "HOLDFAST_ENVIRONMENTS_FOLDER"
_MB: Final = 1_000_000
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Folder = Annotated[
    Path | None,
    typer.Option(help=f"Where environments are kept. Default: {FOLDER}, else this account's folder for data."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(
        help="Packages that code may import on this machine, and how hard code is isolated.",
        no_args_is_help=True,
    )
    group.command(epilog=EXIT_CODES_HELP)(build)
    group.command("list", epilog=EXIT_CODES_HELP)(list_)
    group.command(epilog=EXIT_CODES_HELP)(remove)
    sandbox_tiers.add_to(group)
    app.add_typer(group, name="sandbox")


@contextmanager
def _environments(folder: Path | None) -> Iterator[Environments]:
    from sandbox.environments import Environments

    named = folder or (Path(os.environ[FOLDER]) if os.environ.get(FOLDER) else None)
    with reported():
        yield Environments(named)


def _plain(one: Environment) -> dict[str, str | int | bool]:
    used = datetime.fromtimestamp(one.used_at, UTC)
    return {"lock": one.digest, "size_bytes": one.size_bytes, "used_at": used.isoformat(), "data": one.data}


def build(
    lock: Annotated[
        str, typer.Argument(help="`data` (numpy, pandas, matplotlib), or a lock: exact versions with digests.")
    ],
    *,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Makes an environment by a lock, from wheels alone, with uv and the index that its settings name. Jobs reach no index."""
    from sandbox.environments import DATA, data_lock

    with _environments(folder) as environments:
        try:
            text = data_lock() if lock == DATA else Path(lock).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationInvalid(
                f"cannot read {lock}: {error}",
                remedy="name `data`, or a file such as `uv pip compile --generate-hashes` writes",
            ) from None
        made = environments.build(text, on_step=note)
        said = f"{'the runtime data' if made.data else 'packages'}: {made.digest}, {made.size_bytes // _MB} MB"
        say(json_line(_plain(made)) if as_json else said)


def list_(*, folder: Folder = None, as_json: AsJson = False) -> None:
    """Lists the environments that are built for this Python."""
    with _environments(folder) as environments:
        found = environments.list()
        if as_json:
            say(json_line([_plain(one) for one in found]))
            return
        for one in found:
            used = datetime.fromtimestamp(one.used_at, UTC)
            say(
                f"{one.digest}  {one.size_bytes // _MB:>6} MB  used {used:%Y-%m-%d %H:%M}  {'data' if one.data else ''}".rstrip()
            )
        if not found:
            say("none is built; `holdfast sandbox build data` makes the one with numpy, pandas and matplotlib")


def remove(
    lock: Annotated[str, typer.Argument(help="The digest of its lock, as `list` shows it.")],
    *,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Removes an environment that no sandbox uses."""
    with _environments(folder) as environments:
        if environments.find_digest(lock) is None:
            raise NotFound(
                f"no environment of the lock {lock[:80]!r} is here", remedy="`holdfast sandbox list` shows them"
            )
        if not environments.remove(lock):
            raise ConfigurationInvalid(f"a sandbox uses {lock}", remedy="stop it first")
        say(json_line({"lock": lock, "removed": True}) if as_json else f"removed {lock}")
