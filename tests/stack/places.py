"""Where these tests find things, and how they wait."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = str(Path(__file__).with_name("stand_in.py"))


def stand_in(behaviour: str) -> list[str]:
    """The command of a process that behaves like this."""
    return [sys.executable, "-I", "-S", STAND_IN, behaviour]


async def until(true: Callable[[], bool], *, within_s: float = 90.0, what: str = "it") -> None:
    """Polls until something is so."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come to be within {within_s} s"
        await asyncio.sleep(0.02)


def lives(pid: int) -> bool:
    """Whether a process lives and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def family(pid: int) -> list[int]:
    """The ids of all processes that descend from one."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def clean_environment() -> dict[str, str]:
    """The environment without anything that would change which stack is started."""
    drop = {"HOLDFAST_POSTGRES", "HOLDFAST_REDIS", "HOLDFAST_DATA_DIR", "ANTHROPIC_API_KEY", "OPENAI_API_KEY"}
    return {name: value for name, value in os.environ.items() if name not in drop}


async def run_module(module: str, env: Mapping[str, str]) -> tuple[int, str]:
    """Runs `python -m MODULE` to its end; returns its exit code and what it has printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=ROOT,
        env={**clean_environment(), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()
