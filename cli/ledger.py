"""`holdfast ledger verify` and `ledger archive`: whether the books are right, and taking old months out of the journal."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.session import AsJson
from cli.stack.commands import DataDir
from cli.stack.data_folder import DataFolder, default_path
from cli.terminal import EXIT_CODES_HELP, ExitCode, note, reported, say
from cli.text import json_line, safe

if TYPE_CHECKING:
    from holdfast.ledger.archive import Archived
    from holdfast.ledger.auditor import Audit

Postgres = Annotated[
    str | None,
    typer.Option(
        "--postgres",
        envvar="HOLDFAST_POSTGRES",
        help="A superuser's URL, where the stack's PostgreSQL is a server of your own.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="The ledger's books.", epilog=EXIT_CODES_HELP, no_args_is_help=True)
    group.command(epilog="Exit codes: 0 the books are right, 1 something is wrong, 2 it could not look.")(verify)
    group.command(epilog=EXIT_CODES_HELP)(archive)
    app.add_typer(group, name="ledger")


def verify(
    *,
    archives: Annotated[
        list[Path] | None,
        typer.Option(
            "--archive", help="A file that `ledger archive` wrote; with all of them, all that ever was is proved."
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="HOLDFAST_AUDITOR_DATABASE_URL",
            help="PostgreSQL as holdfast_auditor. Default: the stack on the data folder.",
        ),
    ] = None,
    data_dir: DataDir = None,
    postgres: Postgres = None,
    as_json: AsJson = False,
) -> None:
    """Recomputes every balance from the journal, and names whatever is not so. It only reads, and blocks nobody."""
    import asyncio  # not for `--help`

    try:
        with reported():
            found = asyncio.run(_verify(archives or [], database_url, data_dir, postgres))
    except typer.Exit:
        raise typer.Exit(ExitCode.USAGE) from None
    if as_json:
        say(json_line({"ok": not found.discrepancies, **asdict(found)}))
    else:
        for one in found.discrepancies:
            say(safe(f"{one.tenant}: {one.check}: {one.subject_id}: {one.message}"))
        say(
            f"{len(found.discrepancies)} discrepancies in {found.tenants} tenants, {found.caps} caps, {found.holds} holds, "
            f"{found.journal_entries} journal entries"
        )
    if found.discrepancies:
        raise typer.Exit(ExitCode.FAILED)


def archive(
    *,
    before: Annotated[
        str,
        typer.Option(
            metavar="YYYY-MM", help="The first month that stays. By PostgreSQL's clock it has begun a day ago at least."
        ),
    ],
    to: Annotated[Path, typer.Option(help="Folder for the files, one a month. Keep them: only they have the entries.")],
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="HOLDFAST_OWNER_DATABASE_URL",
            help="PostgreSQL as holdfast_owner. Default: the stack on the data folder.",
        ),
    ] = None,
    data_dir: DataDir = None,
    postgres: Postgres = None,
    as_json: AsJson = False,
) -> None:
    """Takes old months out of the journal into files; what they add up to stays, so that every balance can still be proved."""
    import asyncio  # not for `--help`

    with reported():
        done = asyncio.run(_archive(before, to, database_url, data_dir, postgres))
        if as_json:
            say(json_line([{**asdict(one), "month": f"{one.month:%Y-%m}", "file": str(one.file)} for one in done]))
            return
        for one in done:
            say(f"{one.month:%Y-%m}  {one.entries:>9} entries  sha256 {one.sha256}  {one.file}")
        if not done:
            say(f"the journal has no month before {before}")


@asynccontextmanager
async def _url_of(role: str, given: str | None, data_dir: Path | None, superuser_url: str | None) -> AsyncIterator[str]:
    """Yields the database's URL for a role: as given, or of the data folder's stack, which may run or not."""
    variable = f"HOLDFAST_{role.removeprefix('holdfast_').upper()}_DATABASE_URL_FILE"
    if given is None and (path := os.environ.get(variable)):
        given = Path(path).read_text(encoding="utf-8").strip()  # noqa: ASYNC240 (a command's own loop: nobody else waits)
    if given is not None:
        yield given
        return
    from cli.backup.source import check_folder, opened
    from cli.stack.secrets import load_or_create
    from holdfast.database.roles import url_for

    folder = DataFolder(data_dir or default_path())
    check_folder(folder, superuser_url)
    async with opened(folder, superuser_url, lambda _: note("the stack is stopped; starting its PostgreSQL")) as source:
        passwords = load_or_create(folder.secrets, data_exists=True).database_passwords
        yield url_for(source.database_url, role, passwords[role])


async def _verify(archives: list[Path], given: str | None, data_dir: Path | None, superuser_url: str | None) -> Audit:
    from dataclasses import replace

    from sqlalchemy.exc import SQLAlchemyError

    from cli.backup.progress import telling
    from holdfast.database.engine import create_engine
    from holdfast.errors import Unavailable
    from holdfast.ledger.archive_proof import prove
    from holdfast.ledger.auditor import audit

    at = ["connecting"]
    async with _url_of("holdfast_auditor", given, data_dir, superuser_url) as url:
        engine = create_engine(url, process="auditor", pool_size=1)
        try:
            async with telling(note, "looking", lambda: at[-1]):
                found = await audit(engine, at.append)
                more = await prove(engine, archives, at.append) if archives else []
        except (OSError, SQLAlchemyError) as error:
            raise Unavailable(f"cannot read the books: {error}", remedy="check the database and its URL") from None
        finally:
            await engine.dispose()
    return replace(found, discrepancies=(*found.discrepancies, *more))


async def _archive(
    before: str, to: Path, given: str | None, data_dir: Path | None, superuser_url: str | None
) -> list[Archived]:
    from holdfast.ledger import archive

    month = archive.parse_month(before)
    async with _url_of("holdfast_owner", given, data_dir, superuser_url) as url:
        return await archive.archive(url, month, to, note)
