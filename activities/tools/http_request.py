"""Runs `http.request`: one request to an allow-listed host, at the address that was checked and at no other (M6)."""

from __future__ import annotations

import json
import ssl

from activities.tools.answer import shown
from activities.tools.destination import NoDestination, Resolver, ask, find_destination, resolve_system
from activities.tools.invocation import Credential, ToolInvocation, ToolResult
from activities.tools.wire import Answer, NoAnswer
from holdfast.tools.registry import HttpRequest
from holdfast.tools.urls import DEFAULT_PORTS, Url, parse_url
from holdfast_verdict.actions.hosts import host_allowed

_ANSWER_BYTES_MAX = 100_000
_EXCHANGE_TIMEOUT_MS = 30_000
_FAILURES_FROM = 400
_TOO_MANY = 429
_PASSING_FAILURES = frozenset({429, 502, 503, 504})


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


async def run(
    call: ToolInvocation, *, resolve: Resolver = resolve_system, tls: ssl.SSLContext | None = None
) -> ToolResult:
    """Makes the request.

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
    found = await find_destination(url, resolve, allow_private=credential.allow_private)
    if isinstance(found, NoDestination):
        if found.known:
            return ToolResult.nothing("http.address_refused", found.reason)
        return ToolResult.nothing("http.unresolved", found.reason, retryable=True)
    headers = {"User-Agent": "holdfast", "Accept": "*/*", "Accept-Encoding": "identity"}
    if arguments.body is not None:
        headers["Content-Type"] = _content_type(arguments.body)
    await call.outward.begin()
    reply = await ask(
        call.outward,
        arguments.method,
        url,
        found,
        headers=headers,
        content=None if arguments.body is None else arguments.body.encode(),
        answer_bytes_max=_ANSWER_BYTES_MAX,
        timeout_ms=_EXCHANGE_TIMEOUT_MS,
        tls=tls,
    )
    return _result(arguments, url, reply)


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
    content = json.dumps(shown(url, reply), ensure_ascii=False)
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
