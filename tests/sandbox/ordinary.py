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


def as_ordinary_account(tmp_path: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with the sandbox as this account if it has no rights, else as `nobody`, with the system's Python."""
    python, account = sys.executable, {}
    if os.geteuid() == 0:
        python = "/usr/bin/python3"
        account = {"user": 65_534, "group": 65_534, "extra_groups": list[int]()}
        version = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if shutil.which(python) is None or subprocess.run(version, check=False).returncode != 0:
            pytest.skip("the system's Python cannot be entered by an ordinary user, or is too old")
    for room in ("sandbox", "holdfast"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [tmp_path, *tmp_path.parents]:
        if Path(tempfile.gettempdir()) in path.parents and path.stat().st_uid == os.getuid():
            path.chmod(0o755)
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    command = [python, "-c", script, *words]
    done = subprocess.run(  # type: ignore[call-overload]  # the account's keywords are of several types
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"},
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
