"""The process that starts `runsc` for each job: one thread, no environment, a root of its own; standard library only.

It takes the same orders as the zygote, and answers the same. Where the zygote forks, it makes namespaces with three uids that are
the job's own, and in them starts gVisor: its kernel, in which all code of the job is, as one account; its file server as another; and
what the job writes belongs to the third.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from sandbox.bubblewrap.launcher import BOOT, Launcher
from sandbox.layers import Layer
from sandbox.native import inside, kernel, root, zygote
from sandbox.runsc.boot import REPORT

BY_RUNSC: Final = frozenset({Layer.USER, Layer.OWN_UID, Layer.CGROUP_NAMESPACE, Layer.UTS, Layer.CAPABILITIES})
"""Layers that a job's process finds itself in when `boot` begins, and has no right to enter once more."""
UIDS_APART: Final = 100_000
"""How far a job's other two uids are from its own."""
_NOBODY: Final = 65_534
_STAGE: Final = "/stage"
_STATE: Final = "/state"
_PROGRAM: Final = f"{root.PROGRAMS}/runsc"
_FIRST_LINE: Final = f"import sys; sys.path.insert(0, {BOOT!r}); from sandbox.runsc.boot import main; main(sys.argv[1])"
_FLAGS: Final = (
    *("--root", f"{_STATE}/run", "--network=none", "--ignore-cgroups", "--host-uds=open", "--overlay2=none"),
    *("--file-access=shared", "--file-access-mounts=shared"),
)
_NO_DIRECT_FILES: Final = "--directfs=false"
"""Where a version knows it: files are opened by gVisor's file server alone, and never by its kernel."""
_ASKED_S: Final = 10
_RLIMITS: Final = {"MSGQUEUE": 0, "SIGPENDING": 64, "NICE": 0, "RTPRIO": 0}
"""Limits that gVisor sets for a container, and for nobody in it. All others are set by `boot`, as natively."""
_NOTHING: Final = f"{_STAGE}/proc"
_NO_DEVICE: Final = f"{_STATE}/nothing"
_NO_DEVICES: Final = ("/dev/ptmx", "/dev/fuse", "/dev/tty", "/dev/full", "/dev/random")
_HIDDEN: Final = ("/proc", "/sys", "/dev/pts", "/dev/shm", "/dev/net")  # noqa: S108 (of the job's root)
"""What gVisor has of its own in each container, and no job has natively: an empty folder, or a file nobody may open, lies over it."""
_OWN: Final = (f"{root.JOB}/work", f"{root.JOB}/tmp")  # noqa: S108 (of the job's folder)
_PLAIN: Final = ["nosuid", "nodev", "noexec"]


def _bind(here: str, there: str, how: str) -> dict[str, object]:
    return {"destination": there, "type": "bind", "source": here, "options": [how, "bind", *_PLAIN]}


class RunscLauncher(Launcher):
    """Takes orders until its socket closes."""

    def __init__(self, orders, settings: Mapping[str, object]) -> None:  # type: ignore[no-untyped-def]  # a socket, as the zygote's
        super().__init__(orders, settings)
        known = subprocess.run([self._program, "flags"], capture_output=True, timeout=_ASKED_S, check=False)  # noqa: S603 (the program that was chosen)
        self._flags = (*_FLAGS, _NO_DIRECT_FILES) if b"-directfs" in known.stdout + known.stderr else _FLAGS

    def _build(self, folder: str, guest: Mapping[str, bytes]) -> None:
        """Puts together a root with runsc, in it one for jobs, which has Python but not runsc."""
        root.build(folder, guest, "", {"runsc": self._program})
        for name in ("proc", "stage", "state"):
            Path(folder, name).mkdir(mode=0o755)
        Path(folder, "tmp").unlink()
        Path(folder, "tmp").mkdir(mode=0o755)  # gVisor makes an empty root of its own there
        kernel.mount("/proc", f"{folder}/proc", None, kernel.MS_BIND | kernel.MS_REC)
        stage = folder + _STAGE
        self._build_stage(stage, guest, "runsc")
        for name in (*_HIDDEN, *_OWN):
            Path(stage + name).mkdir(mode=0o755)
        for name in (REPORT, *_NO_DEVICES):
            Path(stage + name).touch()
        Path(stage, "etc").chmod(0o711)  # natively it is Landlock that lets nobody list it, and the root
        Path(stage).chmod(0o733)  # writable, so that nothing but the mount is what forbids it
        # read-only and no more: gVisor mounts it so once more, and in its user namespace could not take off what is named besides
        how = kernel.MS_RDONLY if Layer.READ_ONLY not in self.without else 0
        kernel.mount("none", stage, None, kernel.MS_REMOUNT | kernel.MS_BIND | how)

    def _open_report(self) -> int:
        """Opens a file of the job's tmpfs, which the job's process finds in a place of its own: gVisor takes no descriptor for it."""
        return os.open(f"{root.JOB}/report", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def _bear(
        self, ends: inside.Ends, order: Mapping[str, object], limits: Mapping[str, int], uid: int
    ) -> tuple[int, int]:
        """Makes the namespaces that gVisor runs in, whose first process becomes `runsc`."""
        os.fchown(ends.report, uid, uid)
        pid, pidfd = kernel.clone(
            sum(flag for layer, flag in kernel.NEW_NAMESPACE.items() if layer != Layer.CGROUP_NAMESPACE)
        )
        if pid == 0:
            self._become_runsc(ends, {**order, "uid": uid, "limits": dict(limits)})
        ids = [(0, uid + UIDS_APART), (inside.INNER_ID, uid), (_NOBODY, uid + 2 * UIDS_APART)]
        self._map_born(pid, pidfd, ids)
        return pid, pidfd

    def _become_runsc(self, ends: inside.Ends, order: Mapping[str, object]) -> NoReturn:
        """Becomes runsc, as soon as the sandbox has put this process into its cgroups. Never returns."""
        try:
            self._keep_descriptors(ends)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            select.select([0], [], [])  # the message stays for `boot`, whose it is
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            kernel.call("unshare", kernel.NEW_NAMESPACE["cgroup_namespace"])
            kernel.mount("proc", "/proc", "proc", root.PLAIN | kernel.MS_NOEXEC)
            kernel.mount("holdfast", _STATE, "tmpfs", root.PLAIN, "size=1m,nr_inodes=100,mode=0755")
            Path(_NO_DEVICE).touch(mode=0o000)
            bundle = Path(_STATE, "bundle")
            bundle.mkdir()
            (bundle / "config.json").write_text(json.dumps(self._container(order)), encoding="utf-8")
            command = ["runsc", *self._flags, "run", "--bundle", str(bundle), "job"]
            os.execve(_PROGRAM, command, {})  # noqa: S606 (this is what it is for)
        except OSError as error:
            os.write(2, f"{error.strerror}: {error.filename}".encode())
        finally:
            os._exit(70)

    @staticmethod
    def _keep_descriptors(ends: inside.Ends) -> None:
        kept = [(ends.control, 0), (ends.stdout, 1), (ends.stderr, 2)]
        moved = [(os.dup(source), target) for source, target in kept]  # out of each other's way first
        for source, target in moved:
            os.dup2(source, target)
        kernel.call("close_range", 3, 0x7FFFFFFF, 0)

    def _container(self, order: Mapping[str, object]) -> dict[str, object]:
        """Returns what runsc is told of the job's container."""
        without = sorted({*self.without, *BY_RUNSC, Layer.LANDLOCK})
        told = {**order, "without": without, "runtime": self.runtime, "listens": False}
        if isinstance(canary := order.get("canary"), dict):
            # what is against the cgroup ends all of gVisor, and is for a job to try
            skipped = [*canary["without_attack"], Layer.CGROUP]
            told["canary"] = {**canary, "without_attack": skipped, "own_kernel": True}
        ids = {"uid": inside.INNER_ID, "gid": inside.INNER_ID}
        own = [*((name, name) for name in _OWN), (_OWN[1], "/tmp"), (f"{root.JOB}/report", REPORT)]  # noqa: S108 (of the job's root)
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": ids,
                "args": [self._python, "-I", "-S", "-B", "-c", _FIRST_LINE, json.dumps(told)],
                "env": [],
                "cwd": "/",
                "capabilities": {name: [] for name in ("bounding", "effective", "permitted", "inheritable", "ambient")},
                "noNewPrivileges": True,
                "rlimits": [
                    {"type": f"RLIMIT_{name}", "hard": value, "soft": value} for name, value in _RLIMITS.items()
                ],
            },
            "root": {"path": _STAGE, "readonly": Layer.READ_ONLY not in self.without},
            "hostname": "sandbox",
            "mounts": [
                *(_bind(_NOTHING, there, "ro") for there in _HIDDEN),
                *(_bind(_NO_DEVICE, there, "ro") for there in _NO_DEVICES),
                *(_bind(here, there, "rw") for here, there in own),
            ],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
        }


def main(descriptor: int, text: str) -> None:
    """Runs it on a socket that it was given."""
    zygote.main(descriptor, text, RunscLauncher)
