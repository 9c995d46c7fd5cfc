"""`holdfast up`, `down` and `status`. What is heavy is imported by the command that needs it, not for `--help`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.stack.data_folder import DataFolder, default_path
from cli.stack.errors import NotRunning, StackError
from cli.terminal import EXIT_CODES_HELP, ExitCode, output, reported, say
from cli.text import json_line, safe

if TYPE_CHECKING:
    from cli.stack.ports import Ports
    from cli.stack.supervisor import Stack

_POLL_S = 0.1
# A terminal signals a whole process group, and a parent such as uv passes the same signal on once more.
_SAME_SIGNAL_S = 1.0

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="HOLDFAST_DATA_DIR",
        help="Where all data is kept. Default: /var/lib/holdfast for root, else your own data folder.",
    ),
]
Port = Annotated[int | None, typer.Option(min=0, max=65_535, help="0 picks a free one.")]


class Provider(StrEnum):
    """Who thinks."""

    AUTO = "auto"
    SIMULATED = "simulated"
    ANTHROPIC = "anthropic"
    OPENAI = "openai"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog=EXIT_CODES_HELP)(up)
    app.command(epilog=EXIT_CODES_HELP)(down)
    app.command(epilog=EXIT_CODES_HELP)(status)


def up(
    *,
    data_dir: DataDir = None,
    executors: Annotated[int, typer.Option(min=1, max=64, help="How many executor processes.")] = 1,
    provider: Annotated[
        Provider,
        typer.Option(help="Who thinks; auto: those whose key is in ANTHROPIC_API_KEY or OPENAI_API_KEY."),
    ] = Provider.AUTO,
    port_base: Annotated[
        int | None,
        typer.Option(min=0, max=65_500, help="Count all ports up from here; 0 picks free ones. Default: fixed ports."),
    ] = None,
    api_port: Port = None,
    temporal_ui_port: Port = None,
    temporal_port: Port = None,
    postgres_port: Port = None,
    valkey_port: Port = None,
    broker_port: Port = None,
    provider_port: Port = None,
    project: Annotated[
        Path | None,
        typer.Option(help="A project folder: applied for the first tenant, and again whenever a file in it changes."),
    ] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Without Temporal's UI.")] = False,
    servers_only: Annotated[
        bool,
        typer.Option("--servers-only", help="Only PostgreSQL with its schema, Valkey and Temporal; for development."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line; when all is up, that of `holdfast status`.")
    ] = False,
) -> None:
    """Starts everything in the foreground and keeps it running; Ctrl-C stops it, the data stays.

    PostgreSQL, Valkey and Temporal come along. HOLDFAST_POSTGRES (a superuser's URL) and HOLDFAST_REDIS take the place
    of the first two; HOLDFAST_TEMPORAL names Temporal's program, which is otherwise looked for, downloaded or built.
    """
    with reported():
        import asyncio

        from cli.stack.supervisor import ALL_PARTS, BASE_PARTS, Stack

        stack = Stack(
            data_dir or default_path(),
            ports=_ports(
                port_base,
                api=api_port,
                temporal_ui=temporal_ui_port,
                temporal=temporal_port,
                postgres=postgres_port,
                valkey=valkey_port,
                broker=broker_port,
                provider=provider_port,
            ),
            executors=executors,
            parts=BASE_PARTS if servers_only else ALL_PARTS,
            provider=provider.value,
            headless=headless,
            say=_teller(as_json=as_json),
        )
        asyncio.run(_serve(stack, project, as_json=as_json))


def _teller(*, as_json: bool) -> Callable[[str], None]:
    """Returns what prints what happens, line by line, each with its time."""

    def tell(line: str) -> None:
        now = time.strftime("%H:%M:%S")
        say(json_line({"time": now, "message": line.strip()}) if as_json else f"{now}  {safe(line)}")

    return tell


def _ports(base: int | None, **wishes: int | None) -> Ports:
    from dataclasses import replace

    from cli.stack.ports import Ports

    ports = Ports() if base is None else Ports.from_base(base) if base else Ports(*[0] * 7)
    return replace(ports, **{name: port for name, port in wishes.items() if port is not None})


async def _serve(stack: Stack, project: Path | None = None, *, as_json: bool = False) -> None:
    """Runs a stack until SIGINT or SIGTERM; a later second one ends it without waiting."""
    import asyncio

    tell = _teller(as_json=True) if as_json else say
    asked = asyncio.Event()
    asked_at = 0.0

    def ask() -> None:
        nonlocal asked_at
        now = time.monotonic()
        if not asked.is_set():
            asked_at = now
            asked.set()
        elif now - asked_at > _SAME_SIGNAL_S:
            tell("killing what has not stopped yet …")
            stack.kill_all()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, ask)
    starting = asyncio.create_task(stack.start())
    asking = asyncio.create_task(asked.wait())
    await asyncio.wait({starting, asking}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        tell("stopping before everything was up …")
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    await starting
    if as_json:
        say(json_line({"running": True, "data_dir": str(stack.folder.path), **stack.folder.read_state()}))
    else:
        _announce(stack)
    async with _watching(stack, project):
        await asking
        tell("stopping …")
    await stack.stop()


@contextlib.asynccontextmanager
async def _watching(stack: Stack, project: Path | None) -> AsyncIterator[None]:
    """Keeps a project applied meanwhile, in a process of its own that loads whatever code its tools have."""
    if project is None or "api" not in stack.parts:
        yield
        return
    import asyncio

    from cli.stack.account import launch_command, own_account

    key_file = str(stack.secrets.bootstrap_key_file)
    command = ["apply", str(project), "--watch", "--url", stack.urls.api, "--key-file", key_file]
    argv = [sys.executable, "-m", "cli.main", *command]
    watcher = await asyncio.create_subprocess_exec(
        *launch_command(own_account(), argv, folder=None, death_signal=signal.SIGTERM),
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            watcher.send_signal(signal.SIGINT)
        await watcher.wait()


def _announce(stack: Stack) -> None:
    lines = {"Temporal": stack.urls.temporal, "Temporal UI": stack.urls.temporal_ui or "not started (--headless)"}
    if "api" in stack.parts:
        lines = {
            "API": stack.urls.api,
            **lines,
            "API key": f"in {stack.secrets.bootstrap_key_file}",
            "Thinking": _thinking(stack),
        }
    say("\nHoldfast is up.")
    for name, value in {**lines, "Data": str(stack.folder.path)}.items():
        say(f"  {name:<12} {value}")
    say("Ctrl-C stops it; the data stays.\n")


def _thinking(stack: Stack) -> str:
    from cli.stack.environment import PROVIDER_KEYS

    if not stack.simulated:
        return ", ".join(stack.providers)
    keys = " or ".join(PROVIDER_KEYS.values())
    return f"simulated: no model answers, but a program on this machine in its place (set {keys} for a real one)"


def down(
    data_dir: DataDir = None,
    timeout_s: Annotated[int, typer.Option("--timeout", min=1, help="Seconds to wait.")] = 90,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Stops the stack that runs on a data folder, and waits until it has stopped."""
    with reported():
        folder = DataFolder(data_dir or default_path())
        pid = _running_pid(folder)
        try:
            os.kill(pid, signal.SIGTERM)
        except PermissionError:
            raise StackError(f"process {pid} belongs to another user", remedy="stop it as that user") from None
        deadline = time.monotonic() + timeout_s
        while folder.running_pid() == pid:
            if time.monotonic() > deadline:
                raise StackError(f"process {pid} has not stopped within {timeout_s} s", remedy=f"see {folder.logs}")
            time.sleep(_POLL_S)
        say(json_line({"stopped": True, "pid": pid}) if as_json else f"stopped (was process {pid})")


def status(
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Shows whether a stack runs on a data folder, its parts and its addresses."""
    with reported():
        folder = DataFolder(data_dir or default_path())
        pid = folder.running_pid()
        if as_json:
            state = folder.read_state() if pid is not None else {}
            typer.echo(json.dumps({"running": pid is not None, "data_dir": str(folder.path), **state}))
            if pid is None:
                raise typer.Exit(ExitCode.NOT_RUNNING)
            return
        _running_pid(folder)
        _print_status(folder, folder.read_state())


def _running_pid(folder: DataFolder) -> int:
    pid = folder.running_pid()
    if pid is None:
        raise NotRunning(f"Holdfast does not run on {folder.path}", remedy="start it with `holdfast up`")
    return pid


# Any: this is what `_write_state` of the same version has written as JSON.
def _print_status(folder: DataFolder, state: dict[str, Any]) -> None:
    from rich.table import Table

    how = "runs" if state.get("ready") else "is being started or stopped"
    say(f"Holdfast {how} on {folder.path} (process {state.get('pid')}, since {state.get('started_at')})")
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "state", "process", "restarts", "since"):
        table.add_column(heading)
    for child in state.get("children", []):
        table.add_row(*(str(child[key] if child[key] is not None else "-") for key in _STATUS_KEYS))
    output.print(table)
    for name, url in state.get("urls", {}).items():
        if url:
            say(f"  {name:<12} {url}")


_STATUS_KEYS = ("name", "state", "pid", "restarts", "since")
