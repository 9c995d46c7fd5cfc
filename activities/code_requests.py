"""What code in a job asks for: written down under the job's own lease, decided and executed by others, answered from PostgreSQL.

Whoever runs code holds no credential and decides on nothing. It writes each request down, tells the run that there is one, and fetches
the answer. The run, which is the governor's, takes a call through the gate like any action of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final, cast
from uuid import UUID

import orjson
from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from activities.lease import Lease
from holdfast.contracts import names
from holdfast.contracts.gate import CodeCall
from holdfast.database.jsonb import jsonb
from holdfast.errors import CallRefused, CallsExhausted, CallUnanswered, RequestInvalid, RequestTooLarge
from holdfast.permits import Permit
from holdfast.timeline.stream import Publisher
from holdfast_verdict.canonical import JsonValue
from sandbox.frames import Request

ARGUMENTS_BYTES_MAX: Final = 65_536
SAID_BYTES_MAX: Final = 16_384
_LATE_S: Final = 1.0
"""How long an answer is waited for after the job's wall clock has run out."""
_TOOLS_SHOWN: Final = 20
_NAME_SHOWN: Final = 100
_SAID: Final = {"emit": "channel", "cite": "source"}


class CodeRequests:
    """The requests of one job.

    Args:
        client: The way to the run.
        publisher: The way to the run's live stream.
        permit: Whose code it is.
        lease: Proves that it runs right now.
        requests_max: How many requests are taken.
        timeout_ms: The job's wall clock.
    """

    def __init__(
        self, client: Client, publisher: Publisher, permit: Permit, lease: Lease, *, requests_max: int, timeout_ms: int
    ) -> None:
        self._client = client
        self._publisher = publisher
        self._permit = permit
        self._lease = lease
        self._requests_max = requests_max
        self._ends_at = time.monotonic() + timeout_ms / 1000 + _LATE_S
        self._called: dict[str, dict[str, int]] = {}

    @property
    def called(self) -> dict[str, JsonValue]:
        """By tool, how many calls were done, refused, and not answered in time, which may have been done."""
        return cast("dict[str, JsonValue]", self._called)

    async def act(self, request: Request) -> object:
        """Does what a request asks for; see `sandbox.supervisor.Act`.

        Raises:
            HoldfastError: It is refused, and the code may go on.
        """
        if request.number > self._requests_max:
            raise CallsExhausted(f"a job may make {self._requests_max} requests of its run")
        if request.kind != "tool":
            await self._say(request)
            return None
        try:
            value = await self._call(request)
        except (CallRefused, RequestInvalid, RequestTooLarge):
            self._count(request.name, "refused")
            raise
        except BaseException:
            self._count(request.name, "unanswered")
            raise
        self._count(request.name, "done")
        return value

    def _count(self, tool: str, what: str) -> None:
        shown = tool[:_NAME_SHOWN]
        known = shown if shown in self._called or len(self._called) < _TOOLS_SHOWN else "others"
        counts = self._called.setdefault(known, {})
        counts[what] = counts.get(what, 0) + 1

    async def _say(self, request: Request) -> None:
        said = _json(request.arguments, SAID_BYTES_MAX)
        told: dict[str, JsonValue] = {_SAID[request.kind]: request.name}
        arguments = cast("Mapping[str, JsonValue]", request.arguments)
        told |= {"data": arguments["data"]} if request.kind == "emit" else {"details": dict(arguments)}
        seq = await self._lease.ask(request.number, request.kind, request.name, said, jsonb(told))
        await self._publisher.poke(UUID(self._permit.tenant_id), UUID(self._permit.run_id), seq)

    async def _call(self, request: Request) -> object:
        arguments = _json(request.arguments, ARGUMENTS_BYTES_MAX)
        await self._lease.ask(request.number, "tool", request.name, arguments, "{}")
        await self._until_answered(request.number)
        answer = await self._lease.read_answer(request.number)
        if answer is None:
            raise CallUnanswered("the run does not answer any more")
        ok, code, content = answer
        if not ok:
            raise CallRefused(code, content or code)
        return _value(content)

    async def _until_answered(self, number: int) -> None:
        """Waits until the run has answered, no longer than anybody hears it: the call itself goes on to its end (LAW 4)."""
        asking = asyncio.create_task(self._ask_run(number))
        try:
            await asyncio.wait([asking], timeout=max(self._ends_at - time.monotonic(), 0))
            if not asking.done():
                raise CallUnanswered("the job's time ran out before the run had answered")
            asking.result()
        finally:
            asking.cancel()

    async def _ask_run(self, number: int) -> None:
        """Tells the run of a request, as often as it takes: under one id it counts once (LAW 9)."""
        run: Any = self._client.get_workflow_handle(
            self._permit.run_id
        )  # Any: the workflow's code is none of this room
        call = CodeCall(hold_id=self._permit.hold_id, number=number)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((RPCError, WorkflowUpdateRPCTimeoutOrCancelledError)),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        ):
            with attempt:
                try:
                    await run.execute_update(
                        names.UPDATE_CODE_CALL, call, id=f"{call.hold_id}:{number}", result_type=bool
                    )
                except WorkflowUpdateFailedError as error:
                    raise CallUnanswered("the run does not take this call") from error
                except RPCError as error:
                    if error.status != RPCStatusCode.NOT_FOUND:
                        raise
                    raise CallUnanswered("the run has ended") from error


def _json(arguments: Mapping[str, object], bytes_max: int) -> bytes:
    try:
        encoded = orjson.dumps(dict(arguments))
    except TypeError as error:
        raise RequestInvalid(f"the arguments are not such as a tool takes: {error}") from None
    if len(encoded) > bytes_max:
        raise RequestTooLarge(f"this may have {bytes_max} bytes of JSON")
    return encoded


def _value(content: str) -> object:
    """Returns what a tool answered: an object or a list if its words are JSON of one, else the words as they are."""
    if content[:1] in "{[":
        try:
            value: object = orjson.loads(content)
        except orjson.JSONDecodeError:
            return content
        return value
    return content
