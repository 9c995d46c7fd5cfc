"""`holdfast backup` with `verify`, `show` and `list`, and `holdfast restore`."""

from __future__ import annotations

import json
import os
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cli.stack.commands import DataDir
from cli.stack.data_folder import DataFolder, default_path
from cli.terminal import EXIT_CODES_HELP, errors, reported, say
from holdfast.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from pydantic import JsonValue

    from cli.backup.manifest import Manifest
    from cli.backup.restore import Files, Restored
    from cli.backup.source import Source
    from holdfast.runs.restoring import Reconciled

ResultT = TypeVar("ResultT")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object; what is said meanwhile goes to stderr.")]
File = Annotated[Path, typer.Argument(help="The archive that `holdfast backup` wrote.")]
Postgres = Annotated[
    str | None,
    typer.Option(
        "--postgres",
        envvar="HOLDFAST_POSTGRES",
        help="A superuser's URL, where PostgreSQL is a server of your own.",
        show_envvar=True,
    ),
]
TemporalPostgres = Annotated[
    str | None,
    typer.Option(
        "--temporal-postgres",
        envvar="HOLDFAST_TEMPORAL_POSTGRES",
        help="URL of Temporal's database, as its owner, where Temporal runs on PostgreSQL.",
    ),
]
VisibilityPostgres = Annotated[
    str | None,
    typer.Option(
        "--temporal-visibility-postgres",
        envvar="HOLDFAST_TEMPORAL_VISIBILITY_POSTGRES",
        help="URL of Temporal's second database. Default: beside the first, with _visibility behind its name.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(invoke_without_command=True, help=backup.__doc__, epilog=EXIT_CODES_HELP)
    group.callback()(backup)
    group.command(epilog=EXIT_CODES_HELP)(verify)
    group.command(epilog=EXIT_CODES_HELP)(show)
    group.command("list", epilog=EXIT_CODES_HELP)(list_)
    app.add_typer(group, name="backup")
    for command in (restore, restore_servers, restore_finish):
        app.command(epilog=EXIT_CODES_HELP)(command)


def _run(work: Coroutine[Any, Any, ResultT]) -> ResultT:  # Any: what a coroutine is sent is nobody's business
    import asyncio  # not for `--help`

    return asyncio.run(work)


def _tell(line: str) -> None:
    errors.print(line, markup=False)


def backup(
    context: typer.Context,
    *,
    to: Annotated[
        Path | None,
        typer.Option(help="The archive, or a folder for it. Default: backups/ in the data folder."),
    ] = None,
    data_dir: DataDir = None,
    without_secrets: Annotated[
        bool, typer.Option("--without-secrets", help="Leave the keys out; keep them elsewhere, a restore needs them.")
    ] = False,
    postgres: Postgres = None,
    temporal_postgres: TemporalPostgres = None,
    temporal_visibility_postgres: VisibilityPostgres = None,
    secrets: Annotated[
        Path | None, typer.Option(help="With --temporal-postgres: the folder that has the keys, to be put in as well.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Writes PostgreSQL, Temporal and the keys, as they are at one point, into one archive. The stack may run meanwhile."""
    if context.invoked_subcommand is not None:
        return
    with reported():
        from cli.backup.take import default_target, take, take_servers

        folder = DataFolder(data_dir or default_path())
        target = to.expanduser().absolute() if to is not None else None
        name = default_target(folder, datetime.now(UTC))
        if target is None or target.is_dir():
            target = name if target is None else target / name.name
        if temporal_postgres is not None:
            source = _servers(postgres, temporal_postgres, temporal_visibility_postgres, secrets)
            manifest = _run(take_servers(target, source, say=_tell))
        else:
            manifest = _run(take(folder, target, superuser_url=postgres, with_secrets=not without_secrets, say=_tell))
        if as_json:
            say(json.dumps(_as_json(target, manifest)))
            return
        for line in _about(target, manifest):
            say(line)
        say(_WITH_SECRETS if manifest.secrets else _WITHOUT_SECRETS)
        if to is None:
            say("It lies in the data folder: copy it to another machine.")


def _servers(postgres: str | None, temporal: str, visibility: str | None, secrets: Path | None) -> Source:
    from cli.backup.source import Source
    from cli.backup.temporal_postgres import TemporalDatabases, visibility_url

    if postgres is None:
        raise ConfigurationInvalid(
            "--temporal-postgres goes with --postgres", remedy="give the URL of Holdfast's database"
        )
    if secrets is not None and not secrets.is_dir():
        raise ConfigurationInvalid(f"{secrets} is no folder")
    return Source(
        "servers apart", postgres, TemporalDatabases(temporal, visibility or visibility_url(temporal)), secrets
    )


_LOST_SHOWN = 20
_WITH_SECRETS = (
    "SECRET: the archive holds all keys. Whoever has it can read and do everything that this server can. "
    "Keep it as you keep the server."
)
_WITHOUT_SECRETS = (
    "WITHOUT KEYS: this backup cannot be restored without `secrets/` of the data folder. Keep a copy elsewhere."
)


def _as_json(path: Path, manifest: Manifest) -> dict[str, JsonValue]:
    return {"file": str(path), "bytes": path.stat().st_size, **manifest.model_dump(mode="json")}


def _about(path: Path, manifest: Manifest) -> Sequence[str]:
    versions = manifest.versions
    facts = {
        "backup": str(path),
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "point": f"{manifest.point.at:%Y-%m-%d %H:%M:%S %Z} (nothing was decided for {manifest.point.writes_stopped_ms} ms)",
        "of": manifest.source,
        "tenants": str(manifest.tenants),
        "open runs": str(manifest.open_runs),
        "keys": "in it" if manifest.secrets else "not in it",
        "versions": f"Holdfast {versions.holdfast}, schema {versions.schema_version}, PostgreSQL {versions.postgres}, "
        f"Temporal {versions.temporal}",
    }
    return [f"{name:<10} {value}" for name, value in facts.items()]


def verify(file: File, as_json: AsJson = False) -> None:
    """Checks every byte of a backup, and whether this version can restore it."""
    with reported():
        from cli.backup.restore import check

        manifest = _run(check(file, _tell))
        if as_json:
            say(json.dumps({"ok": True, **_as_json(file, manifest)}))
            return
        for line in _about(file, manifest):
            say(line)
        say("every byte is as it was written")


def show(file: File, as_json: AsJson = False) -> None:
    """Shows what a backup says of itself, without checking the rest."""
    with reported():
        from cli.backup.archive import read_manifest

        manifest = read_manifest(file)
        if as_json:
            say(json.dumps(_as_json(file, manifest)))
            return
        for line in _about(file, manifest):
            say(line)
        for member in manifest.members:
            say(f"  {member.size:>12}  {member.sha256[:16]}…  {member.name}")


def list_(
    folder: Annotated[Path | None, typer.Argument(help="Default: backups/ in the data folder.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Lists the backups in a folder, newest first."""
    with reported():
        from cli.backup.archive import read_manifest
        from cli.backup.errors import BackupInvalid

        place = folder or DataFolder(data_dir or default_path()).backups
        found: list[tuple[Path, Manifest | None, str]] = []
        for path in sorted(place.glob("*.tar"), reverse=True):
            try:
                found.append((path, read_manifest(path), ""))
            except BackupInvalid as error:
                found.append((path, None, error.message))
        if as_json:
            rows = [{"file": str(p), "error": why} if m is None else _as_json(p, m) for p, m, why in found]
            say(json.dumps(rows))
            return
        if not found:
            say(f"there are no backups in {place}")
        for path, manifest, why in found:
            if manifest is None:
                say(f"{path.name}  {why}")
                continue
            keys = "with keys" if manifest.secrets else "WITHOUT KEYS"
            say(f"{path.name}  {manifest.point.at:%Y-%m-%d %H:%M:%S}  {path.stat().st_size / 1e6:8.1f} MB  {keys}")


def restore(
    file: File,
    *,
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="The new data folder; must not be there yet.", show_default=False)
    ],
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Let runs that were under way go on by themselves. What they did after the backup they do again.",
        ),
    ] = False,
    secrets: Annotated[
        Path | None, typer.Option(help="Folder with the keys, for a backup without: secrets/ of the old data folder.")
    ] = None,
    postgres: Postgres = None,
    as_json: AsJson = False,
) -> None:
    """Restores a backup into a new data folder; runs that were under way are paused until somebody has looked at them."""
    with reported():
        from cli.backup.restore import restore as restore_into

        done = _run(
            restore_into(file, DataFolder(data_dir), resume=resume, secrets=secrets, superuser_url=postgres, say=_tell)
        )
        if as_json:
            files = {"named": done.files.named, "included": done.files.included, "lost": list(done.files.lost)}
            about = _reconciled_as_json(done.manifest, done.reconciled)
            say(json.dumps({"data_dir": str(done.folder), **about, "files": files}))
            return
        for line in _restored(done, resume=resume):
            say(line)


def _url(given: str | None, option: str, variable: str) -> str:
    if given is None:
        raise ConfigurationInvalid(f"{option} is missing", remedy=f"give it, or set {variable}")
    return given


def restore_servers(
    file: File,
    *,
    postgres: Postgres = None,
    temporal_postgres: TemporalPostgres = None,
    temporal_visibility_postgres: VisibilityPostgres = None,
    as_json: AsJson = False,
) -> None:
    """Loads a backup of servers apart into empty databases; processes refuse to start until `restore-finish` was run."""
    with reported():
        from cli.backup.restore_servers import Servers, load
        from cli.backup.temporal_postgres import visibility_url

        main = _url(temporal_postgres, "--temporal-postgres", "HOLDFAST_TEMPORAL_POSTGRES")
        servers = Servers(
            holdfast=_url(postgres, "--postgres", "HOLDFAST_POSTGRES"),
            temporal=main,
            visibility=temporal_visibility_postgres or visibility_url(main),
        )
        manifest = _run(load(file, servers, say=_tell))
        if as_json:
            say(json.dumps({"loaded": True, **_as_json(file, manifest)}))
            return
        say(f"all three databases are as they were at {manifest.point.at:%Y-%m-%d %H:%M:%S %Z}")
        say("Now start Temporal on them, and nothing else; migrate; then `holdfast restore-finish`.")


def restore_finish(
    file: File,
    *,
    codec_key_file: Annotated[Path, typer.Option(help="The codec key's file: codec.key of the secrets.")],
    postgres: Postgres = None,
    temporal_address: Annotated[
        str, typer.Option(envvar="HOLDFAST_TEMPORAL_ADDRESS", help="host:port of Temporal's frontend.")
    ] = "127.0.0.1:7233",
    temporal_namespace: Annotated[
        str, typer.Option(envvar="HOLDFAST_TEMPORAL_NAMESPACE", help="The namespace of all runs.")
    ] = "holdfast",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Let runs that were under way go on by themselves, as in `holdfast restore`."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Finishes a restore into servers apart: pauses runs that were under way, and lets processes start."""
    with reported():
        from cli.backup.restore_servers import finish

        manifest, reconciled = _run(
            finish(
                file,
                _url(postgres, "--postgres", "HOLDFAST_POSTGRES"),
                temporal_address=temporal_address,
                namespace=temporal_namespace,
                codec_key_file=codec_key_file,
                resume=resume,
                say=_tell,
            )
        )
        if as_json:
            say(json.dumps(_reconciled_as_json(manifest, reconciled)))
            return
        for line in _reconciled(reconciled, resume=resume):
            say(line)
        say("Processes may start.")


def _reconciled_as_json(manifest: Manifest, reconciled: Reconciled) -> dict[str, JsonValue]:
    runs: list[JsonValue] = [
        {"run_id": str(run.run_id), "tenant": run.tenant, "agent": run.agent, "stood": run.stood, "state": run.state}
        for run in reconciled.runs
    ]
    return {
        "taken_at": manifest.point.at.isoformat(),
        "holds_unknown": reconciled.unknown,
        "holds_voided": reconciled.voided,
        "runs": runs,
    }


def _reconciled(reconciled: Reconciled, *, resume: bool) -> Sequence[str]:
    lines = [f"  {run.run_id}  {run.state:<9}  {run.tenant}/{run.agent}  {run.stood}" for run in reconciled.runs]
    if not reconciled.runs:
        lines.append("no run was under way")
    elif resume:
        lines.append(
            "--resume: these runs go on as soon as Holdfast is up. What they did after the backup they do again."
        )
    else:
        lines.append(
            "These runs are paused: what they did after the backup is not known here. Look at each, in the world outside "
            "as well, then `holdfast resume RUN` or `holdfast cancel RUN`."
        )
    return lines


def _files(files: Files) -> Sequence[str]:
    if not files.named:
        return []
    if not files.included:
        return [
            f"The {files.named} files of runs are not in this backup: they are kept elsewhere, as in S3, and have to be reached there."
        ]
    if not files.lost:
        return [f"all {files.named} files of runs are there, each by its digest"]
    return [
        f"{len(files.lost)} of {files.named} files of runs are lost: they were not there when the backup was taken, or were changed",
        *(f"  {one}" for one in files.lost[:_LOST_SHOWN]),
    ]


def _restored(done: Restored, *, resume: bool) -> Sequence[str]:
    lines = [
        f"restored into {done.folder}, as everything was at {done.manifest.point.at:%Y-%m-%d %H:%M:%S %Z}",
        *_reconciled(done.reconciled, resume=resume),
        *_files(done.files),
        f"start it with: holdfast up --data-dir {done.folder}",
    ]
    if os.environ.get("HOLDFAST_REDIS"):
        lines.append("Give it an empty Redis database: the old one has streams of what came after the backup.")
    return lines
