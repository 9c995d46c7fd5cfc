"""The Dockerfile's build stage, natively: its own instructions, on copies of what it copies and nothing else."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from cli.stack.errors import ChildFailed
from tests.deployment.test_image import uv
from tests.stack.places import ROOT

_TIMEOUT_S: Final = 900


def _build_stage() -> list[tuple[str, str]]:
    """Returns the instructions of the stage that installs: name and rest."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    stage = text.partition(" AS build\n")[2].partition("\nFROM ")[0]
    lines = [line for line in stage.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2]) for line in lines]


def build(folder: Path) -> Path:
    """Builds the image's environment and returns its folder of programs; its sources are gone afterwards, as in the image.

    Raises:
        ChildFailed: An instruction failed.
    """
    source, target = folder / "src", folder / "opt"
    source.mkdir(parents=True)
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    env |= {name: value for name, value in os.environ.items() if name.startswith(("UV_", "XDG_", "SSL_", "HTTP"))}
    for name, rest in _build_stage():
        words = shlex.split(rest)
        if name == "ENV":
            env |= dict(word.split("=", 1) for word in words)
        elif name == "COPY":
            _copy(words[:-1], source / words[-1])
        elif name == "RUN" and words[:2] == ["uv", "sync"]:
            # natively there is a cache, and the interpreter is this one
            own = {**env, "UV_NO_CACHE": "0", "UV_PROJECT_ENVIRONMENT": str(target), "UV_PYTHON": sys.executable}
            _run([uv(), *words[1:]], source, own)
        elif name == "RUN":
            assert words[:2] == ["pip", "install"], rest  # uv itself, which is here already
            assert words[-1].startswith("uv=="), rest
        else:
            assert name == "WORKDIR", name
    shutil.rmtree(source)
    return target / "bin"


def _copy(sources: list[str], target: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in sources:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, dirs_exist_ok=True, ignore=ignored)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)


def _run(argv: list[str], folder: Path, env: dict[str, str]) -> None:
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise ChildFailed(f"{' '.join(argv)} ended with code {done.returncode}:\n{done.stderr[-3_000:]}")
