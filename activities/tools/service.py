"""Calls of the payments and accounts service, which takes an Idempotency-Key with everything that has an effect."""

from __future__ import annotations

import json

import httpx
from pydantic import SecretStr

from activities.tools.invocation import Credential, ToolInvocation, ToolResult
from activities.tools.wire import Answer, NoAnswer, exchange
from holdfast_verdict.canonical import JsonValue

_ANSWER_BYTES_MAX = 65_536
_TIMEOUT_MS = 20_000
_REQUEST_TIMEOUT, _CONFLICT, _TOO_MANY, _SERVER_ERROR = 408, 409, 429, 500
_SUCCESSES = range(200, 300)
_REFUSALS = range(400, 500)


class ServiceCredential(Credential):
    """The vault entries `tool.payments` and `tool.accounts`."""

    base_url: str
    api_key: SecretStr


async def call_service(
    call: ToolInvocation, method: str, path: str, body: dict[str, JsonValue] | None
) -> dict[str, JsonValue] | ToolResult:
    """Makes one idempotent request.

    Returns:
        The JSON object of a success, or the result of a failure: a refusal means that nothing happened; whatever
        leaves the outcome open is `unknown` and may be tried again, because the key makes the service answer as before.

    Raises:
        LeaseLost: The lease ran out before the request was written.
    """
    noun = call.tool.partition(".")[0]
    credential = call.read_credential(ServiceCredential)
    await call.outward.begin()
    reply = await exchange(
        call.outward,
        method,
        httpx.URL(credential.base_url.rstrip("/") + path),
        headers={
            "Authorization": f"Bearer {credential.api_key.get_secret_value()}",
            "Idempotency-Key": call.idempotency_key,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "holdfast",
        },
        content=None if body is None else json.dumps(body).encode(),
        answer_bytes_max=_ANSWER_BYTES_MAX,
        timeout_ms=_TIMEOUT_MS,
    )
    if isinstance(reply, NoAnswer):
        return _no_answer(noun, reply)
    if reply.status not in _SUCCESSES:
        return _not_done(noun, reply)
    try:
        answer = json.loads(reply.body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return ToolResult.unknown(f"{noun}.answer_unreadable", "the service's answer is not readable", retryable=True)
    return answer


def _no_answer(noun: str, reply: NoAnswer) -> ToolResult:
    if not reply.sent:
        return ToolResult.nothing(
            f"{noun}.unavailable", f"the service cannot be reached ({reply.reason}); nothing was done", retryable=True
        )
    return ToolResult.unknown(
        f"{noun}.answer_lost", f"the service's answer was lost ({reply.reason}); it may have been done", retryable=True
    )


def _not_done(noun: str, reply: Answer) -> ToolResult:
    if reply.status == _TOO_MANY:
        return ToolResult.nothing(
            f"{noun}.rate_limited",
            "the service takes no more requests for now; nothing was done",
            retryable=True,
            retry_after_ms=reply.retry_after_ms,
        )
    if reply.status in (_REQUEST_TIMEOUT, _CONFLICT) or reply.status >= _SERVER_ERROR:
        return ToolResult.unknown(
            f"{noun}.failed",
            f"the service failed with status {reply.status}; it may have been done",
            retryable=True,
            retry_after_ms=reply.retry_after_ms,
        )
    if reply.status in _REFUSALS:
        return ToolResult.nothing(f"{noun}.refused", f"the service refused: {_problem(reply)}; nothing was done")
    return ToolResult.unknown(f"{noun}.unexpected", f"the service answered with status {reply.status}, not followed")


def _problem(reply: Answer) -> str:
    try:
        detail = json.loads(reply.body)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = None
    return f"{detail[:200]} (status {reply.status})" if isinstance(detail, str) else f"status {reply.status}"
