"""One HTTP exchange: bounded, without proxies or redirects, and honest about whether anything was sent."""

from __future__ import annotations

import asyncio
import email.utils
import functools
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from activities.lease import Outward

_RETRY_AFTER_S_MAX = 3600


@dataclass(frozen=True, slots=True)
class Answer:
    """The other side's complete answer, or as much of it as the bound lets through."""

    status: int
    headers: httpx.Headers
    body: bytes
    truncated: bool

    @property
    def retry_after_ms(self) -> int | None:
        """What the Retry-After header says, in either of its forms, bounded; None if it says nothing useful."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdigit():
            return min(int(value[:9]), _RETRY_AFTER_S_MAX) * 1000
        try:
            moment = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        wait_s = int((moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
        return min(max(wait_s, 0), _RETRY_AFTER_S_MAX) * 1000


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No complete answer came.

    Attributes:
        sent: The request may have reached the other side.
        reason: Kind of failure.
    """

    sent: bool
    reason: str


@dataclass(slots=True)
class _Wire:
    """Watches the connection: checks the lease once more right before the request's first byte (LAW 1)."""

    outward: Outward
    connecting: bool = field(default=False)
    writing: bool = field(default=False)

    @property
    def sent(self) -> bool:
        """Whether a byte of the request may have left. Where nothing was reported, nothing is proved."""
        return self.writing or not self.connecting

    async def trace(self, event: str, _info: Mapping[str, object]) -> None:
        if event.startswith("connection."):
            self.connecting = True
        elif not self.writing:
            # The first thing to happen on an established connection is that the request is written.
            self.outward.assert_live()
            self.writing = True


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Made once, for it takes tens of milliseconds; the environment cannot add authorities to it."""
    return httpx.create_ssl_context(trust_env=False)


async def exchange(
    outward: Outward,
    method: str,
    url: httpx.URL,
    *,
    headers: Mapping[str, str],
    content: bytes | None,
    answer_bytes_max: int,
    timeout_ms: int,
    tls: ssl.SSLContext | None = None,
    tls_name: str | None = None,
) -> Answer | NoAnswer:
    """Makes one request on a connection of its own; `outward.begin()` must have been awaited.

    Args:
        outward: The lease.
        method: HTTP method.
        url: Where to; if its host is an address, that very address is connected to.
        headers: All headers but those of the framing.
        content: Body, or None.
        answer_bytes_max: Where the answer's body is cut off.
        timeout_ms: Bound of the whole exchange.
        tls: TLS context instead of the default one.
        tls_name: Name for SNI that the certificate is verified for, instead of the URL's host.

    Raises:
        LeaseLost: The lease ran out before the request was written.
    """
    wire = _Wire(outward)
    timeout_s = timeout_ms / 1000
    bounds = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
    extensions: dict[str, object] = {"trace": wire.trace, "timeout": bounds}
    if tls_name is not None:
        extensions["sni_hostname"] = tls_name
    request = httpx.Request(method, url, headers=dict(headers), content=content, extensions=extensions)
    try:
        # The bare transport: a client would look at redirects and cookies, which are nobody's business here.
        async with (
            asyncio.timeout(timeout_s),
            httpx.AsyncHTTPTransport(verify=tls or _tls_context(), trust_env=False) as transport,
        ):
            response = await transport.handle_async_request(request)
            try:
                return await _read(response, answer_bytes_max)
            finally:
                await response.aclose()
    except (httpx.HTTPError, TimeoutError) as error:
        return NoAnswer(wire.sent, type(error).__name__)


async def _read(response: httpx.Response, bytes_max: int) -> Answer:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > bytes_max:
            break
    return Answer(response.status_code, response.headers, bytes(body[:bytes_max]), len(body) > bytes_max)
