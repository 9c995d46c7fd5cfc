"""Processes that look at blocks of one file: each opens the file itself, so that only what was found goes between them."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Final

from holdfast_verdict.verify.reading import Block

_ROOMS: Final = ["holdfast_verdict.verify.verifying", "holdfast_verdict.rehearse.lanes"]


def start_method() -> BaseContext:
    """Returns how processes are started here.

    A process that has threads cannot be forked safely; one that has none spares its children the start. Where a server forks them,
    it has imported all that they need.
    """
    if threading.active_count() == 1:
        return get_context("fork")
    context = get_context("forkserver")
    context.set_forkserver_preload(_ROOMS)
    return context


def cores(wanted: int) -> int:
    """Returns how many processes to use; 0 = one per core that this process may use."""
    return wanted or len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Workers:
    """Processes to come.

    Attributes:
        path: The file.
        count: How many of them; one is this process.
    """

    path: Path
    count: int

    @contextmanager
    def started(self, maker: Callable[[Any], Any], known: object) -> Iterator[Pool]:  # Any: the maker's own
        """Starts them.

        Args:
            maker: Makes what looks at blocks; each process has one of its own.
            known: What it is made with.
        """
        begin = str(self.path), maker, known
        if self.count < 2:  # noqa: PLR2004 (one is this process)
            _begin(*begin, alone=True)
            try:
                yield Pool(None)
            finally:
                _WORKER.clear()
            return
        with ProcessPoolExecutor(self.count, start_method(), _begin, begin) as executor:
            try:
                yield Pool(executor)
            except BaseException:
                executor.shutdown(wait=True, cancel_futures=True)
                raise


class Pool:
    """Processes that were started."""

    def __init__(self, executor: ProcessPoolExecutor | None) -> None:
        self._executor = executor

    def submit(
        self, blocks: Sequence[Block], beside: object
    ) -> list[tuple[Block, Future[Any]]]:  # Any: the maker's own
        """Has blocks looked at, in their order, and returns what will be found.

        Args:
            blocks: Where they are in the file.
            beside: What has to be known about them.
        """
        if self._executor is None:
            return [(block, _Late(block, beside)) for block in blocks]
        return [(block, self._executor.submit(_look, block, beside)) for block in blocks]


class _Late(Future[Any]):
    """What this process finds itself, when it is asked for."""

    def __init__(self, block: Block, beside: object) -> None:
        super().__init__()
        self._asked = block, beside
        self._found: object = None
        self._is_found = False

    def result(self, timeout: float | None = None) -> Any:  # Any: the maker's own
        """Looks for it."""
        if not self._is_found:
            self._found, self._is_found = _look(*self._asked), True
        return self._found


_WORKER: list[tuple[mmap.mmap, Any]] = []  # Any: the maker's own


def _begin(path: str, maker: Callable[[Any], Any], known: object, *, alone: bool = False) -> None:
    if not alone:
        gc.disable()  # a worker lives for one file
    _WORKER.clear()
    with Path(path).open("rb") as file:
        _WORKER.append((mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), maker(known)))


def _look(block: Block, beside: object) -> object:
    source, maker = _WORKER[0]
    return maker.look(source[block[0] : block[1]], beside)
