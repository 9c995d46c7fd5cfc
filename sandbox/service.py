"""`Sandbox`: takes jobs, runs each in a process of its own behind every layer, and tells what came of it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from sandbox.errors import JobInvalid, LayerMissing, SandboxLost
from sandbox.frames import Request
from sandbox.job import Because, Job, Limits, Result
from sandbox.layers import WEAKER, Layer, Receipt
from sandbox.native import canary, kernel
from sandbox.native.cgroups import Cgroups, open_cgroups
from sandbox.native.files import Collector, check_name, is_full, lay
from sandbox.native.host import ZygoteProcess
from sandbox.native.pool import Pool
from sandbox.native.watch import OnOutput, Watched, read_report
from sandbox.native.worker import Worker, send
from sandbox.outcome import outcome
from sandbox.session import Record, Session
from sandbox.supervisor import Act, Bounds, Supervisor

_UIDS_FIRST: Final = 200_000
_UIDS_EACH: Final = 1_000
_RANGES: Final = 60
_LOCKS: Final = Path("/run/lock")
_OWN_PYTHON: Final = str(
    Path(sys.executable).resolve()
)  # not that of a virtual environment, whose packages are not the jobs' business
_CODE_BYTES_MAX: Final = 4 * 2**20
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
        python: The interpreter that jobs run in; this one's if it is not given.
    """

    profile: Literal["full", "unprivileged"] = "full"
    allow_missing: frozenset[Layer] = frozenset()
    limits: Limits = field(default_factory=Limits)
    bounds: Bounds = field(default_factory=Bounds)
    running_max: int = 32
    idle_min: int = 2
    idle_max: int = 16
    python: str = ""


class Sandbox:
    """Runs jobs. Use it as an asynchronous context, or `start` and `close` it."""

    def __init__(self, settings: Settings | None = None, *, off: frozenset[Layer] = frozenset()) -> None:
        """Makes a sandbox that is not started.

        Args:
            settings: How jobs are run.
            off: Layers to leave out, which only tests of the canary have a use for: without `allow_missing` it refuses to start.
        """
        self.settings = settings or Settings()
        self._off = off
        self._missing: frozenset[Layer] = frozenset()
        self._zygote: ZygoteProcess | None = None
        self._pool: Pool | None = None
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
        missing = [layer for layer in Layer if layer in self._missing]
        weaker = tuple(WEAKER.get(layer, f"The layer {layer} is missing.") for layer in missing)
        layers = tuple(layer.value for layer in Layer if layer not in self._missing)
        return Receipt("native", self.settings.profile, layers, tuple(layer.value for layer in missing), weaker)

    @property
    def zygote_pid(self) -> int:
        """The pid of the process that jobs fork from."""
        return self._zygote.pid if self._zygote is not None else 0

    @property
    def idle(self) -> int:
        """How many processes are ready."""
        return self._pool.idle if self._pool is not None else 0

    async def start(self) -> None:
        """Starts the zygote, has the canary attack every layer, and makes processes ready.

        Raises:
            LayerMissing: If a layer does not hold that the settings do not allow to be missing (LAW 7).
            SandboxLost: If the zygote cannot run.
        """
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        if not kernel.NUMBERS:
            raise LayerMissing(Layer.SECCOMP, 0, f"the system calls of {kernel.MACHINE} are not known")
        settings, privileged = self.settings, os.geteuid() == 0
        allowed = settings.allow_missing | (
            _UNPRIVILEGED_MAY_LACK if settings.profile == "unprivileged" else frozenset()
        )
        self._missing = self._off
        if not privileged:
            self._lack(Layer.OWN_UID, allowed, 0, "an ordinary account has no uids to give")
        else:
            self._claim_uids()
        if Layer.CGROUP not in self._missing:
            try:
                self._cgroups = open_cgroups()
            except OSError as error:
                self._lack(Layer.CGROUP, allowed, error.errno or 0, f"{error.strerror}: {error.filename}")
        self._zygote = ZygoteProcess(
            python=settings.python or _OWN_PYTHON,
            privileged=privileged,
            without=self._missing,
            uid_base=self._uid_base,
            cgroups=self._cgroups,
        )
        await self._zygote.start()
        await self._attack(allowed)
        slots = settings.running_max + settings.idle_max + 1
        self._pool = Pool(self._zygote, settings.limits, slots, settings.idle_min, settings.idle_max)
        await self._attack_from_outside(allowed)
        await self._pool.fill()

    def _lack(self, layer: Layer, allowed: frozenset[Layer], errno: int, what: str) -> None:
        if layer not in allowed:
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

    async def _attack(self, allowed: frozenset[Layer]) -> None:
        """Has a process attack every layer from inside, at the moment when only that layer stands in its way."""
        assert self._zygote is not None
        skipped = {layer.value for layer in self._missing & allowed}
        with canary.laid_out(limited=self._cgroups is not None, without_attack=frozenset(skipped)) as facts:
            worker = await self._zygote.make(_UIDS_EACH - 1, canary.LIMITS, facts, canary.seed)
            achieved = worker.achieved
            await self._zygote.end(worker)
        for layer in Layer:
            if layer in achieved:
                self._lack(layer, allowed, 0, achieved[layer])

    async def _attack_from_outside(self, allowed: frozenset[Layer]) -> None:
        """Has jobs try what this side of the sandbox stops: a forbidden call, a flood, and staying."""
        keyctl = canary.FORBIDDEN.format(number=kernel.NUMBERS["keyctl"])
        for layer, code, limits, because in (
            (Layer.SECCOMP, keyctl, Limits(wall_ms=20_000), Because.FORBIDDEN_CALL),
            (Layer.OUTPUT, canary.FLOOD, Limits(wall_ms=20_000, output_bytes=4_096, cpu_s=2), Because.OUTPUT),
            (Layer.WALL_CLOCK, canary.SLEEP, Limits(wall_ms=50), Because.TIME),
        ):
            if layer in self._missing & allowed:
                continue
            async with asyncio.timeout(15):
                result = await self.submit(Job(code, limits=limits))
            if result.killed is None or result.killed.because != because:
                self._lack(layer, allowed, 0, f"a job that should have been stopped ended with {result.exit_status}")
        await self._attack_supervisor(allowed)

    async def _attack_supervisor(self, allowed: frozenset[Layer]) -> None:
        """Has a job ask in the name of another run."""
        if Layer.SUPERVISOR in self._missing & allowed:
            return
        asked = []

        async def act(request: Request) -> None:
            asked.append(request)

        async with asyncio.timeout(15):
            result = await self.submit(Job(canary.FORGED, limits=Limits(wall_ms=10_000)), act=act)
        if asked or not result.cut_off:
            self._lack(Layer.SUPERVISOR, allowed, 0, "a request in the name of another run was taken")

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
            SandboxLost: If the zygote ended; the job with it.
            Exception: What `act` failed with, other than by refusing; the job is ended.
        """
        _check(job)
        if self._zygote is None or self._pool is None:
            raise SandboxLost("the sandbox is not started", remedy="Call `start`, or use it as a context.")
        async with self._running:
            worker, warm = await self._pool.take(job.limits)
            try:
                laid = self._lay(worker, job)
                supervisor = self._supervise(worker, act) if act is not None else None
                watched = await self._run(worker, job, on_output, supervisor)
                collector = Collector(job.limits, laid, outputs)
                collector.collect(worker.folder)
                full = is_full(worker.folder)
                report = read_report(worker)
            finally:
                use = await asyncio.shield(self._pool.give_back(worker))
        result = outcome(job.limits, watched, use, report, collector, self.receipt, warm=warm, full=full)
        return result if supervisor is None else replace(result, calls=supervisor.calls, cut_off=supervisor.cut_off)

    @asynccontextmanager
    async def session(
        self,
        *,
        limits: Limits | None = None,
        files: Mapping[str, bytes | Path] | None = None,
        act: Act | None = None,
        record: Record | None = None,
    ) -> AsyncIterator[Session]:
        """Keeps an interpreter for as long as the context lasts, which runs one cell after another.

        It takes the place of one running job. It is never handed from one run to another: whoever opens it owns it.

        Args:
            limits: What it may use at most; wall clock, output and output files count for each cell.
            files: Input files.
            act: Called with each request that its cells make; without it they have no way to make one.
            record: Of an earlier session, to whose state it is brought first.

        Raises:
            JobInvalid: If it cannot be run as it is.
            SandboxLost: If the zygote ended.
            SessionLost: If it cannot be brought to the state of the record.
        """
        job = Job("", limits=limits or self.settings.limits, files=files or {}, name="session")
        _check(job)
        if self._zygote is None or self._pool is None:
            raise SandboxLost("the sandbox is not started", remedy="Call `start`, or use it as a context.")
        async with self._running:
            worker, _ = await self._pool.take(job.limits)
            supervisor, cancelled = None, False
            try:
                laid = self._lay(worker, job)
                message = self._zygote.message(worker, job) | {"kept": True}
                if act is not None:
                    supervisor = self._supervise(worker, act)
                    message["token"] = supervisor.token
                    supervisor.begin()
                await send(worker, message)
                session = Session(worker, job.limits, laid, self.receipt, supervisor, self._missing)
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
                        await asyncio.shield(supervisor.end(cancel=cancelled))
                finally:
                    await asyncio.shield(self._pool.give_back(worker))

    def _lay(self, worker: Worker, job: Job) -> dict[str, str]:
        """Lays a job's files into its folder; returns their digests."""
        owner = self._uid_base + worker.slot if self._uid_base and Layer.OWN_UID not in self._missing else None
        return lay(worker.folder, job.files, owner) if job.files else {}

    def _supervise(self, worker: Worker, act: Act) -> Supervisor:
        link, worker.link = worker.link, None
        assert link is not None  # a process that is not connected never gets ready
        return Supervisor(link, act, worker.kill, self.settings.bounds, checked=Layer.SUPERVISOR not in self._missing)

    async def _run(
        self, worker: Worker, job: Job, on_output: OnOutput | None, supervisor: Supervisor | None
    ) -> Watched:
        """Runs a job, and sees to it that what its owner does for it comes to its end."""
        assert self._zygote is not None
        try:
            watched = await self._zygote.run(worker, job, on_output, supervisor)
        except BaseException:
            if supervisor is not None:
                await asyncio.shield(supervisor.end(cancel=True))
            raise
        if supervisor is not None:
            await supervisor.end()
        return watched

    async def close(self) -> None:
        """Ends every job and removes all that was made on the host."""
        steps: list[Callable[[], Awaitable[None]]] = []
        if self._pool is not None:
            steps.append(self._pool.close)
        if self._zygote is not None:
            steps.append(self._zygote.close)
        self._pool = self._zygote = None
        for step in steps:
            await step()
        if self._cgroups is not None:
            self._cgroups.close()
            self._cgroups = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _check(job: Job) -> None:
    if len(job.code.encode("utf-8", "surrogatepass")) > _CODE_BYTES_MAX or "\0" in job.code:
        raise JobInvalid(f"code may have {_CODE_BYTES_MAX} bytes and no NUL")
    limits = job.limits
    for name in limits.__slots__:
        if getattr(limits, name) <= 0:
            raise JobInvalid(f"the limit {name} must be more than nothing")
    for name in job.files:
        check_name(name)
