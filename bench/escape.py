"""Runs a suite of escape attempts, each once outside of the sandbox, where it must succeed, and once inside, where it must not.

An attempt is `CATEGORY/name.py`, or `name.sh` or `name.js` for a shell or Node, and exits with 42 if, and only if, it achieved what it
is about. `CATEGORY/name.setup.py`, where there is one, runs on the host first, prints a line of JSON that becomes the attempt's only
argument, and stays until its input is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from bench.report import Figure, Report
from holdfast.errors import ConfigurationInvalid
from sandbox.frames import Request
from sandbox.job import Job, Limits, Result
from sandbox.layers import Receipt
from sandbox.runtime import node, shell
from sandbox.service import Sandbox, Settings

Language = Literal["python", "shell", "node"]
SUITE: Final = Path(__file__).resolve().parents[1] / "tests/sandbox/escapes"
ACHIEVED: Final = 42
_OUTSIDE_MAX_S: Final = 30.0
_SETUP_MAX_S: Final = 20.0
_LIMITS: Final = Limits(wall_ms=10_000)
# Node needs more than Python, and gVisor more time: what was only too slow has not been stopped by any layer
_PROGRAM_LIMITS: Final = Limits(wall_ms=60_000, memory_bytes=384 * 2**20)
_SUFFIXES: Final[Mapping[str, Language]] = MappingProxyType({".py": "python", ".sh": "shell", ".js": "node"})
_ACHIEVES: Final = MappingProxyType({"shell": "exit 42", "node": "process.exit(42)"})
_START_A_PROGRAM: Final = ("process/posix_spawn", "process/shell")
_QUICK_OF_EACH: Final = 2
_PYTHON: Final = str(Path(sys.executable).resolve())


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt."""

    name: str
    path: Path

    @property
    def category(self) -> str:
        """What kind of violation it is about."""
        return self.path.parent.name

    @property
    def language(self) -> Language:
        """What it is written in."""
        return _SUFFIXES[self.path.suffix]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt.

    Attributes:
        attempt: Which.
        outside: Its exit status outside, -1 if it did not end in time.
        inside: Its result inside.
    """

    attempt: Attempt
    outside: int
    inside: Result

    @property
    def proved(self) -> bool:
        """Whether it can succeed at all."""
        return self.outside == ACHIEVED

    @property
    def escaped(self) -> bool:
        """Whether it succeeded inside."""
        return self.inside.exit_status == ACHIEVED


def attempts(suite: Path, *, quick: bool = False, language: Literal["", "shell", "node"] = "") -> list[Attempt]:
    """Returns a suite's attempts in Python, and those in a language besides.

    Args:
        suite: Its folder.
        quick: Only some of each category and language.
        language: Which.

    Raises:
        ConfigurationInvalid: If there are none.
    """
    found = [
        Attempt(f"{path.parent.name}/{path.stem if path.suffix == '.py' else path.name}", path)
        for path in sorted(suite.glob("*/*"))
        if _SUFFIXES.get(path.suffix) in ("python", language or "python")
        and not path.name.endswith(".setup.py")
        and path.name != "__init__.py"
    ]
    if not found:
        wanted = "CATEGORY/name.py, name.sh or name.js"
        raise ConfigurationInvalid(f"{suite} has no attempts", remedy=f"Name a folder with files {wanted}")
    if not quick:
        return found
    seen: Counter[tuple[str, Language]] = Counter()
    kept = []
    for attempt in found:
        seen[attempt.category, attempt.language] += 1
        if seen[attempt.category, attempt.language] <= _QUICK_OF_EACH:
            kept.append(attempt)
    return kept


def _program(language: Language) -> str:
    """Returns the program that runs an attempt outside: the same as inside."""
    if language == "python":
        return _PYTHON
    return shell().programs["sh"] if language == "shell" else node().programs["node"]


@asynccontextmanager
async def _set_up(attempt: Attempt) -> AsyncIterator[list[str]]:
    """Runs what an attempt needs on the host; yields its arguments."""
    setup = attempt.path.with_name(f"{attempt.path.stem}.setup.py")
    if not setup.is_file():
        yield []
        return
    process = await asyncio.create_subprocess_exec(
        _PYTHON, str(setup), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _SETUP_MAX_S)
        if not line.strip():
            raise ConfigurationInvalid(f"{setup} printed nothing", remedy="It has to print one line of JSON")
        yield [line.decode().strip()]
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _SETUP_MAX_S)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _outside(attempt: Attempt, folder: Path) -> int:
    """Runs an attempt as any program, with a descriptor open as a careless parent leaves one."""
    read, write = os.pipe()
    try:
        async with _set_up(attempt) as arguments:
            process = await asyncio.create_subprocess_exec(
                _program(attempt.language),
                str(attempt.path),
                *arguments,
                cwd=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(read,),
                start_new_session=True,
            )
            try:
                return await asyncio.wait_for(process.wait(), _OUTSIDE_MAX_S)
            except TimeoutError:
                return -1
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
    finally:
        os.close(read)
        os.close(write)


async def _answer(_: Request) -> bool:
    """Says yes to everything: whoever gets as far as here has been let through."""
    return True


async def try_attempt(attempt: Attempt, sandbox: Sandbox) -> Outcome:
    """Tries one attempt outside and inside."""
    with tempfile.TemporaryDirectory(prefix="holdfast-escape-") as folder:
        outside = await _outside(attempt, Path(folder))
    async with _set_up(attempt) as arguments:
        job = Job(
            attempt.path.read_text(encoding="utf-8"),
            arguments=arguments,
            limits=_LIMITS if attempt.language == "python" else _PROGRAM_LIMITS,
            name=f"attempt{attempt.path.suffix}",
            language=attempt.language,
        )
        # only what is about the supervisor has one: all others have no connection to look for
        inside = await sandbox.submit(job, act=_answer if attempt.category.startswith("supervisor") else None)
    return Outcome(attempt, outside, inside)


async def begins(sandbox: Sandbox, language: Literal["shell", "node"]) -> bool:
    """Says whether a program of a language that violates nothing ends inside as it says: if not, no failure there proves anything."""
    job = Job(_ACHIEVES[language], language=language, limits=_PROGRAM_LIMITS)
    return (await sandbox.submit(job)).exit_status == ACHIEVED


def _where(receipt: Receipt) -> list[str]:
    """Says what isolated, for the report."""
    of = f" ({receipt.version})" if receipt.version else ""
    lines = [f"backend {receipt.backend}{of}, tier {receipt.tier}; runtime {receipt.runtime}"]
    return [*lines, f"layers: {', '.join(receipt.layers)}", *(f"weaker: {words}" for words in receipt.weaker)]


async def measure(
    *, quick: bool = False, suite: str = "", language: Literal["", "shell", "node"] = "", backend: str = "native"
) -> Report:
    """Tries a whole suite.

    Args:
        quick: Only some of each category.
        suite: Its folder; our own if it is not named.
        language: In whose place the attempts run, in place of Python's: behind its filter, with its programs; and whose own attempts
            are made besides. To start a program is what a shell is for, so of our own suite's attempts those that do no more are left
            out there.
        backend: What isolates. A version that is too old is tried as well, and named in the report.
    """
    report, outcomes = Report("escape"), list[Outcome]()
    settings = Settings(limits=_LIMITS, idle_min=1, backend=backend, allow_old=True)
    async with Sandbox(settings, within=language) as sandbox:
        report.notes += _where(sandbox.receipt)
        if language and not await begins(sandbox, language):
            report.wrong.append(
                f"a program of {language} that violates nothing fails inside: no failure there proves anything"
            )
        for attempt in attempts(Path(suite) if suite else SUITE, quick=quick, language=language):
            if language == "shell" and not suite and attempt.name in _START_A_PROGRAM:
                report.notes.append(f"{attempt.name} is left out: it is what a shell is for")
                continue
            outcomes.append(await try_attempt(attempt, sandbox))
    report.figures["tried"] = Figure(len(outcomes), "attempts")
    report.figures["escaped"] = Figure(sum(outcome.escaped for outcome in outcomes), "attempts", ("<=", 0))
    report.figures["proved_unconfined"] = Figure(sum(outcome.proved for outcome in outcomes), "attempts")
    report.wrong += [f"{outcome.attempt.name} escaped" for outcome in outcomes if outcome.escaped]
    report.notes += [
        f"{outcome.attempt.name} ended with {outcome.outside} outside, so that its failure inside proves nothing"
        for outcome in outcomes
        if not outcome.proved
    ]
    for written in dict.fromkeys(outcome.attempt.language for outcome in outcomes):
        counts = Counter(outcome.attempt.category for outcome in outcomes if outcome.attempt.language == written)
        of_each = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        report.notes.append(f"in {written}, by category: {of_each}")
    return report
