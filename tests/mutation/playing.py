"""A pytest plugin that tries changes: it collects once, and each change is a child of this process that runs the tests reaching it.

So a change costs a fork and the tests up to the first that fails. Those that noticed another change of the same function run first,
then the quick ones. A child may use some times the processor time that the same tests take without a change, and no more.
"""

from __future__ import annotations

import gc
import inspect
import json
import math
import os
import resource
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeGuard

import pytest
from mutmut.mutation import trampoline

from holdfast_verdict import compile_policy
from holdfast_verdict.engine import context

from .forgetting import forget
from .kept import tests_of

_TIMES: Final = 3
_SECONDS: Final = 1
_WALL_SECONDS: Final = 600
_BYTES: Final = 4 << 30
_STEPS_MAX: Final = 2_000
"""What the engine's bound on work is set to: the test that reaches it takes as long as all others together, at the real one."""
_NOT_NEEDED: Final = frozenset({"event_loop_policy"})
"""Fixtures that stand on every test, and do something for coroutines alone."""
_NOTICED: Final = 1
_BROKEN: Final = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--plan`."""
    parser.addoption("--plan", help="which changes are tried, and where results go")


def pytest_configure(config: pytest.Config) -> None:
    """Takes the place of the loop over tests."""
    config.pluginmanager.register(Player(json.loads(Path(config.getoption("--plan")).read_text(encoding="utf-8"))))


class Player:
    """Tries the changes of a plan."""

    def __init__(self, plan: dict[str, Any]) -> None:  # Any: JSON
        """Reads a plan.

        Args:
            plan: `changes`, `results` (a file), `processes`, `minutes`, and the digests `source` and `tests`.
        """
        self._plan = plan
        self._pipe: int | None = None
        self._items: dict[str, pytest.Item] = {}
        self._seconds: dict[str, float] = {}
        self._noticing: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._running: dict[int, tuple[str, int]] = {}
        self._counts: Counter[str] = Counter()
        self._began = time.monotonic()
        self._shown = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Ends a child at its first failure, and keeps how long tests take without a change."""
        if self._pipe is None:
            return
        if report.failed:
            os.write(self._pipe, f"{report.nodeid}\n".encode())
            os._exit(_NOTICED)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Tries all changes, instead of running the tests."""
        self._items = {item.nodeid: item for item in session.items}
        reached: dict[str, list[str]] = json.loads(Path("mutmut-stats.json").read_text(encoding="utf-8"))[
            "tests_by_mangled_function_name"
        ]
        compile_policy("role warm { permit tools }")
        vars(context)["MAX_STEPS"] = _STEPS_MAX
        gc.collect()
        gc.freeze()
        self._clean()
        with Path(self._plan["results"]).open("a", encoding="utf-8") as results:
            for change in self._plan["changes"]:
                if self._plan["minutes"] and time.monotonic() - self._began > 60 * self._plan["minutes"]:
                    break
                tests = [test for test in reached.get(_function(change), ()) if test in self._items]
                if not tests:
                    self._say(results, change, "untested", "")
                    continue
                while len(self._running) >= self._plan["processes"]:
                    self._await(results)
                self._start(change, self._in_order(change, tests))
            while self._running:
                self._await(results)
        self._progress(last=True)
        return True

    def _clean(self) -> None:
        """Runs every test once without a change, which tells how long it takes, and once where every call must fail."""
        for change, expected in (("", 0), ("fail", _NOTICED)):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                self._child(change, list(self._items), write, seconds=_WALL_SECONDS)
            os.close(write)
            with os.fdopen(read, encoding="utf-8") as said:
                lines = said.read().splitlines()
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if code != expected:
                raise pytest.UsageError(
                    f"without a change ({change or 'none'}) the tests end with {code}: {lines[-1:]}"
                )
            if not change:
                print(
                    f"without a change, the tests take {sum(float(line.split()[0]) for line in lines):.1f} s",
                    flush=True,
                )
                self._seconds = {test: float(took) for took, _, test in (line.partition(" ") for line in lines)}

    def _in_order(self, change: str, tests: Sequence[str]) -> list[str]:
        noticing, of_module = self._noticing[_function(change)], self._noticing[_module(change)]
        return sorted(tests, key=lambda test: (-noticing[test], -of_module[test], self._seconds.get(test, 0), test))

    def _start(self, change: str, tests: Sequence[str]) -> None:
        read, write = os.pipe()
        seconds = math.ceil(_TIMES * sum(self._seconds.get(test, 0) for test in tests)) + _SECONDS
        pid = os.fork()
        if pid == 0:
            self._child(change, tests, write, seconds=seconds)
        os.close(write)
        self._running[pid] = change, read

    def _child(self, change: str, tests: Sequence[str], pipe: int, *, seconds: int) -> NoReturn:
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in (1, 2):
                os.dup2(nothing, descriptor)
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
            signal.alarm(_WALL_SECONDS)
            self._pipe = pipe
            # mutmut asks the environment at every call, which takes longer than most of what is called
            trampoline.get_mutant_under_test = lambda: change
            forget()
            items = [self._items[test] for test in tests]
            others = iter([item for item in items if not _is_plain(item)])
            other = next(others, None)
            for item in items:
                began = time.process_time()
                if item is other:
                    other = next(others, None)
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=other)
                else:
                    self._call(item)  # type: ignore[arg-type]  # it is plain
                if not change:
                    os.write(pipe, f"{time.process_time() - began:.6f} {item.nodeid}\n".encode())
        except BaseException:  # noqa: BLE001 (a child says by its exit code whatever ended it)
            os._exit(_BROKEN)
        os._exit(0)

    def _call(self, item: pytest.Function) -> None:
        """Runs a test that needs nothing of pytest but its parameters."""
        try:
            item.obj(**(item.callspec.params if hasattr(item, "callspec") else {}))
        except BaseException:  # noqa: BLE001 (whatever a test raises is a failure, pytest's own exceptions too)
            assert self._pipe is not None
            os.write(self._pipe, f"{item.nodeid}\n".encode())
            os._exit(_NOTICED)

    def _await(self, results: Any) -> None:  # Any: a text file
        pid, status = os.wait()
        change, read = self._running.pop(pid)
        with os.fdopen(read, encoding="utf-8") as said:
            by = said.read().strip()
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            self._say(results, change, "survived", "")
        elif code in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM):
            self._say(results, change, "timed_out", "")
        else:
            self._noticing[_function(change)][by] += 1
            self._noticing[_module(change)][by] += 1
            self._say(results, change, "killed", by)

    def _say(self, results: Any, change: str, result: str, by: str) -> None:  # Any: a text file
        line = {"change": change, "result": result, "by": by}
        line |= {"source": self._plan["source"], "tests": tests_of(by, self._plan["tests"])}
        results.write(json.dumps(line) + "\n")
        results.flush()
        self._counts[result] += 1
        self._progress()

    def _progress(self, *, last: bool = False) -> None:
        passed = time.monotonic() - self._began
        if last or passed - self._shown > 10:
            self._shown = passed
            counts = ", ".join(f"{result} {count}" for result, count in sorted(self._counts.items()))
            print(f"{self._counts.total()} of {len(self._plan['changes'])} in {passed:.0f} s: {counts}", flush=True)


def _is_plain(item: pytest.Item) -> TypeGuard[pytest.Function]:
    if not isinstance(item, pytest.Function) or inspect.iscoroutinefunction(item.obj):
        return False
    given = item.callspec.params.keys() if hasattr(item, "callspec") else set()
    return set(item.fixturenames) - _NOT_NEEDED <= set(given) and all(
        mark.name == "parametrize" for mark in item.iter_markers()
    )


def _function(change: str) -> str:
    return change.partition("__mutmut_")[0]


def _module(change: str) -> str:
    return change.rpartition(".")[0]
