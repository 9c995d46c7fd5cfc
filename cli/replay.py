"""`holdfast replay`: a run's recorded history against the workflow code as it is now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.session import AsJson, Session, running_stack
from cli.stack.commands import DataDir
from cli.terminal import EXIT_CODES_HELP, ExitCode, reported
from holdfast.errors import RequestInvalid, Unavailable

if TYPE_CHECKING:
    from temporalio.client import WorkflowHistory

    from workers.replay import Replayed


_ANY_KEY = bytes(32)
"""A saved history is replayed as it was saved: decrypted payloads need no key."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXIT_CODES_HELP)(replay)


def replay(
    *,
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="Id of the run.")] = None,
    history: Annotated[Path | None, typer.Option(help="Replay a saved history instead.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the history there, as JSON.")] = None,
    decoded: Annotated[
        bool, typer.Option("--decoded", help="Save it decrypted, so that no key is needed to replay it.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Replays a run: exit code 0 if the code does what the history says, 1 if it does something else, with what that is.

    The history, of all executions if the run has continued as new, comes from Temporal: that of the stack on the data
    folder, or the one that HOLDFAST_TEMPORAL_ADDRESS, HOLDFAST_TEMPORAL_NAMESPACE and HOLDFAST_CODEC_KEY_FILE name.
    """
    import asyncio

    from workers import replay as replaying

    session = Session(None, None, data_dir, as_json)
    with reported():
        if (run_id is None) == (history is None):
            raise RequestInvalid("give either the id of a run or --history")
        if history is not None:
            saved = replaying.from_json(_read(history))
            results = asyncio.run(replaying.replay(saved, _ANY_KEY))
        else:
            results, document = asyncio.run(_replay(session, run_id or "", decoded=decoded))
            if save is not None:
                _write(save, document)
    diverged = any(result.divergence for result in results)
    session.show(
        {
            "ok": not diverged,
            "executions": [
                {"run_id": result.run_id, "events": result.events, "divergence": result.divergence or None}
                for result in results
            ],
        },
        lambda: [_line(result) for result in results],
    )
    if diverged:
        raise typer.Exit(ExitCode.FAILED)


def _line(result: Replayed) -> str:
    what = f"execution {result.run_id}, {result.events} events"
    return f"{what}: DIVERGES: {result.divergence}" if result.divergence else f"{what}: replays exactly"


def _read(file: Path) -> str:
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestInvalid(f"cannot read {file}: {error}") from None


def _write(file: Path, document: str) -> None:
    try:
        file.expanduser().write_text(document, encoding="utf-8")
    except OSError as error:
        raise RequestInvalid(f"cannot write {file}: {error}") from None


async def _replay(session: Session, run_id: str, *, decoded: bool) -> tuple[list[Replayed], str]:
    from workers import replay as replaying

    histories, codec_key = await _fetch(session, run_id)
    results = await replaying.replay(histories, codec_key)
    if decoded:
        await replaying.decrypt(histories, codec_key)
    return results, replaying.to_json(run_id, histories)


async def _fetch(session: Session, run_id: str) -> tuple[list[WorkflowHistory], bytes]:
    from temporalio.client import Client
    from temporalio.service import RPCError

    from cli.stack.temporal import NAMESPACE
    from holdfast.codec import data_converter
    from holdfast.settings import read_key_file
    from workers import replay as replaying

    address = os.environ.get("HOLDFAST_TEMPORAL_ADDRESS", "")
    key_file = os.environ.get("HOLDFAST_CODEC_KEY_FILE", "")
    if not (address and key_file):
        urls = running_stack(session.folder)["urls"]
        assert isinstance(urls, dict)  # written by the stack's supervisor
        address, key_file = str(urls["temporal"]), str(session.folder.secrets / "codec.key")
    namespace = os.environ.get("HOLDFAST_TEMPORAL_NAMESPACE", NAMESPACE)
    codec_key = read_key_file(Path(key_file))
    try:
        client = await Client.connect(address, namespace=namespace, data_converter=data_converter(codec_key))
        return await replaying.fetch(client, run_id), codec_key
    except (RPCError, RuntimeError) as error:  # the SDK's word for a connection that fails is RuntimeError
        raise Unavailable(f"Temporal at {address} does not answer: {error}") from None
