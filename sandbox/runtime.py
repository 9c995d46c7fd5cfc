"""What a job's code runs in: an interpreter, with which packages, modules that are imported beforehand, and programs."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from sandbox.environments import DATA, Environments, data_lock, digest_of
from sandbox.errors import RuntimeMissing
from sandbox.job import Job

_PYTHON_ENVIRONMENT: Final = {
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": "/job/tmp",
    "OMP_NUM_THREADS": "1",  # a job has one core; and who forks from it must have one thread
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_DATA_IMPORTS: Final = "numpy pandas matplotlib matplotlib.pyplot matplotlib.backends.backend_agg"
_TOOLS: Final = """
awk base64 basename cat chroot cksum comm cp csplit cut date dd diff dirname du echo env expand expr factor false find fmt fold grep
head id join ls md5sum mkdir mktemp mv nl nproc numfmt od paste pr printenv printf ptx pwd readlink realpath rm rmdir sed seq sha1sum
sha256sum sha512sum shuf sleep sort split stat sum tac tail tee test timeout touch tr true truncate tsort uname unexpand uniq wc xargs
yes
"""
_SEARCHED: Final = "/usr/bin:/bin:/usr/sbin:/sbin"
_REQUIRE: Final = "/node_modules/holdfast_guest/require.js"
_DETECTS: Final = "--experimental-detect-module"
_KNOWS: Final = f"process.exit(process.allowedNodeEnvironmentFlags.has('{_DETECTS}') ? 0 : 1)"
_KNOWS_S: Final = 30
_NODE_HEAP: Final = 0.75
_NODE_ADDRESSES: Final = 4 * 2**30  # V8 reserves far more addresses than it uses; memory is the cgroup's business


PACKAGES: Final = "packages-"
"""How the names of environments begin that jobs ask for by their lock."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One runtime. Each has a zygote of its own.

    Attributes:
        name: Its name, as receipts have it.
        language: What its jobs are written in.
        site: Folder of the host with its packages.
        imports: Names of modules with spaces between: imported before jobs fork, in the zygote's own place and not on the host.
        environment: Variables that its jobs have besides the usual ones.
        programs: Files of the host by the name that they have in the jobs' `/usr/bin`.
        command: Program that the job's process becomes; empty for Python, which it is.
        address_bytes: Addresses beyond its memory that a process may reserve.
        lock: Digest of the lock that its packages come from.
    """

    name: str
    language: str = "python"
    site: str = ""
    imports: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    address_bytes: int = 0
    lock: str = ""

    def settings(self) -> dict[str, object]:
        """Returns what the zygote needs to know."""
        return asdict(self)

    def start(self, job: Job) -> tuple[str, ...]:
        """Returns the command line by which a job's program is started, without the program's own path."""
        if self.language == "node":
            heap_mb = max(16, int(job.limits.memory_bytes * _NODE_HEAP) // 2**20)
            return (*self.command, f"--max-old-space-size={heap_mb}", f"--require={_REQUIRE}")
        return self.command


PLAIN: Final = Runtime("plain")
"""Python with its standard library."""


def _find(program: str) -> str:
    found = shutil.which(program, path=f"{_SEARCHED}:{os.environ.get('PATH', '')}")
    return os.path.realpath(found) if found is not None else ""


def shell() -> Runtime:
    """Returns the runtime of shell scripts: dash, and the usual tools that read and write text and files.

    Raises:
        RuntimeMissing: If there is no dash here.
    """
    dash = _find("dash")
    if not dash:
        raise RuntimeMissing("no shell is installed here", remedy="Install dash.")
    tools = {name: path for name in _TOOLS.split() if (path := _find(name))}
    return Runtime("shell", "shell", programs={**tools, "sh": dash}, command=("/usr/bin/sh",))


@functools.lru_cache(maxsize=8)
def _detecting(path: str, _: int) -> tuple[str, ...]:
    """Returns the option by which this Node takes a script with `import` or `await` at its top for a module, if it needs one."""
    asked = subprocess.run([path, "-e", _KNOWS], capture_output=True, timeout=_KNOWS_S, check=False)  # noqa: S603 (Node, which was found)
    return (_DETECTS,) if asked.returncode == 0 else ()


def node() -> Runtime:
    """Returns the runtime of JavaScript.

    Raises:
        RuntimeMissing: If there is no Node here.
    """
    found = _find("node")
    if not found:
        raise RuntimeMissing("Node is not installed here", remedy="Install Node (20 or newer), so that it is on PATH.")
    return Runtime(
        "node",
        "node",
        programs={"node": found},
        command=("/usr/bin/node", *_detecting(found, Path(found).stat().st_mtime_ns)),
        address_bytes=_NODE_ADDRESSES,
    )


def select(job: Job, environments: Environments) -> Runtime:
    """Returns the runtime that a job asks for.

    Raises:
        RuntimeMissing: If it is not there, with what to do.
    """
    if job.language == "shell":
        return shell()
    if job.language == "node":
        return node()
    if job.runtime == DATA:
        site = environments.find(data_lock())
        if site is None:
            raise RuntimeMissing(
                "the runtime `data` is not built for this Python",
                remedy="Run `holdfast sandbox build data` on the machine that runs code.",
            )
        return Runtime(
            DATA, site=str(site), imports=_DATA_IMPORTS, environment=_PYTHON_ENVIRONMENT, lock=digest_of(data_lock())
        )
    if job.packages:
        site = environments.find_digest(job.packages)
        if site is None:
            raise RuntimeMissing(
                f"no environment is built for the lock {job.packages[:80]!r}",
                remedy="Run `holdfast sandbox build LOCK` on the machine that runs code; jobs themselves reach no index.",
            )
        # its packages are imported by the job, behind every layer, and never before
        return Runtime(
            f"{PACKAGES}{job.packages[:16]}", site=str(site), environment=_PYTHON_ENVIRONMENT, lock=job.packages
        )
    return PLAIN


def installed() -> Mapping[str, bool]:
    """Says of each language but Python whether it is here."""
    return {"shell": bool(_find("dash")), "node": bool(_find("node"))}
