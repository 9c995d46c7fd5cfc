"""Where a request goes: a name is resolved once, and the connection goes to the address that was checked (M6)."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from activities.tools.wire import Answer, NoAnswer, exchange
from holdfast.tools.urls import Url
from holdfast_verdict.actions.hosts import refusal_of_address

if TYPE_CHECKING:
    from activities.lease import Outward

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host name, as texts."""

_RESOLVE_TIMEOUT_S = 5
_ADDRESSES_TRIED_MAX = 3


@dataclass(frozen=True, slots=True)
class NoDestination:
    """No request goes there.

    Attributes:
        known: The host's addresses are known, and one of them is refused; else its name could not be resolved.
        reason: What is wrong.
    """

    known: bool
    reason: str


async def resolve_system(host: str, port: int) -> Sequence[str]:
    """Asks the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


async def find_destination(url: Url, resolve: Resolver, *, allow_private: bool) -> Sequence[str] | NoDestination:
    """Returns the addresses of a URL's host. If any of them is not public, none is good."""
    if url.host.startswith("[") or url.host[-1].isdigit():
        addresses = [url.host.strip("[]")]
    else:
        try:
            async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
                addresses = list(dict.fromkeys(await resolve(url.host, url.port)))
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            return NoDestination(known=False, reason=f"the name {url.host} cannot be resolved")
    for address in addresses:
        refusal = refusal_of_address(address, allow_private=allow_private)
        if refusal is not None:
            return NoDestination(known=True, reason=f"{url.host} is refused: {refusal}")
    return addresses


async def ask(
    outward: Outward,
    method: str,
    url: Url,
    addresses: Sequence[str],
    *,
    headers: Mapping[str, str],
    content: bytes | None,
    answer_bytes_max: int,
    timeout_ms: int,
    tls: ssl.SSLContext | None = None,
) -> Answer | NoAnswer:
    """Makes one request to the first of the addresses that can be reached; `outward.begin()` must have been awaited.

    The name is kept for Host, SNI and certificate, so that no second answer of a name server counts.

    Args:
        outward: The lease.
        method: HTTP method.
        url: What to ask for.
        addresses: What `find_destination` found.
        headers: All headers but Host and those of the framing.
        content: Body, or None.
        answer_bytes_max: Where the answer's body is cut off.
        timeout_ms: Bound of it all.
        tls: TLS context instead of the default one.

    Raises:
        LeaseLost: The lease ran out before the request was written.
    """
    now = asyncio.get_running_loop().time
    ends_at = now() + timeout_ms / 1000
    reply: Answer | NoAnswer = NoAnswer(sent=False, reason="no address")
    for address in addresses[:_ADDRESSES_TRIED_MAX]:
        remaining_ms = int((ends_at - now()) * 1000)
        if remaining_ms <= 0:
            break
        reply = await exchange(
            outward,
            method,
            httpx.URL(scheme=url.scheme, host=address, port=url.port, raw_path=url.target.encode("ascii")),
            headers={"Host": url.authority, **headers},
            content=content,
            answer_bytes_max=answer_bytes_max,
            timeout_ms=remaining_ms,
            tls=tls,
            tls_name=url.host.strip("[]"),
        )
        if isinstance(reply, Answer) or reply.sent:
            break
    return reply
