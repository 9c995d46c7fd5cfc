"""What code prints, sent to the run's live stream as it prints, without ever holding the code up."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from holdfast.permits import Permit
from holdfast.timeline.stream import Publisher
from sandbox.job import Printed

_PIECE_BYTES: Final = 16_384


class LiveOutput:
    """Sends output in pieces: while one is on its way, what is printed meanwhile becomes the next one.

    Args:
        publisher: The way to the stream.
        permit: Whose run, step and try it is.
    """

    def __init__(self, publisher: Publisher, permit: Permit) -> None:
        self._publisher = publisher
        self._permit = permit
        self._printed = Printed()
        self._waiting: list[tuple[str, bytearray]] = []
        self._more = asyncio.Event()
        self._ended = False
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begins to send; clients are told to forget what an earlier try has printed."""
        permit = self._permit
        if permit.try_number > 1:
            await self._publisher.attempt_reset(
                UUID(permit.tenant_id), UUID(permit.run_id), permit.step, permit.try_number
            )
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Sends what is left."""
        self._ended = True
        self._more.set()
        assert self._sending is not None
        await self._sending

    def take(self, stream: str, part: bytes) -> None:
        """Takes what was printed to `stdout` or `stderr`."""
        if self._waiting and self._waiting[-1][0] == stream:
            self._waiting[-1][1].extend(part)
        else:
            self._waiting.append((stream, bytearray(part)))
        self._more.set()

    async def _send(self) -> None:
        permit = self._permit
        while not self._ended or self._waiting:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                stream, parts = self._waiting[0]
                piece = bytes(parts[:_PIECE_BYTES])
                del parts[:_PIECE_BYTES]
                if not parts:
                    self._waiting.pop(0)
                await self._publisher.delta(
                    UUID(permit.tenant_id),
                    UUID(permit.run_id),
                    "code",
                    "code.delta",
                    {
                        "step": permit.step,
                        "try": permit.try_number,
                        "stream": stream,
                        "text": self._printed.take(stream, piece),
                    },
                )
