"""Which backends can be tried on this machine. What `make isolators` could have installed may not be missing."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from sandbox.backends import KINDS


def require(backend: str) -> None:
    """Skips a test whose backend's program is not here."""
    program = KINDS[backend].program
    if not program or shutil.which(program) is not None:
        return
    if os.geteuid() == 0 and _is_in_packages(backend):
        pytest.skip(f"{program} is missing, and `make isolators` would have installed it")
    pytest.skip(f"no {program}, and no apt-get that installs it")


def _is_in_packages(package: str) -> bool:
    """Says whether this system's packages have it; not every release of a distribution has all."""
    if shutil.which("apt-cache") is None:
        return False
    return subprocess.run(["apt-cache", "show", package], capture_output=True, check=False).returncode == 0
