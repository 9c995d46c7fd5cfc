"""`holdfast artefacts`: the files of a run, and getting them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.runs import RunId
from cli.session import Session, with_session
from cli.terminal import EXIT_CODES_HELP
from cli.text import one_line
from holdfast.errors import NotFound, RequestInvalid

if TYPE_CHECKING:
    from sdk import Artefact


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXIT_CODES_HELP)(artefacts)


@with_session
def artefacts(
    session: Session,
    run_id: RunId,
    get: Annotated[str | None, typer.Option(help="Write the newest file of this name, rather than list all.")] = None,
    step: Annotated[
        int | None, typer.Option(min=0, help="Only files of this step; 0 are those the run was given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write it. Default: its own name, here.")] = None,
) -> None:
    """Lists the files of a run: those it was given, and those its code has made; with --get it writes one."""
    found = [one for one in session.client.artefacts(run_id) if step is None or one.step == step]
    if get is not None:
        _write(session, run_id, found, get, out)
        return
    if out is not None:
        raise RequestInvalid("--out says where one file is written", remedy="name the file with --get")
    rows = ([one_line(one.name), f"{one.size_bytes:,}", str(one.step), one.sha256[:12], _when(one)] for one in found)
    session.show_table(found, ["file", "bytes", "step", "sha256", "since"], rows, "the run has no files")


def _when(one: Artefact) -> str:
    return f"{one.created_at:%Y-%m-%d %H:%M:%S}"


def _write(session: Session, run_id: str, found: list[Artefact], name: str, out: Path | None) -> None:
    artefact = next((one for one in reversed(found) if one.name == name), None)
    if artefact is None:
        names = ", ".join(sorted({one.name for one in found})) or "none"
        raise NotFound(f"the run has no file {name!r}", remedy=f"its files are: {names}")
    # the last part of its name alone: where it is written is this side's choice
    path = Path(name.rpartition("/")[2]) if out is None else out
    content = session.client.artefact(run_id, artefact.step, name)
    try:
        with path.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise RequestInvalid(f"cannot write {path}: {error.strerror}", remedy="name another file with --out") from None
    session.show(artefact, lambda: [f"{path}: {len(content):,} bytes"])
