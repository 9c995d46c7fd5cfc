"""The one way out for a model call: one request, under a live lease, with nothing but what we name, and bounded.

It sits below the SDKs, where nothing that they read from the environment, retry, follow or decompress gets past it.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2

from holdfast.providers.answer import RubbishError

if TYPE_CHECKING:
    from activities.lease import Outward

ERROR_BODY_BYTES_MAX = 64 * 1024
LINE_BYTES_MAX = 1024 * 1024
_SENT_HEADERS = frozenset({"host", "content-type", "content-length", "accept", "anthropic-version", "idempotency-key"})
_SUCCESS = range(200, 300)


@dataclass(slots=True)
class Exchange:
    """What has happened on the wire so far; it decides what an outcome may have cost.

    Attributes:
        begun: The lease has let the outward request begin.
        connecting: A connection was being made.
        writing: The request's bytes were let out.
        refused: Why the lease let nothing out.
        status: HTTP status, once there is one.
        headers: The response's headers.
        received_bytes: Bytes of the response's body.
    """

    begun: bool = False
    connecting: bool = False
    writing: bool = False
    refused: Exception | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    received_bytes: int = 0

    @property
    def provably_unsent(self) -> bool:
        """No byte of the request has left. If the connection reports nothing, nothing is proved."""
        return not self.begun or (self.connecting and not self.writing)

    @property
    def succeeded(self) -> bool:
        """The provider answered with a 2xx."""
        return self.status is not None and self.status in _SUCCESS


class _BoundedStream(httpx2.AsyncByteStream):
    """Passes a body on as far as it is within bounds."""

    def __init__(self, inner: httpx2.AsyncByteStream, exchange: Exchange, bytes_max: int) -> None:
        self._inner = inner
        self._exchange = exchange
        self._bytes_max = bytes_max

    async def __aiter__(self) -> AsyncIterator[bytes]:
        line_bytes = 0
        async for chunk in self._inner:
            self._exchange.received_bytes += len(chunk)
            # The SDKs keep an event in memory until its line ends, so a line without end has to be stopped here.
            newline = chunk.rfind(b"\n")
            line_bytes = line_bytes + len(chunk) if newline < 0 else len(chunk) - newline - 1
            if not self._exchange.succeeded and self._exchange.received_bytes > ERROR_BODY_BYTES_MAX:
                return  # enough of an error page to name the error
            if self._exchange.received_bytes > self._bytes_max:
                raise RubbishError(f"the response is over {self._bytes_max} bytes")
            if line_bytes > LINE_BYTES_MAX:
                raise RubbishError(f"a line of the response is over {LINE_BYTES_MAX} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Made once, for it takes tens of milliseconds; the environment cannot add authorities to it."""
    return httpx2.create_ssl_context(trust_env=False)


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Sends exactly one request, after the lease was begun and while it is live (LAW 1)."""

    def __init__(self, outward: Outward, exchange: Exchange, api_key: str, response_bytes_max: int) -> None:
        """Prepares for one request.

        Args:
            outward: The lease of the hold that this call runs under.
            exchange: Where to note what happens.
            api_key: The credential that came with the permit; both wires carry it as a bearer token.
            response_bytes_max: Bound of the response's body.
        """
        self._outward = outward
        self._exchange = exchange
        self._api_key = api_key
        self._response_bytes_max = response_bytes_max
        self._used = False
        # A kept-alive connection that the server has just closed would make an outcome unknown that was none: each
        # call has a connection of its own.
        limits = httpx2.Limits(max_connections=1, max_keepalive_connections=0)
        self._inner = httpx2.AsyncHTTPTransport(verify=_tls_context(), trust_env=False, retries=0, limits=limits)

    async def _trace(self, event: str, _info: object) -> None:
        if event.startswith("connection."):
            self._exchange.connecting = True
        elif not self._exchange.writing and self._exchange.refused is None:
            # The first thing that happens on an established connection is writing the request. Connecting may have
            # taken long, or the process may have been frozen, so the lease is looked at again (LAW 1).
            self._assert_live()
            self._exchange.writing = True

    def _assert_live(self) -> None:
        try:
            self._outward.assert_live()
        except Exception as error:
            self._exchange.refused = error
            raise

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends the request, stripped of every header but those that are named here."""
        if self._used:
            raise RuntimeError("a model call is one request; the SDK tried to send a second one")
        self._used = True
        try:
            await self._outward.begin()
        except Exception as error:
            self._exchange.refused = error
            raise
        self._exchange.begun = True
        headers = [(name, value) for name, value in request.headers.items() if name.lower() in _SENT_HEADERS]
        headers.append(("authorization", f"Bearer {self._api_key}"))
        headers += [("accept-encoding", "identity"), ("user-agent", "holdfast")]
        bare = httpx2.Request(
            request.method,
            request.url.copy_with(query=None),
            headers=[*headers, ("connection", "close")],
            stream=request.stream,
            extensions={**request.extensions, "trace": self._trace},
        )
        response = await self._inner.handle_async_request(bare)
        if not isinstance(response.stream, httpx2.AsyncByteStream):
            raise TypeError("the transport answered with a stream that cannot be awaited")
        self._exchange.status = response.status_code
        self._exchange.headers = {name.lower(): value for name, value in response.headers.items()}
        # No compression was offered, and what was sent compressed all the same could expand without bound.
        kept = [(name, value) for name, value in response.headers.raw if name.lower() != b"content-encoding"]
        return httpx2.Response(
            response.status_code,
            headers=kept,
            stream=_BoundedStream(response.stream, self._exchange, self._response_bytes_max),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Closes the connection."""
        await self._inner.aclose()
