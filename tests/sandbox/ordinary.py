"""Runs the sandbox as an account without rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.sandbox.leaving import ROOT


def as_ordinary_account(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with the sandbox as this account if it has no rights, else as `nobody`, with the system's Python."""
    python, account = sys.executable, {}
    if os.geteuid() == 0:
        python = "/usr/bin/python3"
        account = {"user": 65_534, "group": 65_534, "extra_groups": list[int]()}
        version = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if shutil.which(python) is None or subprocess.run(version, check=False).returncode != 0:
            pytest.skip("the system's Python cannot be entered by an ordinary user, or is too old")
    # not in pytest's own folder, which each pytest that starts meanwhile closes to others
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as name:
        folder = Path(name)
        for room in ("sandbox", "holdfast"):
            shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        done = subprocess.run(  # type: ignore[call-overload]  # the account's keywords are of several types
            [python, "-c", script, *words],
            cwd=folder,
            env={"PYTHONPATH": name, "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            **account,
        )
    if "the layer user of the sandbox is missing" in done.stderr:
        pytest.skip("no user namespace here: the kernel gives ordinary accounts none")
    assert isinstance(done, subprocess.CompletedProcess)
    return done
