"""Server-sent events of a run, across dropped connections: each event once, in order, until the run has ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from sdk.errors import AnswerUnreadable, HoldfastApiError, NoAnswer
from sdk.transport import Transport
from sdk.types import Event, Json, read_answer

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
    query = {"channels": ",".join(channels)} if channels else {}
    for _, envelope in _resumed(transport, f"/v1/runs/{run_id}/events", query, after, patience_s):
        event = read_answer(Event, envelope)
        yield event
        if event.type == LAST_EVENT:
            return


def follow_decisions(
    transport: Transport, query: Mapping[str, object], *, after: str | None, patience_s: float
) -> Iterator[tuple[str, Json]]:
    """Yields decisions without an end; see `Holdfast.decisions_as_they_come`."""
    return _resumed(transport, "/v1/decisions/events", query, after, patience_s)


def _resumed(
    transport: Transport, path: str, query: Mapping[str, object], after: str | None, patience_s: float
) -> Iterator[tuple[str, Json]]:
    """Yields events with the ids after which to go on, over as many connections as it takes, until there can be no more."""
    last_id, pause_s, answered_at = after, _PAUSE_FIRST_S, time.monotonic()
    while True:
        headers = {"accept": "text/event-stream", **({"last-event-id": last_id} if last_id else {})}
        try:
            with transport.stream(path, query=query, headers=headers, silence_s=_SILENCE_S) as stream:
                if stream is None:
                    return
                for event_id, envelope in _events(stream.iter_bytes()):
                    last_id, pause_s, answered_at = event_id or last_id, _PAUSE_FIRST_S, time.monotonic()
                    if envelope is not None:
                        yield event_id, envelope
                answered_at = time.monotonic()  # closed in good order: the server stops, or we were too slow
        except NoAnswer:
            if time.monotonic() - answered_at > patience_s:
                raise
        except HoldfastApiError as error:
            if error.status != _UNAVAILABLE or time.monotonic() - answered_at > patience_s:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)


def _events(chunks: Iterable[bytes]) -> Iterator[tuple[str, Json | None]]:
    """Yields ids with their data; an id without data only says from where to go on."""
    data: list[str] = []
    event_id, named = "", False
    for line in _lines(chunks):
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif name == "id":
            event_id, named = value.removeprefix(" "), True
        elif not line and data:
            try:
                envelope: Json = json.loads("\n".join(data))
            except ValueError:
                raise AnswerUnreadable("an event is not JSON") from None
            data.clear()
            named = False
            yield event_id, envelope
        elif not line and named:
            named = False
            yield event_id, None


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Splits at line feeds only: text of a model may hold every other character that Python takes for a line's end."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode()
