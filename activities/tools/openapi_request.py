"""Runs a tool of the tenant's own that is an operation of an HTTP service.

The service's address comes from the vault, in one entry with the secret that is for it: no definition, and no argument, can
send that secret anywhere else.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal
from urllib.parse import quote

from pydantic import AfterValidator, Field, SecretStr, model_validator

from activities.tools.answer import REDIRECTS, shown
from activities.tools.destination import NoDestination, Resolver, ask, find_destination, resolve_system
from activities.tools.invocation import Credential, ToolInvocation, ToolResult
from activities.tools.wire import Answer, NoAnswer
from holdfast.tools.definition import READING, OpenapiBinding, OwnTool, ToolForm, is_free_header
from holdfast.tools.http_message import Message, NotSendable, build_message
from holdfast.tools.urls import Url, parse_url

ANSWER_BYTES_MAX: Final = 100_000
_REQUEST_TIMEOUT, _CONFLICT, _TOO_MANY = 408, 409, 429
_SUCCESSES, _REFUSALS = range(200, 300), range(400, 500)
_SECRET_LENGTH_MIN = 6
_REMOVED = "(credential)"
_PRINTABLE = re.compile(r"[!-~]([ -~]*[!-~])?")


def _check_address(text: str) -> str:
    url = parse_url(text)
    if "?" in url.target:
        raise ValueError("an address without a query")
    return text


def _check_printable(secret: SecretStr) -> SecretStr:
    if _PRINTABLE.fullmatch(secret.get_secret_value()) is None:
        raise ValueError("one line of printable ASCII, not empty, without spaces around it")
    return secret


Secret = Annotated[SecretStr, AfterValidator(_check_printable)]


@dataclass(frozen=True, slots=True)
class Proof:
    """What proves to the service who calls: one header or one member of the query, or nothing.

    Attributes:
        header: Name of the header, or empty.
        query: Name in the query, or empty.
        value: What stands there.
        secrets: Texts that no answer may show.
    """

    header: str = ""
    query: str = ""
    value: str = ""
    secrets: tuple[str, ...] = ()


class NoAuth(Credential):
    """The service asks for no proof."""

    kind: Literal["none"] = Field(description="`none`")

    def proof(self) -> Proof:
        """Returns what is sent."""
        return Proof()


class BearerAuth(Credential):
    """`Authorization: Bearer …`."""

    kind: Literal["bearer"] = Field(description="`bearer`")
    token: Secret = Field(description="the token")

    def proof(self) -> Proof:
        """Returns what is sent."""
        token = self.token.get_secret_value()
        return Proof(header="Authorization", value=f"Bearer {token}", secrets=(token,))


class BasicAuth(Credential):
    """`Authorization: Basic …`."""

    kind: Literal["basic"] = Field(description="`basic`")
    username: str = Field(pattern=r"^[^:\x00-\x1f]*$", description="the user's name, without `:`")
    password: SecretStr = Field(description="the password")

    def proof(self) -> Proof:
        """Returns what is sent."""
        password = self.password.get_secret_value()
        encoded = base64.b64encode(f"{self.username}:{password}".encode()).decode("ascii")
        return Proof(header="Authorization", value=f"Basic {encoded}", secrets=(encoded, password))


class HeaderAuth(Credential):
    """A header of the service's own, such as `X-Api-Key`."""

    kind: Literal["header"] = Field(description="`header`")
    name: str = Field(max_length=100, description="the header's name")
    value: Secret = Field(description="what stands in it")

    @model_validator(mode="after")
    def _free(self) -> HeaderAuth:
        if not is_free_header(self.name) and self.name.lower() != "authorization":
            raise ValueError("this header has another meaning")
        return self

    def proof(self) -> Proof:
        """Returns what is sent."""
        value = self.value.get_secret_value()
        return Proof(header=self.name, value=value, secrets=(value,))


class QueryAuth(Credential):
    """A member of the query, such as `?key=…`."""

    kind: Literal["query"] = Field(description="`query`")
    name: str = Field(min_length=1, max_length=100, description="its name")
    value: SecretStr = Field(description="its value")

    def proof(self) -> Proof:
        """Returns what is sent."""
        value = self.value.get_secret_value()
        return Proof(query=self.name, value=value, secrets=(value, quote(value, safe="")))


Auth = Annotated[NoAuth | BearerAuth | BasicAuth | HeaderAuth | QueryAuth, Field(discriminator="kind")]


class OpenapiCredential(Credential):
    """The vault entry of an HTTP service: where it is, and what proves to it who calls."""

    base_url: Annotated[str, AfterValidator(_check_address)] = Field(
        description="the address that the operations' paths follow, such as `https://crm.example/api`"
    )
    auth: Auth = Field(description="what is sent as proof; see below")
    allow_private: bool = Field(
        default=False,
        description="lets it be on a private or loopback address, and be spoken to without TLS (`http://`)",
    )

    @model_validator(mode="after")
    def _private(self) -> OpenapiCredential:
        if self.base_url.lower().startswith("http:") and not self.allow_private:
            raise ValueError("without TLS only where `allow_private` is true")
        return self


async def run(
    call: ToolInvocation, *, resolve: Resolver = resolve_system, tls: ssl.SSLContext | None = None
) -> ToolResult:
    """Makes the request.

    Args:
        call: What to do.
        resolve: Resolver of names.
        tls: TLS context instead of the default one.
    """
    assert isinstance(call.definition, OwnTool)  # dispatch chose this runner by the binding
    form = call.definition.form
    binding = form.binding
    assert isinstance(binding, OpenapiBinding)
    ends_at = asyncio.get_running_loop().time() + form.timeout_ms / 1000
    credential = call.read_credential(OpenapiCredential)
    proof = credential.auth.proof()
    if clash := _clash(binding, proof):
        return ToolResult.nothing("openapi.credential_clash", clash)
    try:
        message = build_message(binding, call.arguments, parse_url(credential.base_url))
    except NotSendable as error:
        return ToolResult.nothing("openapi.argument_refused", f"{call.tool}: {error}; nothing was sent")
    found = await find_destination(message.url, resolve, allow_private=credential.allow_private)
    if isinstance(found, NoDestination):
        if found.known:
            return ToolResult.nothing("openapi.address_refused", found.reason)
        return ToolResult.nothing("openapi.unresolved", found.reason, retryable=True)
    remaining_ms = int((ends_at - asyncio.get_running_loop().time()) * 1000)
    await call.outward.begin()
    reply = await ask(
        call.outward,
        binding.method,
        _with_query(message.url, proof),
        found,
        headers=_headers(binding, message, proof, call.idempotency_key),
        content=message.body,
        answer_bytes_max=ANSWER_BYTES_MAX,
        timeout_ms=max(remaining_ms, 1),
        tls=tls,
    )
    return _without(proof, _result(form, binding, message.url, reply))


def _clash(binding: OpenapiBinding, proof: Proof) -> str:
    """Says which argument would stand where the proof stands, or nothing."""
    headers = {place.name.lower() for place in binding.places.values() if place.where == "header"}
    queries = {place.name for place in binding.places.values() if place.where == "query"}
    if proof.header and proof.header.lower() in headers | {binding.idempotency_header.lower()}:
        return f"the header {proof.header} is the credential's, and nothing else's"
    if proof.query and proof.query in queries:
        return f"{proof.query} in the query is the credential's, and no argument's"
    return ""


def _with_query(url: Url, proof: Proof) -> Url:
    if not proof.query:
        return url
    joint = "&" if "?" in url.target else "?"
    member = f"{quote(proof.query, safe='')}={quote(proof.value, safe='')}"
    return replace(url, target=f"{url.target}{joint}{member}")


def _headers(binding: OpenapiBinding, message: Message, proof: Proof, idempotency_key: str) -> Mapping[str, str]:
    headers = {
        **message.headers,
        "User-Agent": "holdfast",
        "Accept": "application/json, */*;q=0.5",
        "Accept-Encoding": "identity",
    }
    if message.body is not None:
        headers["Content-Type"] = binding.content_type
    if binding.idempotency_header:
        headers[binding.idempotency_header] = idempotency_key
    if proof.header:
        headers[proof.header] = proof.value
    return headers


def _result(form: ToolForm, binding: OpenapiBinding, url: Url, reply: Answer | NoAnswer) -> ToolResult:
    """Says what became of it. Where a tool may have an effect, whatever leaves that open is `unknown` (LAW 4)."""
    only_reads = binding.method in READING and not form.external
    if isinstance(reply, NoAnswer):
        if not reply.sent:
            return ToolResult.nothing(
                "openapi.unreachable", f"{url.authority} cannot be reached ({reply.reason})", retryable=True
            )
        lost = f"the request was sent, but the answer was lost ({reply.reason})"
        return _open(form, "openapi.answer_lost", lost, only_reads=only_reads)
    content = json.dumps(shown(url, reply), ensure_ascii=False)
    if reply.status in _SUCCESSES:
        return ToolResult.done(content)
    if reply.status in REDIRECTS:
        return ToolResult.answered("openapi.redirected", content)
    if reply.status == _TOO_MANY:
        return ToolResult.nothing("openapi.rate_limited", content, retryable=True, retry_after_ms=reply.retry_after_ms)
    # under a key, a conflict can mean that the first try is still at work
    is_open = reply.status == _REQUEST_TIMEOUT or (reply.status == _CONFLICT and binding.idempotency_header != "")
    if reply.status in _REFUSALS and not is_open:
        return ToolResult.answered("openapi.refused", content)
    return _open(form, "openapi.failed", content, only_reads=only_reads, retry_after_ms=reply.retry_after_ms)


def _open(
    form: ToolForm, code: str, content: str, *, only_reads: bool, retry_after_ms: int | None = None
) -> ToolResult:
    if only_reads:
        return ToolResult.nothing(code, content, retryable=True, retry_after_ms=retry_after_ms)
    return ToolResult.unknown(code, content, retryable=form.idempotent, retry_after_ms=retry_after_ms)


def _without(proof: Proof, result: ToolResult) -> ToolResult:
    """Returns a result that does not show the credential, which some services repeat."""
    content = result.content
    for secret in proof.secrets:
        if len(secret) >= _SECRET_LENGTH_MIN:
            content = content.replace(secret, _REMOVED).replace(json.dumps(secret)[1:-1], _REMOVED)
    return replace(result, content=content)
