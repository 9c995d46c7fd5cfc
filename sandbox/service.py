"""`Sandbox`: takes jobs, runs each in a process of its own behind every layer, and tells what came of it."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from holdfast.errors import HoldfastError
from sandbox.backends import KINDS, Chosen, choose
from sandbox.environments import DATA, Environments, own_python
from sandbox.errors import JobInvalid, LayerMissing, RuntimeMissing, SandboxLost, raise_first
from sandbox.job import Job, Limits, Result
from sandbox.lane import Lane
from sandbox.layers import WEAKER, Layer, Receipt
from sandbox.native import kernel
from sandbox.native.cgroups import Cgroups, open_cgroups
from sandbox.native.files import Collector, check_name, is_full, lay
from sandbox.native.watch import OnOutput, Watched, read_report
from sandbox.native.worker import Worker, send
from sandbox.outcome import outcome
from sandbox.runtime import PACKAGES, PLAIN, Runtime, node, select, shell
from sandbox.session import Record, Session
from sandbox.supervisor import Act, Bounds, Supervisor

_UIDS_FIRST: Final = 200_000
_UIDS_EACH: Final = 1_000
_LANES_MAX: Final = 8
_RANGES: Final = 60
_LOCKS: Final = Path("/run/lock")
_CODE_BYTES_MAX: Final = 4 * 2**20
_PACKAGE_LANES_MAX: Final = 4
_SUFFIXES: Final = {"shell": ".sh", "node": ".js"}
_UNPRIVILEGED_MAY_LACK: Final = frozenset({Layer.OWN_UID, Layer.CGROUP})


@dataclass(frozen=True, slots=True)
class Settings:
    """How jobs are run.

    Attributes:
        profile: `full` needs every layer. `unprivileged` may lack a uid for each job and a cgroup, and says so in every receipt.
        allow_missing: Further layers that may be missing: each is named here by an operator, and stands in every receipt.
        limits: What a job may use that says nothing else; processes are kept ready for these.
        bounds: What a job may ask of its supervisor.
        running_max: How many jobs run at once; more wait.
        idle_min: How many processes are ready at least.
        idle_max: How many are at most, when many jobs come.
        backend: What isolates: `native`, or `bubblewrap` or `runsc` where that is installed.
        allow_old: Whether the backend's program may be older than is known to be sound; stands in every receipt.
        python: The interpreter that jobs run in; this one's if it is not given.
        environments: Folder of the environments whose packages jobs may import; an account's own folder if it is not given.
    """

    profile: Literal["full", "unprivileged"] = "full"
    allow_missing: frozenset[Layer] = frozenset()
    limits: Limits = field(default_factory=Limits)
    bounds: Bounds = field(default_factory=Bounds)
    running_max: int = 32
    idle_min: int = 2
    idle_max: int = 16
    backend: str = "native"
    allow_old: bool = False
    python: str = ""
    environments: Path | None = None


class Sandbox:
    """Runs jobs. Use it as an asynchronous context, or `start` and `close` it."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        off: frozenset[Layer] = frozenset(),
        within: Literal["", "shell", "node"] = "",
    ) -> None:
        """Makes a sandbox that is not started.

        Args:
            settings: How jobs are run.
            off: Layers to leave out, which only tests of the canary have a use for: without `allow_missing` it refuses to start.
            within: The language in whose place Python runs, which only attacks on that place have a use for.
        """
        self.settings = settings or Settings()
        self._off = off
        self._missing: frozenset[Layer] = frozenset()
        self._within = within
        self._chosen = Chosen(KINDS["native"])
        self._allowed: frozenset[Layer] = frozenset()
        self._environments = Environments(self.settings.environments)
        self._first: Lane | None = None
        self._lanes: dict[str, Lane] = {}
        self._opening = asyncio.Lock()
        self._opened: Lane | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self._slots = deque(range(_UIDS_EACH - _LANES_MAX))
        self._canaries = 0
        self._cgroups: Cgroups | None = None
        self._lock = -1
        self._uid_base = 0
        self._running = asyncio.Semaphore(self.settings.running_max)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def receipt(self) -> Receipt:
        """In which layers jobs run."""
        return self._receipt(self._first.runtime if self._first is not None else PLAIN)

    def _receipt(self, runtime: Runtime) -> Receipt:
        missing = [layer for layer in Layer if layer in self._missing]
        known = {**WEAKER, **self._chosen.kind.lacks}
        weaker = tuple(known.get(layer, f"The layer {layer} is missing.") for layer in missing)
        layers = tuple(layer.value for layer in Layer if layer not in self._missing)
        names = tuple(layer.value for layer in missing)
        if self._chosen.weaker:
            weaker = (*weaker, self._chosen.weaker)
        kind = self._chosen.kind
        inner = tuple(layer.value for layer in Layer if layer in kind.inner - self._missing)
        return Receipt(
            kind.name,
            self.settings.profile,
            layers,
            names,
            weaker,
            runtime.name,
            kind.tier,
            self._chosen.version,
            inner,
        )

    @property
    def lost(self) -> bool:
        """Whether it runs no job any more. Where only another runtime's zygote has ended, the next job of that gets another."""
        return self._closed or self._first is None or self._first.zygote.lost

    @property
    def zygote_pid(self) -> int:
        """The pid of the process that jobs fork from."""
        return self._first.zygote.pid if self._first is not None else 0

    @property
    def idle(self) -> int:
        """How many processes are ready."""
        return self._first.pool.idle if self._first is not None else 0

    async def start(self) -> None:
        """Starts the zygote, has the canary attack every layer, and makes processes ready.

        Raises:
            LayerMissing: If a layer does not hold that the settings do not allow to be missing (LAW 7).
            BackendMissing: If the backend that the settings name is not here, or too old.
            SandboxLost: If the zygote cannot run, or was not ready in time.
        """
        if self._closing is not None:
            await asyncio.wait([self._closing])  # what that still frees is not what is taken now
        self._closing, self._closed = None, False
        try:
            async with self._opening:
                await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        if not kernel.NUMBERS:
            raise LayerMissing(Layer.SECCOMP, 0, f"the system calls of {kernel.MACHINE} are not known")
        settings = self.settings
        self._chosen = await asyncio.to_thread(choose, settings.backend, allow_old=settings.allow_old)
        self._assert_open()
        self._allowed = settings.allow_missing | (
            _UNPRIVILEGED_MAY_LACK if settings.profile == "unprivileged" else frozenset()
        )
        lacks = frozenset(self._chosen.kind.lacks)
        self._allowed |= lacks
        self._missing = self._off | lacks
        if os.geteuid() != 0:
            self._lack(Layer.OWN_UID, 0, "an ordinary account has no uids to give")
        else:
            self._claim_uids()
        if Layer.CGROUP not in self._missing:
            try:
                self._cgroups = open_cgroups()
            except OSError as error:
                self._lack(Layer.CGROUP, error.errno or 0, f"{error.strerror}: {error.filename}")
        self._first = await self._open(self._runtime(Job("")))

    def _runtime(self, job: Job) -> Runtime:
        if self._within and job.language == "python":
            return shell() if self._within == "shell" else node()
        return select(job, self._environments)

    async def _lane(self, job: Job) -> Lane:
        """Returns where a job runs; the first of its kind has it set up, and its layers attacked.

        Raises:
            RuntimeMissing: If what it asks for is not there, or not ready in time.
            LayerMissing: If a layer does not hold there (LAW 7).
            SandboxLost: If the sandbox is not started, or its zygote ended.
        """
        if self._first is None:
            raise SandboxLost("the sandbox is not started", remedy="Call `start`, or use it as a context.")
        runtime = await asyncio.to_thread(self._runtime, job) if job != _plain(job) else self._runtime(job)
        lane = self._lanes.get(runtime.name)
        if lane is not None and (lane is self._first or not lane.zygote.lost):
            return lane
        async with self._opening:
            self._assert_open()
            lane = self._lanes.get(runtime.name)
            if lane is not None and not lane.zygote.lost:
                return lane
            if lane is not None:
                del self._lanes[runtime.name]
                await self._end(lane)
            await self._make_room(runtime)
            self._assert_open()
            return await self._open(runtime)

    async def _make_room(self, runtime: Runtime) -> None:
        """Closes the environment that was opened first of those without a job, where many are open."""
        if not runtime.name.startswith(PACKAGES):
            return
        opened = [lane for lane in self._lanes.values() if lane.runtime.name.startswith(PACKAGES)]
        for lane in opened[: max(0, len(opened) + 1 - _PACKAGE_LANES_MAX)]:
            if lane.running == 0:
                del self._lanes[lane.runtime.name]
                await self._end(lane)

    async def _end(self, lane: Lane) -> None:
        """Closes a lane, to its end also where who waits for that is cancelled."""
        task = asyncio.create_task(lane.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        await asyncio.shield(task)

    def _assert_open(self) -> None:
        if self._closed:
            raise SandboxLost("the sandbox was closed", remedy="Start it again.")

    async def _open(self, runtime: Runtime) -> Lane:
        settings, usual = self.settings, runtime.name in (PLAIN.name, DATA) or bool(self._within)
        zygote = self._chosen.kind.make(
            program=self._chosen.program,
            python=settings.python or own_python(),
            privileged=os.geteuid() == 0,
            without=self._missing,
            uid_base=self._uid_base,
            cgroups=self._cgroups,
            runtime=runtime.settings(),
        )
        idle = (
            (settings.idle_min, settings.idle_max) if usual else (min(1, settings.idle_min), min(4, settings.idle_max))
        )
        self._opened = lane = Lane(runtime, zygote, self._slots, settings.limits, *idle)
        try:
            if runtime.lock:
                lane.kept.enter_context(self._environments.used(runtime.lock))

            async def attack(job: Job, act: Act | None) -> Result:
                return await self._submit(lane, job, act)

            slot = _UIDS_EACH - 1 - self._canaries % _LANES_MAX
            self._canaries += 1
            limited = self._cgroups is not None
            await lane.start(attack, self._lack, self._missing & self._allowed, limited=limited, slot=slot)
            self._assert_open()
        except BaseException as error:
            await self._end(lane)
            if isinstance(error, Exception):
                self._assert_open()  # what failed by that says nothing of a layer
            if isinstance(error, TimeoutError):
                raise self._late(runtime) from None
            raise
        finally:
            self._opened = None
        self._lanes[runtime.name] = lane
        return lane

    def _late(self, runtime: Runtime) -> HoldfastError:
        """Returns what is wrong where a lane was not ready in time; jobs of the others go on."""
        message, remedy = (
            f"the runtime {runtime.name} was not ready in time",
            "Try again when the machine is less busy.",
        )
        return (SandboxLost if self._first is None else RuntimeMissing)(message, remedy=remedy)

    def _lack(self, layer: Layer, errno: int, what: str) -> None:
        if layer not in self._allowed:
            raise LayerMissing(layer, errno, what)
        self._missing |= {layer}

    def _claim_uids(self) -> None:
        """Claims a range of uids that no other sandbox of this host uses, for as long as this process lives."""
        for index in range(_RANGES):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(_LOCKS / f"holdfast-sandbox-{index}.lock", flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            self._lock, self._uid_base = fd, _UIDS_FIRST + index * _UIDS_EACH
            return
        raise LayerMissing(Layer.OWN_UID, 0, f"{_RANGES} sandboxes run on this host, and each range of uids is taken")

    async def submit(
        self, job: Job, *, act: Act | None = None, on_output: OnOutput | None = None, outputs: Path | None = None
    ) -> Result:
        """Runs a job.

        Args:
            job: What to run.
            act: Called with each request that the job makes of its run; without it the job has no way to make one.
            on_output: Called with what it prints, as it prints.
            outputs: Folder that its output files are put into; without it they are in the result.

        Raises:
            JobInvalid: If the job cannot be run as it is.
            RuntimeMissing: If the language, runtime or packages that it asks for are not here.
            SandboxLost: If the zygote ended; the job with it.
            Exception: What `act` failed with, other than by refusing; the job is ended.
        """
        _check(job)
        lane = await self._lane(job)
        return await self._submit(lane, job, act, on_output, outputs)

    async def _submit(
        self,
        lane: Lane,
        job: Job,
        act: Act | None = None,
        on_output: OnOutput | None = None,
        outputs: Path | None = None,
    ) -> Result:
        command: Sequence[str] = ()
        if job.language != "python":
            command = lane.runtime.start(job)
            job = replace(job, name=f"{Path(job.name).stem}{_SUFFIXES[job.language]}")
        async with self._running, lane.busy():
            worker, warm = await lane.pool.take(job.limits)
            try:
                laid = self._lay(worker, job)
                supervisor = self._supervise(worker, act) if act is not None else None
                watched = await self._run(lane, worker, job, on_output, supervisor, command)
                collector = Collector(job.limits, laid, outputs)
                collector.collect(worker.folder)
                full = is_full(worker.folder)
                report = read_report(worker)
            finally:
                use = await asyncio.shield(lane.pool.give_back(worker))
        receipt = self._receipt(lane.runtime)
        result = outcome(job.limits, watched, use, report, collector, receipt, warm=warm, full=full)
        return result if supervisor is None else replace(result, calls=supervisor.calls, cut_off=supervisor.cut_off)

    @asynccontextmanager
    async def session(
        self,
        *,
        limits: Limits | None = None,
        files: Mapping[str, bytes | Path] | None = None,
        act: Act | None = None,
        record: Record | None = None,
        runtime: Literal["plain", "data"] = "plain",
        packages: str = "",
    ) -> AsyncIterator[Session]:
        """Keeps an interpreter for as long as the context lasts, which runs one cell after another.

        It takes the place of one running job. It is never handed from one run to another: whoever opens it owns it.

        Args:
            limits: What it may use at most; wall clock, output and output files count for each cell.
            files: Input files.
            act: Called with each request that its cells make; without it they have no way to make one.
            record: Of an earlier session, to whose state it is brought first.
            runtime: As for a job.
            packages: As for a job.

        Raises:
            JobInvalid: If it cannot be run as it is.
            RuntimeMissing: If the runtime or the packages are not here.
            SandboxLost: If the zygote ended.
            SessionLost: If it cannot be brought to the state of the record.
        """
        limits, files = limits or self.settings.limits, files or {}
        job = Job("", limits=limits, files=files, name="session", runtime=runtime, packages=packages)
        _check(job)
        lane = await self._lane(job)
        async with self._running, lane.busy():
            worker, _ = await lane.pool.take(job.limits)
            supervisor, cancelled = None, False
            try:
                laid = self._lay(worker, job)
                message = lane.zygote.message(worker, job) | {"kept": True}
                if act is not None:
                    supervisor = self._supervise(worker, act)
                    message["token"] = supervisor.token
                    supervisor.begin()
                await send(worker, message)
                session = Session(worker, job.limits, laid, self._receipt(lane.runtime), supervisor, self._missing)
                if record is not None:
                    await session.restore(record)
                yield session
            except asyncio.CancelledError:
                cancelled = True
                raise
            finally:
                worker.kill()
                try:
                    if supervisor is not None:
                        await supervisor.end(cancel=cancelled)
                finally:
                    await asyncio.shield(lane.pool.give_back(worker))

    def _lay(self, worker: Worker, job: Job) -> dict[str, str]:
        """Lays a job's files into its folder; returns their digests."""
        owner = self._uid_base + worker.slot if self._uid_base and Layer.OWN_UID not in self._missing else None
        return lay(worker.folder, job.files, owner) if job.files else {}

    def _supervise(self, worker: Worker, act: Act) -> Supervisor:
        link, worker.link = worker.link, None
        assert link is not None  # a process that is not connected never gets ready
        return Supervisor(link, act, worker.kill, self.settings.bounds, checked=Layer.SUPERVISOR not in self._missing)

    async def _run(
        self,
        lane: Lane,
        worker: Worker,
        job: Job,
        on_output: OnOutput | None,
        supervisor: Supervisor | None,
        command: Sequence[str],
    ) -> Watched:
        """Runs a job, and sees to it that what its owner does for it comes to its end."""
        try:
            watched = await lane.zygote.run(worker, job, on_output, supervisor, command)
        except BaseException:
            if supervisor is not None:
                await supervisor.end(cancel=True)
            raise
        if supervisor is not None:
            await supervisor.end()
        return watched

    async def close(self) -> None:
        """Ends every job and removes all that was made on the host, also where who waits for that is cancelled.

        A runtime that is being opened is opened no more.

        Raises:
            Exception: What failed first. All else is removed nevertheless.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._closed = True
        done: list[object] = []
        try:
            if self._opened is not None:  # whoever opens it is told, and closes the rest
                done += await asyncio.gather(self._opened.zygote.close(), return_exceptions=True)
            async with self._opening:
                lanes, self._lanes, self._first = list(self._lanes.values()), {}, None
                ends = [*self._ending, *(asyncio.create_task(lane.close()) for lane in lanes)]
                done += await asyncio.gather(*ends, return_exceptions=True)
        finally:
            # INVARIANT: the uids are free for another sandbox only when no process of this one has them any more
            cgroups, self._cgroups = self._cgroups, None
            try:
                if cgroups is not None:
                    await asyncio.to_thread(cgroups.close)
            finally:
                if self._lock >= 0:
                    os.close(self._lock)
                    self._lock = -1
        raise_first(done)


def _check(job: Job) -> None:
    if len(job.code.encode("utf-8", "surrogatepass")) > _CODE_BYTES_MAX or "\0" in job.code:
        raise JobInvalid(f"code may have {_CODE_BYTES_MAX} bytes and no NUL")
    limits = job.limits
    for name in limits.__slots__:
        if getattr(limits, name) <= 0:
            raise JobInvalid(f"the limit {name} must be more than nothing")
    for name in job.files:
        check_name(name)
    if job.language not in ("python", *_SUFFIXES) or job.runtime not in (PLAIN.name, DATA):
        raise JobInvalid(f"no language {job.language[:40]!r} with a runtime {job.runtime[:40]!r} is known")
    if (job.language != "python" or job.packages) and job.runtime != PLAIN.name:
        raise JobInvalid("a runtime is Python's, and has no other packages than its own")
    if job.language != "python":
        if job.packages:
            raise JobInvalid("packages are Python's")
        if len(check_name(job.name)) != 1:
            raise JobInvalid(f"the name {job.name[:80]!r} is not one of a file")
        if any("\0" in argument for argument in job.arguments):
            raise JobInvalid("arguments may have no NUL")


def _plain(job: Job) -> Job:
    """The same job without anything that would have to be looked for on the host."""
    return replace(job, language="python", runtime="plain", packages="")
