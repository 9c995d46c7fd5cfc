"""The executor's way to the broker: a permit goes there, and what it allows comes back."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import cast
from uuid import UUID

import httpx
import orjson
from pydantic import BaseModel, ConfigDict, JsonValue
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from activities.execution import Execution
from activities.lease import Lease
from holdfast.actions.build import llm_action
from holdfast.artefacts import signed
from holdfast.artefacts.signed import BrokerSigner, SignedStorage
from holdfast.errors import CredentialMissing, PermitInvalid, PermitUsed, StopActive, Unavailable
from holdfast.failpoint import failpoint
from holdfast.ledger.executions import Executions
from holdfast.permits import Permit
from holdfast.providers.model import ModelRequest, ToolSpec, Wire
from holdfast.tools.definition import OwnTool, ToolForm
from holdfast.tools.toolset import BUILTIN, Tool
from holdfast.transcript import verify
from holdfast_verdict.canonical import JsonValue as Json
from holdfast_verdict.canonical import canonical_bytes

_WAIT_MAX_S = 20.0


class ModelMaterial(BaseModel):
    """The texts of a model call, which its canonical action names by digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str
    tools: list[dict[str, JsonValue]]
    entries: list[str]


class RedeemReply(BaseModel):
    """What the broker hands out for one execution."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: str
    lease_token: str
    lease_ms: int
    tenant: str
    idempotency_key: str
    credential: dict[str, JsonValue]
    material: ModelMaterial | None = None
    tool: ToolForm | None = None


_REFUSALS: dict[str, type[PermitInvalid | CredentialMissing | StopActive]] = {
    PermitInvalid.code: PermitInvalid,
    PermitUsed.code: PermitUsed,
    CredentialMissing.code: CredentialMissing,
    StopActive.code: StopActive,
}


class BrokerClient:
    """Redeems permits at the broker."""

    def __init__(self, url: str, engine: AsyncEngine) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=10.0, trust_env=False)
        self._executions = Executions(engine)
        self._s3 = signed.connect()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()
        await self._s3.aclose()

    async def redeem(self, token: str, permit: Permit | None, *, workflow_id: str, activity_type: str) -> Execution:
        """Redeems a permit.

        Args:
            token: The permit as it came.
            permit: What it says, if it verified here; the broker verifies on its own, and records what it refuses.
            workflow_id: The workflow that schedules the activity.
            activity_type: The activity.

        Raises:
            PermitInvalid: The broker refuses, or what it answers is not what the permit was signed over.
            CredentialMissing: The tenant's vault lacks what the action needs.
            StopActive: An emergency stop is on.
            Unavailable: The broker does not answer.
        """
        await failpoint("redeem.before", permit.kind if permit else "")
        body = {"permit": token, "workflow_id": workflow_id, "activity_type": activity_type}
        response: httpx.Response | None = None
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(httpx.ConnectError),  # nothing was sent: safe to ask again
                wait=wait_random_exponential(multiplier=0.1, max=1.0),
                stop=stop_after_delay(_WAIT_MAX_S),
                reraise=True,
            ):
                with attempt:
                    response = await self._http.post("/redeem", json=body)
        except httpx.HTTPError as error:
            raise Unavailable(f"the broker does not answer ({type(error).__name__})") from None
        assert response is not None  # AsyncRetrying ends with an answer or an error
        if response.is_error:
            problem = orjson.loads(response.content) if response.content.startswith(b"{") else {}
            refusal = _REFUSALS.get(str(problem.get("code")))
            if refusal is None:
                raise Unavailable(f"the broker failed: {problem.get('code', response.status_code)}")
            raise refusal(str(problem.get("detail", "the broker refused")))
        if permit is None:
            raise PermitInvalid("the broker accepted a permit that does not verify here")
        await failpoint("redeem.after", permit.kind)
        return self._execution(permit, RedeemReply.model_validate_json(response.content))

    def _execution(self, permit: Permit, reply: RedeemReply) -> Execution:
        action: dict[str, Json] = orjson.loads(reply.action)
        # INVARIANT (LAW 1): what runs is what was decided, byte for byte, whatever came over the wire
        if hashlib.sha256(canonical_bytes(action)).hexdigest() != permit.digest:
            raise PermitInvalid("the action is not the one the permit was given for")
        token = base64.b64decode(reply.lease_token)
        lease = Lease(self._executions, UUID(permit.hold_id), token, reply.lease_ms, permit.kind)
        request = None if reply.material is None else _request(action, reply.material)
        credential = cast("dict[str, Json]", reply.credential)  # the same values under pydantic's name
        tool = None if permit.kind != "tool.call" else _tool(action, reply.tool)
        objects = self._objects(permit, reply.lease_token) if permit.kind == "code.exec" else None
        return Execution(permit, action, credential, lease, reply.tenant, reply.idempotency_key, request, tool, objects)

    def _objects(self, permit: Permit, lease_token: str) -> SignedStorage:
        """Object storage for one execution: each address is asked for under its lease, which the broker checks (LAW 1)."""
        fields = {"tenant_id": permit.tenant_id, "hold_id": permit.hold_id, "lease_token": lease_token}
        return SignedStorage(BrokerSigner(self._http, "/executions/objects", fields=fields), self._s3)


def _tool(action: Mapping[str, Json], form: ToolForm | None) -> Tool:
    name = str(action["tool"])
    if form is None:
        if name not in BUILTIN or "definition" in action:
            raise PermitInvalid(f"the definition of {name} did not come with the permit")
        return BUILTIN[name]
    tool = OwnTool(name, 0, form)
    # INVARIANT (LAW 1): the definition is the one that was decided on, whatever came over the wire
    if tool.digest != action.get("definition"):
        raise PermitInvalid(f"the definition of {name} is not the one the permit was given for")
    return tool


def _request(action: Mapping[str, Json], material: ModelMaterial) -> ModelRequest:
    args = action["args"]
    assert isinstance(args, dict)  # the action's digest was checked: it is an llm.call that build() made
    contents = [entry.encode() for entry in material.entries]
    head = bytes.fromhex(str(args["transcript"]))
    verify(contents, head)
    request = ModelRequest(
        wire=cast("Wire", args["wire"]),
        model=str(args["model"]),
        max_tokens=cast(int, args["max_tokens"]),
        system=material.system,
        entries=[orjson.loads(content) for content in contents],
        tools=[ToolSpec(**tool) for tool in material.tools],  # type: ignore[arg-type]  # checked by digest just below
    )
    if llm_action(request, head) != action:
        raise PermitInvalid("system prompt or tools are not the ones the permit was given for")
    return request
