"""`holdfast explain`: what a code means, and what is to be done."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from cli.terminal import EXIT_CODES_HELP, reported, say
from holdfast.codes.catalogue import CATALOGUE, nearest
from holdfast.codes.entry import Code
from holdfast.errors import NotFound


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXIT_CODES_HELP)(explain)


def explain(
    code: Annotated[
        str | None, typer.Argument(help="A code such as `budget.cap_exceeded`. Default: lists all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Says what a code means and what to do about it; needs no server."""
    with reported():
        if code is None:
            _list(as_json=as_json)
            return
        entry = CATALOGUE.get(code.strip().lower())
        if entry is None:
            near = nearest(code)
            raise NotFound(
                f"Holdfast has no code {code!r}",
                remedy=f"did you mean {', '.join(near)}?"
                if near
                else "a forbid rule of a role may bring codes of its own: look at the role's rules",
            )
        if as_json:
            say(json.dumps(_plain(entry), ensure_ascii=False))
            return
        say(entry.code)
        say(f"  what is so:  {entry.cause}")
        say(f"  what to do:  {entry.remedy}")
        say(f"  appears in:  {', '.join(entry.places)}")
        if entry.verdict:
            say(f"  verdict:     {entry.verdict}")
        if entry.status:
            say(f"  HTTP status: {entry.status}")


def _list(*, as_json: bool) -> None:
    if as_json:
        say(json.dumps([_plain(entry) for entry in CATALOGUE.values()], ensure_ascii=False))
        return
    width = max(map(len, CATALOGUE))
    for name in sorted(CATALOGUE):
        say(f"{name:{width}}  {CATALOGUE[name].cause}")


def _plain(entry: Code) -> dict[str, object]:
    return {**asdict(entry), "places": [place.value for place in entry.places]}
