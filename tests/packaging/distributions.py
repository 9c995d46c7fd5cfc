"""What is shipped: the distributions, built as they are released, and environments with nothing else in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final
from zipfile import ZipFile

ROOT: Final = Path(__file__).resolve().parents[2]
SERVER_ROOMS: Final = ("holdfast", "sandbox", "activities", "workflows", "workers", "api", "cli")
ROOMS_OF: Final = {"holdfast": SERVER_ROOMS, "holdfast-verify": ("holdfast_verdict",), "holdfast-sdk": ("sdk",)}
_ENDED_ITSELF: Final = 600
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def uv(*arguments: str, **variables: str) -> str:
    """Runs uv, from its cache if all is there; returns what it printed."""
    program = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    # what makes pytest's own environment must not make those that are built here
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    environment = {**kept, **variables}
    for offline in (["--offline"], []):
        done = subprocess.run(
            [program, *arguments, *offline],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ENDED_ITSELF,
        )
        if done.returncode == 0:
            return done.stdout + done.stderr
    raise AssertionError(f"uv {' '.join(arguments)}: {done.stdout}{done.stderr}")


@dataclass(frozen=True)
class Distribution:
    """One distribution with its wheel and source archive."""

    name: str
    wheel: Path
    sdist: Path

    @cached_property
    def files(self) -> set[str]:
        """The files of the wheel."""
        with ZipFile(self.wheel) as archive:
            return {name for name in archive.namelist() if not name.endswith("/")}

    def read(self, ending: str) -> str:
        """Returns the text of the wheel's one file of that ending."""
        with ZipFile(self.wheel) as archive:
            (name,) = [name for name in self.files if name.endswith(ending)]
            return archive.read(name).decode()


def build(folder: Path) -> dict[str, Distribution]:
    """Builds all distributions: source archives, and the wheels from these."""
    uv("build", "--all-packages", "--no-create-gitignore", "--out-dir", str(folder))
    found = {}
    for name in ROOMS_OF:
        (wheel,) = folder.glob(f"{name.replace('-', '_')}-*.whl")
        (sdist,) = folder.glob(f"{name.replace('-', '_')}-*.tar.gz")
        found[name] = Distribution(name, wheel, sdist)
    return found


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with one distribution, and what it says it needs."""

    folder: Path

    def run(
        self, *arguments: str, check: bool = True, variables: Mapping[str, str] = NOTHING
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program of it, away from the sources."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "NO_COLOR": "1", **variables}
        done = subprocess.run(
            [str(self.folder / "bin" / arguments[0]), *arguments[1:]],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def python(self, code: str, *arguments: str) -> str:
        """Runs Python code and returns what it printed."""
        return self.run("python", "-I", "-c", code, *arguments).stdout


def install(folder: Path, built: dict[str, Distribution], *names: str) -> Environment:
    """Makes an environment with these of our wheels, and the locked versions of what the first of them needs."""
    uv(
        "sync", "--locked", "--no-dev", "--package", names[0], "--no-install-workspace", "--python", sys.executable,
        UV_PROJECT_ENVIRONMENT=str(folder),
    )  # fmt: skip
    wheels = [str(built[name].wheel) for name in names]
    uv("pip", "install", "--no-deps", "--python", str(folder), *wheels)
    return Environment(folder)
