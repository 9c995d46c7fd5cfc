"""One child process: started, watched until it is ready, started again when it dies, stopped within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cli.stack.account import Account, launch_command, own_account
from cli.stack.errors import ChildFailed
from cli.stack.log_file import LogFile
from cli.stack.probe import Probe
from holdfast.errors import HoldfastError

State = Literal["starting", "ready", "restarting", "stopping", "stopped"]

_PROBE_INTERVAL_S: Final = 0.05
_BACKOFF_FIRST_S: Final = 0.25
_BACKOFF_MAX_S: Final = 30.0
_STEADY_AFTER_S: Final = 60.0
_TAIL_LINES: Final = 8
_LOG_CHECK_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What a child is, as data.

    Attributes:
        name: Shown to people; names the log file.
        argv: The program by its absolute path, and its arguments.
        env: Its whole environment.
        log_path: Where stdout and stderr go.
        ready: Probe, asked again and again until true; gets what the child has logged since it was started.
        account: Under which account it runs.
        folder: Its working directory.
        before_start: Runs before each start.
        stop_signal: Asks it to end gracefully.
        stop_timeout_ms: How long that may take before it is killed.
        death_signal: What the kernel sends it when the supervisor dies.
        ready_timeout_ms: How long it may take to be ready.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log_path: Path
    ready: Probe
    account: Account = field(default_factory=own_account)
    folder: Path | None = None
    before_start: Callable[[], Awaitable[None]] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_ms: int = 10_000
    death_signal: signal.Signals = signal.SIGKILL
    ready_timeout_ms: int = 120_000


def describe_exit(code: int) -> str:
    """Says how a process ended."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


class Child:
    """Supervises one child; all of its methods belong to one event loop."""

    def __init__(self, spec: ChildSpec, say: Callable[[str], None], changed: Callable[[], None]) -> None:
        self.spec = spec
        self.state: State = "stopped"
        self.restarts = 0
        self.since = datetime.now(UTC)
        self._say = say
        self._changed = changed
        self._ready = asyncio.Event()
        self._log = LogFile(spec.log_path)
        self._process: asyncio.subprocess.Process | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._stay_down = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id while it lives."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def exit_code(self) -> int | None:
        """How it ended last; None while it lives, negative if a signal ended it."""
        return self._process.returncode if self._process is not None else None

    async def start(self) -> None:
        """Starts it and returns when it is ready.

        Raises:
            ChildFailed: It ended or was not ready in time; nothing of it is left.
        """
        if self._supervision is not None and not self._supervision.done():
            await self.wait_ready()
            return
        self._stay_down.clear()
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        first.add_done_callback(lambda done: done.exception())  # seen, even if whoever waits here was cancelled
        self._supervision = asyncio.create_task(self._supervise(first), name=f"supervise {self.spec.name}")
        await asyncio.shield(first)

    async def stop(self, *, timeout_ms: int | None = None) -> None:
        """Stops it gracefully, by force after the bound; it is not started again."""
        await self._end(self.spec.stop_signal, self.spec.stop_timeout_ms if timeout_ms is None else timeout_ms)

    async def kill(self, number: signal.Signals, *, restart: bool) -> None:
        """Sends a signal. A SIGKILL is waited for; with `restart=False` the child then stays down until `start`."""
        if not restart:
            await self._end(number, self.spec.stop_timeout_ms)
            return
        process = self._process
        if process is None or process.returncode is not None:
            return
        if number == signal.SIGKILL:
            self._ready.clear()
        process.send_signal(number)
        if number == signal.SIGKILL:
            await process.wait()

    def kill_now(self) -> None:
        """Kills it with all it has started, without waiting; it is not started again."""
        self._stay_down.set()
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, self.spec.death_signal)

    async def wait_ready(self) -> None:
        """Waits until it is ready; the caller sets the bound."""
        await self._ready.wait()

    async def _end(self, number: signal.Signals, timeout_ms: int) -> None:
        self._stay_down.set()
        if self._supervision is None:
            return
        process = self._process
        if process is not None and process.returncode is None:
            self._enter("stopping")
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            try:
                await asyncio.wait_for(process.wait(), timeout_ms / 1000)
            except TimeoutError:
                self._say(f"{self.spec.name} did not stop within {timeout_ms / 1000:g} s and is killed")
                await self._kill_group()
        await self._supervision

    async def _supervise(self, first: asyncio.Future[None]) -> None:
        failures = 0
        while True:
            started_at = time.monotonic()
            try:
                await self._spawn()
                await self._until_ready()
            except Exception as error:  # noqa: BLE001 (whatever a probe raises: who is not supervised is never started again)
                await self._kill_group()
                if not first.done():
                    self._enter("stopped")
                    first.set_exception(error)
                    return
                known = isinstance(error, HoldfastError | OSError)
                reason = (
                    str(error) if known else f"{self.spec.name} could not be asked: {type(error).__name__}: {error}"
                )
            else:
                if first.done():
                    self._say(f"{self.spec.name} is back (process {self.pid})")
                else:
                    first.set_result(None)
                reason = await self._until_exit()
            self._ready.clear()
            if self._stay_down.is_set():
                self._enter("stopped")
                return
            failures = 1 if time.monotonic() - started_at > _STEADY_AFTER_S else failures + 1
            delay_s = min(_BACKOFF_FIRST_S * 2 ** (failures - 1), _BACKOFF_MAX_S)
            self.restarts += 1
            self._enter("restarting")
            self._say(f"{reason}; starting it again in {delay_s:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stay_down.wait(), delay_s)
                self._enter("stopped")
                return

    async def _spawn(self) -> None:
        spec = self.spec
        self._enter("starting")
        if spec.before_start is not None:
            await spec.before_start()
        self._log.begin()
        command = launch_command(spec.account, list(spec.argv), folder=spec.folder, death_signal=spec.death_signal)
        with self._log.open() as output:
            # a session of its own: Ctrl-C reaches the supervisor only, which then stops its children in order
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(spec.env),
                start_new_session=True,
            )
        self._changed()
        if self._stay_down.is_set():
            raise ChildFailed(f"{spec.name} was stopped while it was being started")

    async def _until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self.spec.ready_timeout_ms / 1000
        while self._process.returncode is None:
            if await self.spec.ready(self._log):
                self._enter("ready")
                self._ready.set()
                return
            if time.monotonic() > deadline:
                raise ChildFailed(self._with_log(f"was not ready within {self.spec.ready_timeout_ms / 1000:g} s"))
            await asyncio.sleep(_PROBE_INTERVAL_S)
        raise ChildFailed(self._with_log(f"{describe_exit(self._process.returncode)} before it was ready"))

    async def _until_exit(self) -> str:
        assert self._process is not None
        while True:
            try:
                code = await asyncio.wait_for(self._process.wait(), _LOG_CHECK_S)
            except TimeoutError:
                with contextlib.suppress(OSError):  # a disk that is full: the log stays as long as it is
                    self._log.bound()
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # what it has left behind
            return f"{self.spec.name} {describe_exit(code)}"

    async def _kill_group(self) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    def _enter(self, state: State) -> None:
        self.state = state
        self.since = datetime.now(UTC)
        self._changed()

    def _with_log(self, what: str) -> str:
        tail = "\n".join(f"    {line}" for line in self._log.tail(_TAIL_LINES))
        return f"{self.spec.name} {what}; its log {self.spec.log_path} ends with:\n{tail or '    (nothing)'}"
