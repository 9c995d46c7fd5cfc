"""The process that jobs fork from: one thread, no environment, no secrets, a read-only root of its own; standard library only.

It takes orders on one socket, answers with a new process's descriptors, and reports the end of each. When the socket closes it
ends, and every job with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from sandbox.layers import Layer
from sandbox.native import inside, kernel, root, runner

_IMPORTS: Final = """
abc argparse array asyncio base64 bisect calendar collections contextlib copy csv dataclasses datetime decimal difflib enum fractions
functools glob hashlib heapq html inspect io itertools json linecache locale logging math numbers operator os pathlib pickle pprint
random re secrets shutil signal statistics string struct subprocess tempfile textwrap threading time traceback types typing unicodedata
urllib.parse uuid warnings zlib
"""
_MESSAGE_MAX: Final = 65_536
_THREADS_END_S: Final = 10.0


class Zygote:
    """Takes orders until its socket closes."""

    def __init__(self, orders: socket.socket, settings: Mapping[str, object]) -> None:
        self.orders = orders
        self.privileged = bool(settings["privileged"])
        self.without = frozenset(map(str, settings["without"]))  # type: ignore[call-overload]  # a list of names
        runtime: Mapping[str, object] = settings["runtime"]  # type: ignore[assignment]  # a mapping; so the sandbox writes it
        python = os.path.realpath("/proc/self/exe") if runtime["language"] == "shell" else ""
        self.runtime: Mapping[str, object] = {**runtime, "interpreter": python}
        self.jobs: dict[int, str] = {}
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.base_bytes = 0

    def isolate(self, folder: str, guest: Mapping[str, bytes]) -> None:
        """Puts the zygote itself into its own place: mount namespace and root, and without root a user namespace before."""
        if not self.privileged:
            uid, gid = os.getuid(), os.getgid()
            self._try(Layer.USER, kernel.call, "unshare", kernel.NEW_NAMESPACE["user"])
            self._map("self", [(0, uid)], [(0, gid)])
        else:
            os.setgroups([])
        self._try(Layer.MOUNT, kernel.call, "unshare", kernel.NEW_NAMESPACE["mount"])
        self._try(Layer.MOUNT, kernel.mount, "none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        self._try(Layer.ROOT, self._build, folder, guest)
        self._try(Layer.ROOT, lambda: root.enter(folder, read_only=Layer.READ_ONLY not in self.without))

    def _build(self, folder: str, guest: Mapping[str, bytes]) -> None:
        """Puts together the root that this process, and with it its jobs, goes into."""
        build = root.build if Layer.ROOT not in self.without else root.build_whole
        programs: Mapping[str, str] = self.runtime["programs"]  # type: ignore[assignment]  # as above
        build(folder, guest, str(self.runtime["site"]), programs, str(self.runtime["interpreter"]))

    def warm_up(self) -> None:
        """Imports the runtime's modules, in the zygote's own place: they see nothing of the host, and can change nothing that stays."""
        if self.runtime["site"]:
            sys.path.append(root.SITE)
        imports = str(self.runtime["imports"]).split()
        if not imports:
            return
        environment: Mapping[str, str] = self.runtime["environment"]  # type: ignore[assignment]  # as above
        os.environ.update(environment, TMPDIR=f"{root.JOB}/tmp", HOME=f"{root.JOB}/work")  # noqa: S108 (of its own root)
        os.close(root.mount_job(2**26, 1_000, os.getuid(), os.getgid(), sized=True))
        try:
            for name in imports:
                importlib.import_module(name)
        finally:
            kernel.unmount(root.JOB)
            os.environ.clear()
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(_THREADS_END_S)
        # INVARIANT: who forks has one thread; what another held at that moment would be locked for ever
        if self._threads() != 1:
            raise RuntimeError(f"the imports of the runtime {self.runtime['name']} have left a thread")

    def _threads(self) -> int:
        fd = os.open("self/status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)
        try:
            lines = os.read(fd, 65_536).decode().splitlines()
        finally:
            os.close(fd)
        return next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))

    @staticmethod
    def _try(layer: Layer, step, *arguments) -> None:  # type: ignore[no-untyped-def]  # any step with its arguments
        try:
            step(*arguments)
        except OSError as error:
            raise inside.LayerFailed(layer, error) from error

    def _map(self, who: str, uids: list[tuple[int, int]], gids: list[tuple[int, int]]) -> None:
        texts = {"uid_map": uids, "gid_map": gids}
        if not self.privileged:
            self._write(f"{who}/setgroups", "deny")
        for name, pairs in texts.items():
            self._write(f"{who}/{name}", "".join(f"{inner} {outer} 1\n" for inner, outer in pairs))

    def _write(self, path: str, text: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.proc)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def serve(self) -> None:
        """Takes orders."""
        ended, wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self.orders.fileno(), ended], [], [])
            if ended in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(ended, 4096)
                self._reap()
            if self.orders.fileno() in ready:
                order = self.orders.recv(_MESSAGE_MAX)
                if not order:
                    return
                self._make(json.loads(order))

    def _reap(self) -> None:
        while self.jobs:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            name = self.jobs.pop(pid, "")
            self._say(
                {
                    "ended": name,
                    "status": self._status(status),
                    "cpu_s": used.ru_utime + used.ru_stime,
                    "rss_kib": used.ru_maxrss,
                }
            )

    @staticmethod
    def _status(status: int) -> int:
        """Returns a job's wait status, by that of the process that was forked here."""
        return status

    def _say(self, message: Mapping[str, object], fds: tuple[int, ...] = ()) -> None:
        with contextlib.suppress(BrokenPipeError):
            socket.send_fds(self.orders, [json.dumps(message).encode()], list(fds))

    def _make(self, order: Mapping[str, object]) -> None:
        try:
            self._clone(order)
        except inside.LayerFailed as error:
            self._say({"failed": order["name"], "layer": error.layer, "errno": error.errno, "what": str(error)})

    def _clone(self, order: Mapping[str, object]) -> None:
        name, limits = str(order["name"]), order["limits"]
        assert isinstance(limits, dict)  # so the sandbox writes it
        limits["base_bytes"] = self.base_bytes
        uid = int(str(order["uid"])) if self.privileged and Layer.OWN_UID not in self.without else 0
        try:
            folder = root.mount_job(
                limits["disk_bytes"], limits["disk_files"], uid, uid, sized=Layer.DISK not in self.without
            )
        except OSError as error:
            raise inside.LayerFailed(Layer.DISK, error) from error
        try:
            with contextlib.ExitStack() as held:
                held.callback(os.close, folder)
                in_sight = held.enter_context(contextlib.ExitStack())
                in_sight.callback(kernel.unmount, root.JOB)
                ours, control = (held.enter_context(end) for end in socket.socketpair())
                out_read, out_write = self._pipe(held)
                err_read, err_write = self._pipe(held)
                report = self._open_report()
                held.callback(os.close, report)
                os.ftruncate(report, runner.REPORT_BYTES)
                ends = inside.Ends(control.fileno(), out_write, err_write, report, self.proc)
                pid, pidfd = self._bear(ends, order, limits, uid)
                self.jobs[pid] = name
                held.callback(os.close, pidfd)
                in_sight.close()  # the job has it in its own namespace, the sandbox by a descriptor
                kept = (ours.fileno(), out_read, err_read, report, folder, pidfd)
                self._say({"made": name, "pid": pid, "base_bytes": self.base_bytes}, kept)
        except OSError as error:
            raise inside.LayerFailed(Layer.USER, error) from error

    @staticmethod
    def _pipe(held: contextlib.ExitStack) -> tuple[int, int]:
        """Makes a pipe that is closed here with all else that is held for a job."""
        ends = os.pipe2(os.O_CLOEXEC)
        for end in ends:
            held.callback(os.close, end)
        return ends

    def _open_report(self) -> int:
        """Opens what a job's process leaves its exception in."""
        return os.memfd_create("report")

    def _bear(
        self, ends: inside.Ends, order: Mapping[str, object], limits: Mapping[str, int], uid: int
    ) -> tuple[int, int]:
        """Makes a job's process in its namespaces; returns its pid and its pidfd."""
        flags = sum(
            flag for layer, flag in kernel.NEW_NAMESPACE.items() if layer not in {*self.without, Layer.CGROUP_NAMESPACE}
        )
        pid, pidfd = kernel.clone(flags)
        if pid == 0:
            inside.run(ends, {**order, "uid": uid, "without": sorted(self.without), "runtime": self.runtime}, limits)
        if Layer.USER not in self.without:
            self._map_born(pid, pidfd, [(inside.INNER_ID, uid)])
        return pid, pidfd

    def _map_born(self, pid: int, pidfd: int, ids: list[tuple[int, int]]) -> None:
        """Maps the uids and gids of a process that was made, which does not stay if that fails."""
        try:
            self._map(str(pid), ids, ids)
        except OSError:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(pidfd)
            raise


def _say_failed(orders: socket.socket, layer: str, errno: int, what: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever started it has no more use for it
        orders.send(json.dumps({"failed": "", "layer": layer, "errno": errno, "what": what}).encode())


def import_guest(source: str) -> None:
    """Imports what jobs ask their run by, from where they have it, so that each job finds it imported."""
    module, path = ModuleType("holdfast_guest"), f"{root.GUEST}/holdfast_guest.py"
    module.__file__ = path
    exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 (our own module, which is not in a package's place here)
    sys.modules["holdfast_guest"] = module


def main(descriptor: int, text: str, kind: type[Zygote] = Zygote) -> None:
    """Runs the zygote on a socket that it was given."""
    orders = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    settings = json.loads(text)
    os.umask(
        0o022
    )  # whoever starts it may keep what it makes to itself, and jobs have to find their way through the new root
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != settings["parent"]:
        return  # it died before
    for name in _IMPORTS.split():
        importlib.import_module(name)
    guest = root.read_guest(settings["source"])
    # what is imported later comes from Python's own library; the sandbox's sources are not in the new root
    sys.path[:] = [path for path in sys.path if path != settings["source"]]
    sys.path_importer_cache.clear()
    zygote = kind(orders, settings)
    try:
        zygote.isolate(settings["folder"], guest)
    except inside.LayerFailed as error:
        _say_failed(orders, error.layer, error.errno, str(error))
        return
    if not zygote.privileged:
        # the credentials changed, which forgot it; whoever started this may be gone meanwhile, then the socket says so
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    import_guest(guest[f"{root.GUEST}/holdfast_guest.py"].decode())
    try:
        zygote.warm_up()
    except Exception as error:  # noqa: BLE001 (whatever a package raises is told: without it the runtime is none)
        _say_failed(orders, Layer.ROOT, 0, f"the runtime {zygote.runtime['name']}: {type(error).__name__}: {error}")
        return
    fd = os.open("self/statm", os.O_RDONLY, dir_fd=zygote.proc)
    zygote.base_bytes = int(os.read(fd, 100).split()[0]) * os.sysconf("SC_PAGE_SIZE") + 32 * 2**20
    zygote.base_bytes += int(str(zygote.runtime["address_bytes"]))
    os.close(fd)
    gc.collect()
    gc.disable()
    gc.freeze()
    zygote._say({"up": True})
    zygote.serve()
