"""A run's events as they come, with Ctrl-C as one of them: nothing is lost or shown twice while a person makes up their mind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

    from sdk import Event, Holdfast

PATIENCE_S: Final = 60.0
"""How long the server may be away before the command gives up; the run goes on."""


class Signal(Enum):
    """What stands among the events and is none."""

    INTERRUPTED = "interrupted"
    """Ctrl-C was pressed."""
    OVER = "over"
    """No more events come."""


@dataclass(slots=True)
class Following:
    """Events of a run as they come; `Signal.INTERRUPTED` stands among them where Ctrl-C was pressed.

    Attributes:
        pressed: How often it was pressed and nobody has answered it yet.
    """

    pressed: int = 0
    # its put() may be called by a signal's handler while this very thread waits in get()
    _queue: SimpleQueue[Event | Signal | Exception] = field(default_factory=SimpleQueue)

    def __iter__(self) -> Iterator[Event | Signal]:
        """Yields until the run has ended, and raises what the SDK raises."""
        while (item := self._queue.get()) is not Signal.OVER:
            if isinstance(item, Exception):
                raise item
            if item is not Signal.INTERRUPTED or self.pressed:
                yield item

    def read(self, events: Iterable[Event]) -> None:
        """Puts events where the iterator takes them from; for a thread of its own."""
        try:
            for event in events:
                self._queue.put(event)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is raised again by the thread that waits)
            self._queue.put(error)
        else:
            self._queue.put(Signal.OVER)

    def interrupt(self, _: int, __: FrameType | None) -> None:
        """Notes that Ctrl-C was pressed: a handler of signals."""
        self.pressed += 1
        self._queue.put(Signal.INTERRUPTED)


@contextmanager
def followed(
    client: Holdfast, run_id: str, *, after: str | None = None, channels: Sequence[str] = ()
) -> Iterator[Following]:
    """Follows a run until it has ended, in a thread of its own, so that Ctrl-C never tears an event apart.

    When the block is left, the connection ends with the client.
    """
    following = Following()
    with _handled(following):
        events = client.events(run_id, after=after, channels=channels, patience_s=PATIENCE_S)
        threading.Thread(target=following.read, args=(events,), name="follow", daemon=True).start()
        yield following


@contextmanager
def _handled(following: Following) -> Iterator[None]:
    """Only the main thread is told of signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, following.interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
