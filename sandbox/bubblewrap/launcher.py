"""The process that starts bubblewrap for each job: one thread, no environment, a root of its own; standard library only.

It takes the same orders as the zygote, and answers the same. Where the zygote forks, it starts `bwrap` as the job's own account, in the
job's cgroup and with the job's tmpfs; what that starts goes through the remaining layers by `boot`.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from sandbox.layers import Layer
from sandbox.native import inside, kernel, root, zygote

BY_BUBBLEWRAP: Final = frozenset({Layer.USER, Layer.OWN_UID, Layer.CGROUP_NAMESPACE, Layer.UTS, Layer.CAPABILITIES})
"""Layers that a job's process finds itself in when `boot` begins, and has no right to enter once more."""
BOOT: Final = "/boot"
"""Where `boot` finds its modules; once Landlock holds, nothing can be read there."""
_STAGE: Final = "/stage"
_PROGRAM: Final = f"{root.PROGRAMS}/bwrap"
_FIRST_LINE: Final = (
    f"import sys; sys.path.insert(0, {BOOT!r}); from sandbox.bubblewrap.boot import main; main(sys.argv[1])"
)
_PROC, _REPORT = 4, 5
_CHILD: Final = "/proc/2"
"""Where bubblewrap, which is the first of its pid namespace, looks for what it has forked."""
_SIGNALLED: Final = 128
_SIGNALS: Final = 64


class Launcher(zygote.Zygote):
    """Takes orders until its socket closes."""

    def __init__(self, orders, settings: Mapping[str, object]) -> None:  # type: ignore[no-untyped-def]  # a socket, as the zygote's
        super().__init__(orders, settings)
        self._program = str(settings["program"])
        self._source = str(settings["source"])
        self._python = os.path.realpath("/proc/self/exe")

    def _build(self, folder: str, guest: Mapping[str, bytes]) -> None:
        """Puts together a root with bubblewrap, in it one for jobs, which has Python but not bubblewrap."""
        root.build(folder, guest, "", {"bwrap": self._program})
        for name in ("proc", "boot", "stage"):
            Path(folder, name).mkdir(mode=0o755)
        Path(folder, "tmp").unlink()
        Path(folder, "tmp").mkdir(mode=0o755)  # bubblewrap puts its own root together here
        kernel.mount("/proc", f"{folder}/proc", None, kernel.MS_BIND | kernel.MS_REC)
        stage = folder + _STAGE
        self._build_stage(stage, guest, "bubblewrap")
        kernel.mount("none", stage, None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | root.PLAIN)

    def _build_stage(self, stage: str, guest: Mapping[str, bytes], backend: str) -> None:
        """Puts together the root of jobs."""
        programs: Mapping[str, str] = self.runtime["programs"]  # type: ignore[assignment]  # a mapping; so the sandbox writes it
        interpreter = str(self.runtime["interpreter"])
        root.build(stage, guest, str(self.runtime["site"]), programs, interpreter)
        if not interpreter:
            root.show(self._python, stage)
        self._lay_boot(stage, backend)

    def _lay_boot(self, stage: str, backend: str) -> None:
        """Lays out the modules of `boot`."""
        for path in ("__init__.py", "layers.py", "native", backend):
            source = Path(self._source, "sandbox", path)
            for file in [source] if source.is_file() else sorted(source.glob("*.py")):
                target = Path(stage + BOOT, file.relative_to(self._source))
                target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())

    def warm_up(self) -> None:
        """Imports nothing: no job forks from here."""

    def _bear(
        self, ends: inside.Ends, order: Mapping[str, object], limits: Mapping[str, int], uid: int
    ) -> tuple[int, int]:
        """Starts bubblewrap in a mount namespace of its own, with the job's tmpfs, and as the first of a pid namespace.

        INVARIANT: nothing of a job outlives what was started here. bubblewrap alone does not see to that: what it has just forked asks
        to die with it some steps later, and where bubblewrap is ended before that, waits for it for ever.
        """
        pid, pidfd = kernel.clone(kernel.NEW_NAMESPACE["mount"] | kernel.NEW_NAMESPACE["pid"])
        if pid == 0:
            self._become(ends, {**order, "uid": uid, "limits": dict(limits)}, uid)
        return pid, pidfd

    def _become(self, ends: inside.Ends, order: Mapping[str, object], uid: int) -> NoReturn:
        """Becomes bubblewrap, as soon as the sandbox has put this process into its cgroups. Never returns."""
        try:
            self._take_descriptors(ends)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            select.select([inside.CONTROL], [], [])  # the message stays for `boot`, whose it is
            self._show_processes()
            if uid:
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                if os.getresuid() != (uid,) * 3 or os.getgroups():
                    os._exit(70)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.execve(_PROGRAM, self._command(order), {})  # noqa: S606 (this is what it is for)
        except OSError as error:
            os.write(2, f"{error.strerror}: {error.filename}".encode())
        finally:
            os._exit(70)

    @staticmethod
    def _show_processes() -> None:
        """Mounts the /proc of this pid namespace, in which bubblewrap looks for its child by the number that it has here.

        Where the kernel refuses an ordinary account that, because parts of the host's /proc are hidden, the host's stays. bubblewrap
        looks there for the namespaces of its child, which it only tells who asks for them, and ends if there is no such number.
        """
        try:
            kernel.mount("proc", "/proc", "proc", root.PLAIN | kernel.MS_NOEXEC)
        except OSError as error:
            if not Path(_CHILD).exists():
                raise OSError(
                    error.errno,
                    f"bubblewrap needs a /proc of its own, which the kernel refuses ({error.strerror})",
                    "/proc",
                ) from error

    @staticmethod
    def _take_descriptors(ends: inside.Ends) -> None:
        kept = [
            (ends.stdout, 1),
            (ends.stderr, 2),
            (ends.control, inside.CONTROL),
            (ends.proc, _PROC),
            (ends.report, _REPORT),
        ]
        moved = [(os.dup(source), target) for source, target in kept]  # out of each other's way first
        for source, target in moved:
            os.dup2(source, target)
        kernel.call("close_range", _REPORT + 1, 0x7FFFFFFF, 0)

    def _command(self, order: Mapping[str, object]) -> list[str]:
        without = sorted(self.without | BY_BUBBLEWRAP)
        told = {**order, "without": without, "runtime": self.runtime, "report": _REPORT, "proc": _PROC}
        return [
            "bwrap",
            *(
                "--unshare-all",
                "--unshare-user",
                "--unshare-cgroup",
                "--die-with-parent",
                "--new-session",
                "--as-pid-1",
            ),
            *("--uid", str(inside.INNER_ID), "--gid", str(inside.INNER_ID), "--hostname", "sandbox"),
            *("--cap-drop", "ALL"),
            *("--dev-bind", _STAGE, "/", "--bind", root.JOB, root.JOB, "--chdir", f"{root.JOB}/work"),
            *("--", self._python, "-I", "-S", "-B", "-c", _FIRST_LINE, json.dumps(told)),
        ]

    @staticmethod
    def _status(status: int) -> int:
        """Returns how the job's first process ended, which bubblewrap tells as a shell does: 128 and the signal."""
        code = os.waitstatus_to_exitcode(status)
        return code - _SIGNALLED if _SIGNALLED < code <= _SIGNALLED + _SIGNALS else status


def main(descriptor: int, text: str) -> None:
    """Runs it on a socket that it was given."""
    zygote.main(descriptor, text, Launcher)
