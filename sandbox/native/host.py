"""The sandbox's side of the zygote and of its processes: makes them, gives them a job, watches, ends them, cleans up."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from holdfast.errors import HoldfastError
from sandbox.errors import LayerMissing, SandboxLost
from sandbox.job import Job, Limits, printable
from sandbox.layers import Layer
from sandbox.native.cgroups import Cgroups, Use
from sandbox.native.watch import OnOutput, Watch, Watched
from sandbox.native.worker import FRAME, Ended, Worker, readable, send
from sandbox.supervisor import Door, Peer, Supervisor, intrude, was_let_in

_SOURCE: Final = str(Path(__file__).resolve().parents[2])
_BOOT: Final = "import sys; sys.path.insert(0, sys.argv[3]); from {} import main; main(int(sys.argv[1]), sys.argv[2])"
_MESSAGE_MAX: Final = 65_536
_READ: Final = 65_536
_UP_S: Final = 120.0
"""How long a zygote may take until it is up: that of the runtime `data` imports its packages, on a busy machine for half a minute."""
_WORDS_MAX: Final = 1_000
_ENDS: Final = 6
"""How many descriptors come with a process that was made."""
_SCARCE: Final = (errno.EMFILE, errno.ENFILE)


class ZygoteProcess:
    """The zygote of one sandbox: the native backend."""

    LAUNCHER = "sandbox.native.zygote"
    FAILING = Layer.DESCRIPTORS
    """The layer that a process had not entered which ended without a word."""
    LISTENS = True
    """Whether the kernel that jobs run in tells the sandbox of forbidden calls."""
    DIES_WHOLE = False
    """Whether all of a job ends where one of its processes uses too much."""

    def __init__(
        self,
        *,
        program: str = "",
        python: str,
        privileged: bool,
        without: frozenset[Layer],
        uid_base: int,
        cgroups: Cgroups | None,
        runtime: Mapping[str, object],
    ) -> None:
        self._settings = {
            "program": program,
            "privileged": privileged,
            "without": sorted(without),
            "source": _SOURCE,
            "parent": os.getpid(),
            "runtime": dict(runtime),
        }
        self._python = python
        self.without = without
        self._uid_base = uid_base
        self._cgroups = cgroups
        self._workers: dict[str, Worker] = {}
        self._orders: socket.socket | None = None
        self._ordering = asyncio.Lock()
        self._room = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._up: asyncio.Future[None] | None = None
        self._count = 0
        self.privileged = privileged
        self.lost = False
        self._was_up = False

    @property
    def pid(self) -> int:
        """The zygote's pid."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Starts it.

        Raises:
            LayerMissing: If it could not put itself into its place.
            SandboxLost: If it ended otherwise.
            TimeoutError: If it is not up in time.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        loop = asyncio.get_running_loop()
        self._up = loop.create_future()
        # the mount on it is the zygote's own: for everybody else this stays an empty folder
        with tempfile.TemporaryDirectory(prefix="holdfast-root-") as folder:
            settings = json.dumps({**self._settings, "folder": folder})
            environment = dict(os.environ) if Layer.ENVIRONMENT in self.without else {}
            with theirs:
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603 (our own interpreter; starting it takes a millisecond, once)
                    [
                        self._python,
                        "-I",
                        "-S",
                        "-c",
                        _BOOT.format(self.LAUNCHER),
                        str(theirs.fileno()),
                        settings,
                        _SOURCE,
                    ],
                    env=environment,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
            ours.setblocking(False)
            self._orders = ours
            loop.add_reader(ours.fileno(), self._read)
            try:
                async with asyncio.timeout(_UP_S):
                    await self._up
            except BaseException:
                await self.close()
                raise

    def _read(self) -> None:
        assert self._orders is not None
        while True:
            try:
                body, fds, _, _ = socket.recv_fds(self._orders, _MESSAGE_MAX, 8)
            except BlockingIOError:
                return
            except OSError:
                body, fds = b"", []
            if not body:
                self._fail(_lost())
                return
            self._take(json.loads(body), fds)

    def _fail(self, error: Exception) -> None:
        self.lost = True
        assert self._orders is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._orders.fileno())
        loop.remove_writer(self._orders.fileno())
        self._room.set()
        futures: list[asyncio.Future[None] | asyncio.Future[Ended]] = [self._up] if self._up is not None else []
        for worker in self._workers.values():
            worker.kill()  # one that had not yet asked to die with the zygote lives on
            futures += [worker.made, worker.ended]
        for future in futures:
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may wait for it; that is no error of its own
        self._workers.clear()

    def _take(self, message: Mapping[str, object], fds: Sequence[int]) -> None:
        if "up" in message:
            assert self._up is not None
            self._was_up = True
            if not self._up.done():
                self._up.set_result(None)
            return
        if "made" in message:
            self._take_made(self._workers[str(message["made"])], message, fds)
            return
        if "failed" in message:
            number = int(str(message["errno"]))
            error: HoldfastError = LayerMissing(Layer(str(message["layer"])), number, str(message["what"]))
            if number in _SCARCE:
                error = _scarce()
            found = self._workers.pop(str(message["failed"]), None)
            future = found.made if found is not None else self._up
            if future is not None and not future.done():
                future.set_exception(error)
            return
        ended = self._workers.get(str(message["ended"]))
        if ended is not None:
            self._end(ended, message)

    @staticmethod
    def _take_made(worker: Worker, message: Mapping[str, object], fds: Sequence[int]) -> None:
        """Takes a process that was made, with all that connects it to the sandbox."""
        worker.pid, worker.base_bytes = int(str(message["pid"])), int(str(message["base_bytes"]))
        if len(fds) != _ENDS:
            for fd in fds:
                os.close(fd)  # with which the process ends: nobody else has the other end of what it waits at
            if not worker.made.done():
                worker.made.set_exception(_scarce())
            return
        control, worker.stdout, worker.stderr, worker.report, worker.folder, worker.pidfd = fds
        worker.control = socket.socket(fileno=control)
        worker.control.setblocking(False)
        for fd in (worker.stdout, worker.stderr):
            os.set_blocking(fd, False)
        if not worker.made.done():
            worker.made.set_result(None)

    def _end(self, worker: Worker, ended: Mapping[str, object]) -> None:
        """Says that a process has ended, and how."""
        self._workers.pop(worker.name, None)
        if not worker.ended.done():
            worker.ended.set_result(
                Ended(int(str(ended["status"])), float(str(ended["cpu_s"])), int(str(ended["rss_kib"])))
            )

    async def make(
        self,
        slot: int,
        limits: Limits,
        facts: Mapping[str, object] | None = None,
        seed: Callable[[int], None] | None = None,
    ) -> Worker:
        """Makes a process and waits until it is in all its layers.

        Args:
            slot: Which of the sandbox's uids it gets.
            limits: Its limits.
            facts: For the canary: what its attacks need to know.
            seed: For the canary: lays something into its folder.

        Raises:
            LayerMissing: If it could not enter one.
            SandboxLost: If the zygote is gone.
        """
        self._assert_alive()
        assert self._orders is not None
        self._count += 1
        worker = Worker(str(self._count), slot, limits)
        self._workers[worker.name] = worker
        order = {"name": worker.name, "uid": self._uid_base + slot, "limits": self._of_process(limits)}
        if facts is not None:
            order["canary"] = dict(facts)
        ordered = False
        try:
            await self._order(json.dumps(order).encode())
            ordered = True
            await asyncio.shield(worker.made)
            # moving a process between cgroups waits for the kernel, and nobody else shall wait with it
            worker.admitting = asyncio.create_task(asyncio.to_thread(self._admit, worker))
            await asyncio.shield(worker.admitting)
            if seed is not None:
                seed(worker.folder)
            worker.door = Door(worker.folder, self._owner(worker))
            intruder = intrude(worker.door) if facts is not None else None
            await send(worker, {"go": True})
            await self._ready(worker)
            self._let_in(worker)
            if intruder is not None and was_let_in(intruder):
                worker.achieved[Layer.SUPERVISOR] = "a process that is no job was let in to its supervisor"
            self._assert_alive()
        except BaseException as error:
            await asyncio.shield(self._abandon(worker, ordered=ordered))
            if isinstance(error, Exception) and self.lost:
                raise _lost() from error  # whatever failed by that says nothing of a layer
            if isinstance(error, OSError) and error.errno in _SCARCE:
                raise _scarce() from error
            raise
        return worker

    async def _order(self, order: bytes) -> None:
        """Gives an order, as soon as the zygote's socket has room for it.

        Raises:
            SandboxLost: If the zygote is gone.
        """
        # the loop knows one writer for a socket: a second that waits would replace the first, which then waits for ever
        async with self._ordering:
            while True:
                self._assert_alive()
                assert self._orders is not None
                try:
                    self._orders.send(order)
                except BlockingIOError:
                    await self._wait_for_room(self._orders.fileno())
                except (BrokenPipeError, ConnectionResetError) as error:
                    raise _lost() from error
                else:
                    return

    async def _wait_for_room(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        self._room.clear()
        loop.add_writer(fd, self._room.set)
        try:
            await self._room.wait()
        finally:
            if not self.lost:  # then it was removed, and the number may be another's
                loop.remove_writer(fd)

    def _owner(self, worker: Worker) -> int | None:
        """Returns the uid that a process has on the host; nothing if it is this one's own."""
        own = not self.privileged or Layer.OWN_UID in self.without
        return None if own else self._uid_base + worker.slot

    def _is_job(self, worker: Worker, peer: Peer) -> bool:
        """Says whether who connected is a process's job, by what the kernel says."""
        owner = self._owner(worker)
        return peer == Peer(worker.pid, os.geteuid() if owner is None else owner)

    def _let_in(self, worker: Worker) -> None:
        """Takes the connection that a process has made to its supervisor, and only that process's."""
        assert worker.door is not None
        worker.link = worker.door.admit(
            lambda peer: self._is_job(worker, peer), checked=Layer.SUPERVISOR not in self.without
        )
        worker.door.close()
        worker.door = None
        if worker.link is None:
            raise LayerMissing(
                Layer.SUPERVISOR, 0, "who connected to a job's supervisor is not the job, as the kernel says"
            )

    def _of_group(self, limits: Limits) -> Limits:
        """Returns the limits of a job's cgroup, by those of the job."""
        return limits

    def _of_process(self, limits: Limits) -> dict[str, int]:
        """Returns the limits of a job's process: of how many there are its cgroup tells, so that comes before what tells nobody."""
        return {**asdict(limits), "pids": limits.pids + (1 if self._cgroups is not None else 0)}

    def narrow(self, worker: Worker, limits: Limits) -> None:
        """Has the cgroup of a process that was made for more let no more processes be than a job may start."""
        if worker.group is not None and limits.pids < worker.limits.pids:
            worker.group.narrow(self._of_group(limits).pids)

    def _admit(self, worker: Worker) -> None:
        if self._cgroups is None:
            return
        try:
            worker.group = self._cgroups.make(self._of_group(worker.limits))
            worker.group.add(worker.pid)
        except ProcessLookupError:
            return  # it has ended, which is told elsewhere
        except OSError as error:
            if error.errno in _SCARCE:
                raise
            raise LayerMissing(Layer.CGROUP, error.errno or 0, f"a job cannot be put into a cgroup: {error}") from error

    async def _abandon(self, worker: Worker, *, ordered: bool) -> None:
        """Ends a process that nobody waits for any more, which may not even have been made yet."""
        if ordered:
            with contextlib.suppress(HoldfastError):
                await worker.made
        try:
            await self.end(worker)
        except OSError as error:
            if error.errno not in _SCARCE:  # what it used cannot be read, and nobody asks for it
                raise

    def _assert_alive(self) -> None:
        if self.lost or self._orders is None:
            raise _lost()

    async def _ready(self, worker: Worker) -> None:
        """Waits for the one message of a process that is in its layers, and takes the filter's listener from it."""
        control = worker.control
        assert control is not None
        buffer, fds = b"", list[int]()
        while len(buffer) < FRAME.size or len(buffer) < FRAME.size + FRAME.unpack_from(buffer)[0]:
            await readable(control.fileno())
            try:
                part, more, flags, _ = socket.recv_fds(control, _READ, 1)
            except ConnectionResetError:  # it ended before it read what it was sent
                part, more, flags = b"", [], 0
            fds += more
            if flags & socket.MSG_CTRUNC:
                raise _scarce()
            if not part:
                words = _last_words(worker)
                raise LayerMissing(self.FAILING, 0, f"a new process ended before it was in its layers{words}")
            buffer += part
        message = json.loads(buffer[FRAME.size :])
        worker.achieved = {str(name): str(what) for name, what in message.get("achieved", {}).items()}
        if fds:
            worker.listener = fds[0]
            os.set_blocking(worker.listener, False)
        if "failed" in message:
            for layer in Layer:  # what an attack achieved says more than what failed afterwards
                if layer in worker.achieved:
                    raise LayerMissing(layer, 0, worker.achieved[layer])
            raise LayerMissing(Layer(message["failed"]), int(message["errno"]), str(message["what"]))
        if not fds and self.LISTENS and Layer.SECCOMP not in self.without:
            raise LayerMissing(Layer.SECCOMP, 0, "no listener came with the filter")

    def message(self, worker: Worker, job: Job, command: Sequence[str] = ()) -> dict[str, object]:
        """Returns what a process is told of its job; with a command it becomes that program."""
        message: dict[str, object] = {"code": job.code, "name": job.name, "arguments": list(job.arguments)}
        if command:
            message["command"] = list(command)
        if job.limits != worker.limits:
            message["limits"] = {**self._of_process(job.limits), "base_bytes": worker.base_bytes}
        return message

    async def run(
        self,
        worker: Worker,
        job: Job,
        on_output: OnOutput | None,
        supervisor: Supervisor | None = None,
        command: Sequence[str] = (),
    ) -> Watched:
        """Gives a process its job, and watches it to its end."""
        watch = Watch(worker, job.limits, on_output, self.without)
        message = self.message(worker, job, command)
        if supervisor is not None:
            message["token"] = supervisor.token
            supervisor.begin()
        try:
            await send(worker, message)
            watch.begin()  # meanwhile the job begins, and what it says waits in the pipes
            ended = await asyncio.shield(worker.ended)
        except asyncio.CancelledError:
            worker.kill()
            await asyncio.shield(worker.ended)
            raise
        finally:
            watch.finish()
        return watch.watched(ended)

    async def end(self, worker: Worker) -> Use | None:
        """Ends a process if it still runs, and removes all that was its own. Returns what it used."""
        worker.kill()
        if worker.admitting is not None:
            await asyncio.wait([worker.admitting])
        if worker.pid and not self.lost:
            with contextlib.suppress(SandboxLost):
                await asyncio.shield(worker.ended)
        self._workers.pop(worker.name, None)
        try:
            return await asyncio.to_thread(_clean, worker)  # the kernel takes its time for mounts and cgroups
        except FileNotFoundError:
            if not self.lost:
                raise
            return None  # the sandbox was closed meanwhile, and removed all that its jobs had

    async def close(self) -> None:
        """Ends the zygote, and every process with it."""
        if self._orders is not None:
            if not self.lost:
                self._fail(SandboxLost("the sandbox was closed"))
            self._orders.close()
            self._orders = None
        process = self._process
        if process is not None:
            if not self._was_up:  # it reads no socket yet by which it could know
                process.kill()
            try:
                await asyncio.to_thread(process.wait, 5)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
            self._process = None


def _lost() -> SandboxLost:
    return SandboxLost("the process that jobs fork from has ended", remedy="Start the sandbox again.")


def _scarce() -> SandboxLost:
    return SandboxLost(
        "the sandbox has no descriptors left for another job",
        remedy="Raise the limit of its process's open files (`ulimit -n`), or let fewer jobs run at once.",
    )


def _last_words(worker: Worker) -> str:
    """Returns what a new process, or the program that was to start it, has said before it ended."""
    with contextlib.suppress(BlockingIOError):
        return f": {printable(os.read(worker.stderr, _WORDS_MAX)).strip()}".removesuffix(": ")
    return ""


def _clean(worker: Worker) -> Use | None:
    """Removes what was a process's own; returns what it used."""
    try:
        if worker.group is None:
            return None
        group, worker.group = worker.group, None
        try:
            return group.use()
        finally:
            group.remove()
    finally:
        worker.close()
