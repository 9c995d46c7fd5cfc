"""Runs `http.request`: one request to an allow-listed host, at the address that was checked and at no other (M6)."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

import httpx

from activities.tools.invocation import Credential, ToolInvocation, ToolResult
from activities.tools.wire import Answer, NoAnswer, exchange
from holdfast.tools.hosts import host_allowed, refusal_of_address
from holdfast.tools.registry import HttpRequest
from holdfast.tools.urls import DEFAULT_PORTS, Url, parse_url
from holdfast_verdict.canonical import JsonValue

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host name, as texts."""

_ANSWER_BYTES_MAX = 100_000
_RESOLVE_TIMEOUT_S = 5
_EXCHANGE_TIMEOUT_S = 30
_ADDRESSES_TRIED_MAX = 3
_REDIRECTS = range(300, 400)
_FAILURES_FROM = 400
_TOO_MANY = 429
_PASSING_FAILURES = frozenset({429, 502, 503, 504})
_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/problem+json")


class HttpCredential(Credential):
    """The vault entry `tool.http`.

    Attributes:
        allowed_hosts: Hosts that may be asked: `api.example.com`, `*.example.com`, `api.example.com:8443`.
        methods: HTTP methods that may be used.
        allow_private: Lets private and loopback addresses pass; for tests and sealed networks only.
    """

    allowed_hosts: tuple[str, ...]
    methods: tuple[str, ...]
    allow_private: bool = False


async def resolve_system(host: str, port: int) -> Sequence[str]:
    """Asks the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


async def run(
    call: ToolInvocation, *, resolve: Resolver = resolve_system, tls: ssl.SSLContext | None = None
) -> ToolResult:
    """Makes the request.

    The name is resolved once. If any of its addresses is not public, nothing is sent; else the connection goes to the
    address itself, with the name kept for Host, SNI and certificate, so that no second answer of a name server counts.

    Args:
        call: What to do.
        resolve: Resolver of names.
        tls: TLS context instead of the default one.
    """
    credential = call.read_credential(HttpCredential)
    arguments = HttpRequest.model_validate(call.arguments)
    url = parse_url(arguments.url)
    if arguments.method not in credential.methods:
        return ToolResult.nothing("http.method_refused", f"the method {arguments.method} is not allowed here")
    if not host_allowed(url.host, url.port, DEFAULT_PORTS[url.scheme], credential.allowed_hosts):
        return ToolResult.nothing("http.host_refused", f"{url.authority} is not an allowed host")
    addresses = await _addresses(url, resolve, allow_private=credential.allow_private)
    if isinstance(addresses, ToolResult):
        return addresses
    await call.outward.begin()
    reply: Answer | NoAnswer = NoAnswer(sent=False, reason="no address")
    for address in addresses[:_ADDRESSES_TRIED_MAX]:
        reply = await _ask(call, arguments, url, address, tls)
        if isinstance(reply, Answer) or reply.sent:
            break
    return _result(arguments, url, reply)


async def _addresses(url: Url, resolve: Resolver, *, allow_private: bool) -> list[str] | ToolResult:
    literal = url.host.strip("[]")
    if url.host.startswith("[") or url.host[-1].isdigit():
        addresses = [literal]
    else:
        try:
            async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
                addresses = list(dict.fromkeys(await resolve(url.host, url.port)))
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            return ToolResult.nothing("http.unresolved", f"the name {url.host} cannot be resolved", retryable=True)
    for address in addresses:
        refusal = refusal_of_address(address, allow_private=allow_private)
        if refusal is not None:
            return ToolResult.nothing("http.address_refused", f"{url.host} is refused: {refusal}")
    return addresses


async def _ask(
    call: ToolInvocation, arguments: HttpRequest, url: Url, address: str, tls: ssl.SSLContext | None
) -> Answer | NoAnswer:
    headers = {"Host": url.authority, "User-Agent": "holdfast", "Accept": "*/*", "Accept-Encoding": "identity"}
    if arguments.body is not None:
        headers["Content-Type"] = _content_type(arguments.body)
    return await exchange(
        call.outward,
        arguments.method,
        httpx.URL(scheme=url.scheme, host=address, port=url.port, raw_path=url.target.encode("ascii")),
        headers=headers,
        content=None if arguments.body is None else arguments.body.encode(),
        answer_bytes_max=_ANSWER_BYTES_MAX,
        timeout_s=_EXCHANGE_TIMEOUT_S,
        tls=tls,
        tls_name=url.host.strip("[]"),
    )


def _content_type(body: str) -> str:
    try:
        json.loads(body)
    except ValueError:
        return "text/plain; charset=utf-8"
    return "application/json"


def _result(arguments: HttpRequest, url: Url, reply: Answer | NoAnswer) -> ToolResult:
    idempotent = arguments.method in ("GET", "HEAD")
    if isinstance(reply, NoAnswer):
        if not reply.sent:
            return ToolResult.nothing(
                "http.unreachable", f"{url.authority} cannot be reached ({reply.reason})", retryable=True
            )
        return ToolResult.unknown(
            "http.answer_lost",
            f"the request was sent, but the answer was lost ({reply.reason})",
            retryable=idempotent,
        )
    content = json.dumps(_shown(url, reply), ensure_ascii=False)
    if reply.status < _FAILURES_FROM:
        return ToolResult.done(content)
    return ToolResult(
        ok=False,
        content=content,
        error_code="http.status",
        retryable=reply.status == _TOO_MANY or (idempotent and reply.status in _PASSING_FAILURES),
        retry_after_ms=reply.retry_after_ms,
        cost="known",
    )


def _shown(url: Url, reply: Answer) -> dict[str, JsonValue]:
    content_type = reply.headers.get("content-type", "")[:200]
    shown: dict[str, JsonValue] = {"status": reply.status, "content_type": content_type}
    if reply.status in _REDIRECTS:
        shown["location"] = _location(url, reply.headers.get("location", ""))
        shown["note"] = "redirects are not followed; ask for the location in a request of its own if it is needed"
    encoded = reply.headers.get("content-encoding", "identity") != "identity"
    if encoded or (content_type and not content_type.startswith(_TEXT_TYPES)):
        shown["body"] = f"({len(reply.body)} bytes that are not text)"
    else:
        shown["body"] = reply.body.decode("utf-8", "replace")
    shown["truncated"] = reply.truncated
    return shown


def _location(url: Url, location: str) -> str:
    try:
        return parse_url(str(httpx.URL(url.text).join(location))).text
    except (ValueError, httpx.InvalidURL):
        return f"(not a usable address: {location[:200]!r})"
