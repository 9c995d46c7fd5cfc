"""`holdfast replay`: a run's recorded history against the workflow code as it is now."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.session import Session, running_stack, with_session
from cli.terminal import EXIT_CODES_HELP, ExitCode, note
from holdfast.errors import NotFound, RequestInvalid

if TYPE_CHECKING:
    from temporalio.client import WorkflowHistory

    from holdfast.histories.fetching import Execution
    from workers.replay import Replayed


_ANY_KEY = bytes(32)
"""A saved history is replayed as it was saved: decrypted payloads need no key."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXIT_CODES_HELP)(replay)


@dataclass(frozen=True, slots=True)
class _Found:
    """Histories of a run, and whose they are.

    Attributes:
        source: `temporal`'s own, the one that is `stored`, or a `file`.
        histories: First execution first.
        codec_key: Key of their payloads.
        digest: Of a stored one: SHA-256 over it, as the log has it.
        recorded_in: Of a stored one: the decision that says so.
    """

    source: Literal["temporal", "stored", "file"]
    histories: list[WorkflowHistory]
    codec_key: bytes
    digest: str = ""
    recorded_in: str = ""

    @property
    def words(self) -> str:
        """What it is, for people."""
        return {
            "temporal": "Temporal's own history",
            "stored": f"the history that was kept when the run had ended; its digest {self.digest} is in decision {self.recorded_in}",
            "file": "a saved history",
        }[self.source]


@with_session
def replay(
    session: Session,
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="Id of the run.")] = None,
    *,
    history: Annotated[Path | None, typer.Option(help="Replay a saved history instead.")] = None,
    kept: Annotated[
        bool,
        typer.Option("--kept", help="Replay the history that was kept when the run had ended, whatever Temporal has."),
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Write the history there, as JSON.")] = None,
    decoded: Annotated[
        bool, typer.Option("--decoded", help="Save it decrypted, so that no key is needed to replay it.")
    ] = False,
) -> None:
    """Replays a run: exit code 0 if the code does what the history says, 1 if it does something else, with what that is.

    The history, of all executions if the run has continued as new, comes from Temporal: that of the stack on the data
    folder, or the one that HOLDFAST_TEMPORAL_ADDRESS, HOLDFAST_TEMPORAL_NAMESPACE and HOLDFAST_CODEC_KEY_FILE name. If it is
    not there any more, the one that was kept when the run had ended is fetched from the API, and replayed once it is known to
    be the one whose digest is in the decision log.
    """
    import asyncio

    from workers import replay as replaying

    if (run_id is None) == (history is None):
        raise RequestInvalid("give either the id of a run or --history")
    if history is not None and (kept or save is not None or decoded):
        raise RequestInvalid("--kept, --save and --decoded go with the id of a run, not with --history")
    if decoded and save is None:
        raise RequestInvalid("--decoded goes with --save")
    if history is not None:
        found = _Found("file", replaying.from_json(_read(history)), _ANY_KEY)
    else:
        found = _find(session, run_id or "", kept=kept)
    results = asyncio.run(replaying.replay(found.histories, found.codec_key))
    if save is not None:
        if decoded:
            asyncio.run(replaying.decrypt(found.histories, found.codec_key))
        _write(save, replaying.to_json(run_id or "", found.histories))
    diverged = any(result.divergence for result in results)
    session.show(
        {
            "ok": not diverged,
            "source": found.source,
            "digest": found.digest or None,
            "recorded_in": found.recorded_in or None,
            "executions": [
                {"run_id": result.run_id, "events": result.events, "divergence": result.divergence or None}
                for result in results
            ],
        },
        lambda: [found.words, *(_line(result) for result in results)],
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


def _find(session: Session, run_id: str, *, kept: bool) -> _Found:
    """Returns Temporal's history of a run if it is there, else the one that is kept."""
    import asyncio

    from cli import kept_history
    from holdfast.settings import read_key_file
    from workers import replay as replaying

    address, key_file = _temporal(session)
    codec_key = read_key_file(Path(key_file))
    live, why = ([], "") if kept else asyncio.run(_fetch(address, codec_key, run_id))
    if live and not why:
        return _Found("temporal", replaying.in_order(live), codec_key)
    if why:
        note(f"{why}: looking for the one that was kept")
    try:
        found = kept_history.read(session.client, run_id)
    except NotFound as missing:
        if live:
            note(f"{missing.message}: only what Temporal has is replayed")
            return _Found("temporal", replaying.in_order(live), codec_key)
        raise NotFound(f"{why}, and {missing.message}" if why else missing.message, remedy=missing.remedy) from None
    return _Found("stored", replaying.in_order(found.executions), codec_key, found.digest, found.recorded_in)


def _temporal(session: Session) -> tuple[str, str]:
    """Returns Temporal's address and the file of the payloads' key: the environment's, else those of the stack on this machine."""
    address = os.environ.get("HOLDFAST_TEMPORAL_ADDRESS", "")
    key_file = os.environ.get("HOLDFAST_CODEC_KEY_FILE", "")
    if address and key_file:
        return address, key_file
    urls = running_stack(session.folder)["urls"]
    assert isinstance(urls, dict)  # written by the stack's supervisor
    return str(urls["temporal"]), str(session.folder.secrets / "codec.key")


async def _fetch(address: str, codec_key: bytes, run_id: str) -> tuple[list[Execution], str]:
    """Returns what Temporal has of a run's history, newest execution first, and what is wrong with that, if something is."""
    from temporalio.client import Client
    from temporalio.service import RPCError

    from cli.stack.temporal import NAMESPACE
    from holdfast.codec import data_converter
    from holdfast.histories import fetching

    namespace = os.environ.get("HOLDFAST_TEMPORAL_NAMESPACE", NAMESPACE)
    try:
        client = await Client.connect(address, namespace=namespace, data_converter=data_converter(codec_key))
        newest = await fetching.newest(client, run_id)
        if newest is None:
            return [], f"Temporal has no history of a run {run_id}"
        live = [one async for one in fetching.executions(client, run_id, newest.run_id)]
    except (RPCError, RuntimeError) as error:  # the SDK's word for a connection that fails is RuntimeError
        return [], f"Temporal at {address} does not answer ({error})"
    return live, "" if fetching.is_whole(
        live
    ) else f"Temporal has no history of the oldest executions of run {run_id} any more"
