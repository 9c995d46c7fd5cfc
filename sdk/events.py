"""Server-sent events of a run, across dropped connections: each event once, in order, until the run has ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sdk.errors import AnswerUnreadable, HoldfastApiError, NoAnswer
from sdk.transport import Transport
from sdk.types import Event, read_answer

_SILENCE_S: Final = 45.0
"""The server sends a heartbeat every 15 s."""
_PAUSE_FIRST_S: Final = 0.2
_PAUSE_MAX_S: Final = 3.0
_UNAVAILABLE: Final = 503
LAST_EVENT: Final = "run.ended"


def follow(
    transport: Transport, run_id: str, *, after: str | None, channels: Sequence[str], patience_s: float
) -> Iterator[Event]:
    """Yields a run's events until it has ended; see `Holdfast.events`."""
    last_id, pause_s, answered_at = after, _PAUSE_FIRST_S, time.monotonic()
    query = {"channels": ",".join(channels)} if channels else {}
    while True:
        headers = {"accept": "text/event-stream", **({"last-event-id": last_id} if last_id else {})}
        try:
            with transport.stream(
                f"/v1/runs/{run_id}/events", query=query, headers=headers, silence_s=_SILENCE_S
            ) as stream:
                if stream is None:
                    return
                for event in _events(stream.iter_bytes()):
                    last_id, pause_s, answered_at = event.id, _PAUSE_FIRST_S, time.monotonic()
                    yield event
                    if event.type == LAST_EVENT:
                        return
                answered_at = time.monotonic()  # closed in good order: the server stops, or we were too slow
        except NoAnswer:
            if time.monotonic() - answered_at > patience_s:
                raise
        except HoldfastApiError as error:
            if error.status != _UNAVAILABLE or time.monotonic() - answered_at > patience_s:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)


def _events(chunks: Iterable[bytes]) -> Iterator[Event]:
    data: list[str] = []
    for line in _lines(chunks):
        if line:
            name, _, value = line.partition(":")
            if name == "data":
                data.append(value.removeprefix(" "))
        elif data:
            try:
                envelope = json.loads("\n".join(data))
            except ValueError:
                raise AnswerUnreadable("an event is not JSON") from None
            data.clear()
            yield read_answer(Event, envelope)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Splits at line feeds only: text of a model may hold every other character that Python takes for a line's end."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode()
