"""Calls a model through its provider's own SDK and makes an outcome of whatever happens."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import httpx2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from activities import provider_sdk
from activities.guarded_transport import Exchange, GuardedTransport
from holdfast.errors import CredentialMissing
from holdfast.providers import anthropic as anthropic_wire
from holdfast.providers import openai as openai_wire
from holdfast.providers.answer import Failure, RubbishError, member
from holdfast.providers.failures import status_failure, stream_failure
from holdfast.providers.model import Delta, ModelOutcome, ModelRequest, Wire

if TYPE_CHECKING:
    from activities.lease import Outward

OnDelta = Callable[[Delta], Awaitable[None]]
OnPartial = Callable[[ModelOutcome], None]

CONNECT_TIMEOUT_S = 10.0
_TAKE_IN_S = 0.2
_PORT_MAX = 65_535
_OFFICIAL = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com/v1"}
_REQUEST_ID_HEADER = {"anthropic": "request-id", "openai": "x-request-id"}
_SIMULATED_HEADER = "x-holdfast-simulated"
_RESPONSE_BYTES_BASE, _RESPONSE_BYTES_PER_TOKEN = 1024 * 1024, 2 * 1024


class _ProviderCredential(BaseModel):
    """The vault entry of a provider. Errors never show what stands in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    # What a header can carry; an empty key would make the SDKs look for one in the environment.
    api_key: str = Field(min_length=1, max_length=4096, pattern=r"^[\x21-\x7e]+$")
    base_url: str | None = Field(default=None, max_length=2048, pattern=r"^https?://[^\s?#]+$")
    simulated: bool = False

    @field_validator("base_url")
    @classmethod
    def _names_a_host(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            url = httpx2.URL(value)
        except httpx2.InvalidURL:
            raise ValueError("not a URL") from None
        if not url.host or (url.port is not None and not 0 < url.port <= _PORT_MAX):
            raise ValueError("names no host, or a port that does not exist")
        return value


class _Accumulator(Protocol):
    """What both wires' accumulators are; what they are fed with differs."""

    @property
    def events(self) -> int: ...

    def feed(self, event: Any, /) -> tuple[Delta, ...]: ...  # Any: each SDK has event types of its own

    def outcome(self, failure: Failure | None, provider_request_id: str | None, *, simulated: bool) -> ModelOutcome: ...


def _read_credential(wire: Wire, credential: Mapping[str, object]) -> _ProviderCredential:
    try:
        return _ProviderCredential.model_validate(dict(credential))
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, problem["loc"])) for problem in error.errors()}))
        raise CredentialMissing(
            f"the vault entry provider.{wire} is incomplete or wrong in: {fields}",
            remedy="store it again with api_key, base_url (or null) and simulated",
        ) from None


class _Call:
    """One call: the exchange on the wire, the answer so far, and how they become an outcome."""

    def __init__(
        self,
        sdk: Any,  # see provider_sdk.load
        request: ModelRequest,
        credential: _ProviderCredential,
        idempotency_key: str,
        outward: Outward,
    ) -> None:
        self._sdk = sdk
        self._wire = request.wire
        self._credential = credential
        self._idempotency_key = idempotency_key
        self._outward = outward
        self._response_bytes_max = _RESPONSE_BYTES_BASE + _RESPONSE_BYTES_PER_TOKEN * request.max_tokens
        self._base_url = credential.base_url or _OFFICIAL[request.wire]
        self.exchange = Exchange()
        self.accumulator: _Accumulator
        if request.wire == "anthropic":
            self.accumulator = anthropic_wire.AnthropicAccumulator()
            self._arguments = anthropic_wire.request_arguments(request)
        else:
            surcharge = openai_wire.regional_surcharge_percent(httpx2.URL(self._base_url).host)
            self.accumulator = openai_wire.OpenAIAccumulator(surcharge)
            self._arguments = openai_wire.request_arguments(request)

    def _http_client(self) -> httpx2.AsyncClient:
        transport = GuardedTransport(self._outward, self.exchange, self._credential.api_key, self._response_bytes_max)
        # The call's deadline bounds everything; only connecting is given less.
        timeout = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)
        return httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=timeout)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[AsyncIterator[object]]:
        """Sends the request through the SDK and yields its events."""
        key = self._credential.api_key
        headers = {"Idempotency-Key": self._idempotency_key}
        # Any: the SDKs' `create` is overloaded on arguments that come from a dict here.
        opened: AbstractAsyncContextManager[Any]
        if self._wire == "anthropic":
            async with self._sdk.AsyncAnthropic(
                api_key=key,
                base_url=self._base_url,
                max_retries=0,
                open_telemetry=False,
                http_client=self._http_client(),
            ) as claude:
                opened = await claude.messages.create(**self._arguments, extra_headers=headers)
                async with opened as events:
                    yield events
        else:
            async with self._sdk.AsyncOpenAI(
                api_key=key,
                base_url=self._base_url,
                max_retries=0,
                http_client=self._http_client(),
            ) as gpt:
                opened = await gpt.chat.completions.create(**self._arguments, extra_headers=headers)
                async with opened as events:
                    yield events

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Yields the answer's pieces as they come."""
        async with self.stream() as events:
            async for event in events:
                for delta in self.accumulator.feed(event):
                    yield delta

    def _is_stream_error(self, error: Exception) -> bool:
        """Says whether the SDK raised what the provider wrote into its stream."""
        if self._wire == "anthropic":
            return isinstance(error, self._sdk.APIStatusError)
        return type(error) is self._sdk.APIError

    def outcome(self, failure: Failure | None) -> ModelOutcome:
        """Returns what came of the call."""
        headers = self.exchange.headers
        return self.accumulator.outcome(
            failure,
            headers.get(_REQUEST_ID_HEADER[self._wire]),
            simulated=self._credential.simulated or headers.get(_SIMULATED_HEADER) == "true",
        )

    def ended(self) -> Failure | None:
        """Returns what a stream that ended by itself lacks, as far as the answer does not show it."""
        if self.accumulator.events == 0 and self.exchange.received_bytes:
            return Failure(
                "provider.rubbish", "the response is no event stream of this wire", retryable=True, cost="unknown"
            )
        return None

    def timed_out(self, deadline_ms: int) -> Failure:
        """Returns what the deadline's end means."""
        if self.exchange.provably_unsent:
            return self._unreachable(f"no connection within {deadline_ms} ms")
        if self.exchange.status is not None and not self.exchange.succeeded:
            return self._refused("the rest of the response did not come in time")
        return Failure("provider.timeout", f"no complete answer within {deadline_ms} ms", retryable=True)

    def cancelled(self) -> Failure:
        """Returns what being stopped from outside means."""
        failure = Failure("provider.cut", "the call was stopped before the answer was complete", retryable=True)
        return replace(failure, cost="nothing") if self.exchange.provably_unsent else failure

    def _unreachable(self, message: str) -> Failure:
        return Failure("provider.unreachable", message, retryable=True, cost="nothing")

    def _refused(self, message: str) -> Failure:
        return status_failure(self.exchange.status or 0, message, self.exchange.headers, datetime.now(UTC))

    def failed(self, error: Exception) -> Failure:
        """Returns what an exception of the SDK, or of what it read, means."""
        exchange = self.exchange
        cause: BaseException = error
        if isinstance(error, self._sdk.APIConnectionError):
            cause = error.__cause__ or error  # the SDKs wrap what the transport raised
        if not exchange.begun:
            # The SDK would not send it, for a reason of its own.
            message = f"nothing was sent: {type(cause).__name__}: {cause}"
            return Failure("provider.refused", message, retryable=False, cost="nothing")
        if exchange.status is not None and not exchange.succeeded:
            return self._refused(_provider_message(error))
        transport_failed = isinstance(cause, httpx2.TransportError | OSError | ssl.SSLError)
        if exchange.provably_unsent and transport_failed:
            return self._unreachable(f"no connection: {cause}" if str(cause) else "no connection")
        if isinstance(cause, httpx2.RemoteProtocolError) and exchange.status is None and "disconnect" not in str(cause):
            return Failure("provider.rubbish", f"the response is no HTTP: {cause}", retryable=True, cost="unknown")
        if transport_failed:
            return Failure("provider.cut", f"the connection was lost: {type(cause).__name__}", retryable=True)
        if self._is_stream_error(error):
            return stream_failure(_error_type(getattr(error, "body", None)), _provider_message(error))
        return Failure("provider.rubbish", f"{type(cause).__name__}: {cause}", retryable=True, cost="unknown")


def _error_type(body: object) -> str | None:
    """Both wires name an error's type, one inside an `error` member."""
    inner = member(body, "error")
    kind = member(inner if inner is not None else body, "type")
    return kind if isinstance(kind, str) else None


def _provider_message(error: Exception) -> str:
    body = getattr(error, "body", None)
    inner = member(body, "error")
    message = member(inner if inner is not None else body, "message")
    return message if isinstance(message, str) else str(error)


async def _converse(call: _Call, on_delta: OnDelta) -> Failure | None:
    """Runs the call to its end and returns what ended it before its time."""
    async with aclosing(call.deltas()) as deltas:
        while True:
            try:
                delta = await anext(deltas)
            except StopAsyncIteration:
                return call.ended()
            except RubbishError as error:
                return Failure("provider.rubbish", str(error), retryable=True, cost="unknown")
            except Exception as error:  # noqa: BLE001 (what SDKs raise on hostile bytes is not a closed set, and every such case is an outcome)
                if call.exchange.refused is not None:
                    raise call.exchange.refused from None
                return call.failed(error)
            try:
                await on_delta(delta)
            except BaseException:
                await _take_in(deltas)
                raise


async def _take_in(deltas: AsyncGenerator[Delta, None]) -> None:
    """Takes in what has arrived already, for whoever was too slow to read it: its provider has billed it (LAW 4)."""
    with suppress(Exception):  # whatever ends this, the call is over already, and as much is known as could be read
        async with asyncio.timeout(_TAKE_IN_S):
            async for _ in deltas:
                pass


async def call_model(
    request: ModelRequest,
    credential: Mapping[str, object],
    idempotency_key: str,
    outward: Outward,
    on_delta: OnDelta,
    deadline_ms: int,
    *,
    on_partial: OnPartial | None = None,
) -> ModelOutcome:
    """Calls a model once; nothing that a provider does makes it raise.

    Args:
        request: What to ask. Its `max_tokens` is what was reserved for.
        credential: Vault entry of the provider: `api_key`, `base_url` (null for the provider's own), `simulated`.
        idempotency_key: The same for all tries of a step; sent along.
        outward: The lease: begun once right before the connection is made, looked at again before bytes are written.
        on_delta: Awaited for each piece of the answer. What it raises ends the call and is passed on.
        deadline_ms: Bound of the whole call.
        on_partial: Called with the outcome so far before an exception that did not come from the provider
            (cancellation, or what `on_delta` raised) is passed on, so that paid work is not lost (LAW 4).

    Returns:
        The outcome, complete or not.

    Raises:
        LeaseLost: The lease let nothing out (and whatever else `outward` raised).
        CredentialMissing: The vault entry is not a provider's.
        RequestInvalid: The request has no form on the wire.
    """
    read = _read_credential(request.wire, credential)
    call = _Call(await provider_sdk.load(request.wire), request, read, idempotency_key, outward)
    deadline = asyncio.timeout(deadline_ms / 1_000)
    try:
        async with deadline:
            failure = await _converse(call, on_delta)
    except BaseException as error:
        if isinstance(error, TimeoutError) and deadline.expired():
            return call.outcome(call.timed_out(deadline_ms))
        if on_partial is not None and call.exchange.refused is None:
            on_partial(call.outcome(call.cancelled()))
        raise
    return call.outcome(failure)
