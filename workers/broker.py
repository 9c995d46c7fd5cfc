"""`python -m workers.broker`: redeems a permit and hands out, for that one execution, the credential it names.

It alone holds the vault's key. It has the public key of permits only: it can verify one, and make none.
"""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from math import ceil
from typing import TypeVar, cast
from uuid import UUID

import orjson
import structlog
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from activities.broker import ModelMaterial, RedeemReply
from holdfast import logs, permits
from holdfast.actions import build
from holdfast.actions.run_facts import RunReader
from holdfast.artefacts.bucket import Bucket
from holdfast.artefacts.signed import Asked, Signed
from holdfast.artefacts.storage import StorageRefused
from holdfast.connections import KEEP_ALIVE_S
from holdfast.contracts import names
from holdfast.database.engine import create_engine, transaction
from holdfast.database.version import require_schema
from holdfast.decisions.record import record_event
from holdfast.errors import (
    ConfigurationInvalid,
    HoldfastError,
    LeaseLost,
    NotFound,
    NotPermitted,
    PermitInvalid,
    PermitUsed,
    RequestInvalid,
    Unavailable,
)
from holdfast.failpoint import failpoint
from holdfast.ids import PLATFORM_TENANT_ID
from holdfast.ledger.service import Ledger
from holdfast.permits import Permit
from holdfast.providers.model import Wire
from holdfast.runs.definition import AgentDefinition
from holdfast.settings import BrokerSettings, load, read_key_file, warn_of_misspellings
from holdfast.tenancy.keys import authenticate
from holdfast.tenancy.principals import Principal
from holdfast.tools.definition import OwnTool
from holdfast.tools.toolset import Toolset
from holdfast.vault import Vault
from holdfast_verdict.canonical import JsonValue, canonical_bytes
from workers import process

log = structlog.get_logger("broker")

AskedT = TypeVar("AskedT", bound=Asked)

_BODY_BYTES_MAX = 64 * 1024
_BACKLOG = 2048
_READ_HELD = text("""
    SELECT h.action, r.ended_at, r.cancel_requested_at, r.agent_name, r.agent_version, r.tools, t.slug AS tenant FROM holds h
    JOIN runs r ON r.tenant_id = h.tenant_id AND r.run_id = h.run_id JOIN tenants t ON t.tenant_id = h.tenant_id
    WHERE h.tenant_id = :tenant_id AND h.hold_id = :hold_id AND h.run_id = :run_id AND h.state = 'held'
""")
_READ_RUNNING_CODE = text("""
    SELECT action FROM holds WHERE tenant_id = :tenant_id AND hold_id = :hold_id AND kind = 'code.exec' AND state = 'executing'
      AND lease_hash = sha256(:lease_token) AND lease_expires_at > clock_timestamp()
""")


class ExecutionAsked(Asked):
    """What an execution asks an address for, and by which right."""

    tenant_id: str
    hold_id: str
    lease_token: str


@dataclass(frozen=True, slots=True)
class Broker:
    """What redeeming needs."""

    engine: AsyncEngine
    reader: RunReader
    vault: Vault
    permit_key: Ed25519PublicKey
    ledger: Ledger
    bucket: Bucket | None = None

    async def redeem(self, token: str, workflow_id: str, activity_type: str) -> RedeemReply:
        """Redeems a permit: held → executing, once (LAW 1); what is refused is recorded.

        Raises:
            HoldfastError: The permit is worth nothing here and now.
        """
        permit: Permit | None = None
        try:
            # by this process's clock, to refuse early; the hold's own expiry is checked again by PostgreSQL's (rule 7)
            permit = permits.verify(token, self.permit_key, now_ms=int(time.time() * 1000))
            structlog.contextvars.bind_contextvars(
                tenant_id=permit.tenant_id,
                run_id=permit.run_id,
                step=permit.step,
                try_number=permit.try_number,
                hold_id=permit.hold_id,
            )
            if permit.run_id != workflow_id:
                raise PermitInvalid("the permit belongs to another run")
            if names.EXECUTING_ACTIVITIES.get(permit.kind) != activity_type:
                raise PermitInvalid(f"a permit for {permit.kind} does not allow {activity_type}")
            reply = await self._redeem(permit)
        except Unavailable:
            raise  # nothing was decided about the permit
        except HoldfastError as error:
            await self._record_refusal(permit, error, workflow_id, activity_type)
            raise
        log.info("permit.redeemed", kind=permit.kind)
        return reply

    async def _redeem(self, permit: Permit) -> RedeemReply:
        tenant_id, run_id, hold_id = UUID(permit.tenant_id), UUID(permit.run_id), UUID(permit.hold_id)
        async with transaction(self.engine, tenant_id) as connection:
            held = (
                await connection.execute(_READ_HELD, {"tenant_id": tenant_id, "run_id": run_id, "hold_id": hold_id})
            ).one_or_none()
            if held is None:
                raise PermitUsed("the permit was used, has expired, or its hold is gone", remedy="reserve anew")
            if held.ended_at is not None:
                raise PermitInvalid("the run has ended")
            if held.cancel_requested_at is not None:
                raise PermitInvalid("the run was cancelled")
            action: dict[str, JsonValue] = orjson.loads(held.action)
            tools = await self.reader.tools(connection, tenant_id, held.tools)
            material: ModelMaterial | None = None
            own: OwnTool | None = None
            credential_name = ""  # what runs code gets no credential at all (LAW 6)
            if permit.kind == "llm.call":
                agent = await self.reader.agent(connection, tenant_id, held.agent_name, held.agent_version)
                material, credential_name = await _material(connection, tenant_id, run_id, agent, tools, action)
            elif permit.kind == "tool.call":
                tool = tools[str(action["tool"])]
                credential_name = tool.credential or ""
                own = tool if isinstance(tool, OwnTool) else None
            credential = await self.vault.open(connection, tenant_id, credential_name) if credential_name else {}
        # last, so that whatever is missing above leaves the hold as it was; run and stops are looked at again there, under lock
        redemption = await self.ledger.redeem(tenant_id, hold_id, bytes.fromhex(permit.digest))
        await failpoint("redeem.in", permit.kind)
        return RedeemReply(
            action=redemption.action.decode(),
            lease_token=base64.b64encode(redemption.lease_token).decode(),
            lease_ms=redemption.lease_ms,
            tenant=held.tenant,
            # LAW 9: from tenant, run and step only, so that every try of a step is the same to the outside
            idempotency_key=f"{permit.tenant_id}:{permit.run_id}:{permit.step}",
            credential=credential,
            material=material,
            tool=None if own is None else own.form,
        )

    async def sign(self, tenant_id: UUID, asked: Asked) -> Signed:
        """Signs an address of one content of a tenant.

        Raises:
            StorageRefused: No object storage is set.
        """
        if self.bucket is None:
            raise StorageRefused(
                "no object storage is set",
                remedy="set HOLDFAST_OBJECTS_FOLDER for API and executors, or HOLDFAST_OBJECTS_BUCKET for the broker",
            )
        return Signed(url=await self.bucket.sign(tenant_id, asked))

    async def sign_for_execution(self, tenant_id: UUID, hold_id: UUID, lease_token: bytes, asked: Asked) -> Signed:
        """Signs for code that runs: it reads what its action names, and writes what it has made (LAW 1).

        Raises:
            LeaseLost: It runs no longer, by PostgreSQL's clock, or the lease is another one.
            NotPermitted: It is to read what was not decided on.
        """
        async with transaction(self.engine, tenant_id) as connection:
            action = (
                await connection.execute(
                    _READ_RUNNING_CODE, {"tenant_id": tenant_id, "hold_id": hold_id, "lease_token": lease_token}
                )
            ).scalar_one_or_none()
        if action is None:
            raise LeaseLost("the lease is lost: nothing is signed")
        files = cast("list[Mapping[str, JsonValue]]", orjson.loads(action)["args"]["files"])
        named = {(file["sha256"], file["size_bytes"]) for file in files}
        if asked.method == "GET" and (asked.sha256, asked.size_bytes) not in named:
            raise NotPermitted("the action names no such file")
        return await self.sign(tenant_id, asked)

    async def _record_refusal(
        self, permit: Permit | None, error: HoldfastError, workflow_id: str, activity_type: str
    ) -> None:
        log.warning("permit.refused", code=error.code, workflow_id=workflow_id[:200], activity_type=activity_type[:200])
        # a permit that does not verify names no tenant that could be believed
        tenant_id = UUID(permit.tenant_id) if permit else PLATFORM_TENANT_ID
        facts: dict[str, JsonValue] = {"workflow_id": workflow_id[:200], "activity_type": activity_type[:200]}
        if permit is not None:
            facts |= {"run_id": permit.run_id, "step": permit.step, "try": permit.try_number, "hold_id": permit.hold_id}
        async with transaction(self.engine, tenant_id) as connection:
            await record_event(
                connection,
                tenant_id,
                kind="permit",
                verdict="deny",
                code=error.code,
                message=error.message,
                facts=facts,
                run_id=UUID(permit.run_id) if permit else None,
            )


async def _material(
    connection: AsyncConnection,
    tenant_id: UUID,
    run_id: UUID,
    agent: AgentDefinition,
    tools: Toolset,
    action: Mapping[str, JsonValue],
) -> tuple[ModelMaterial, str]:
    """Returns the texts of a model call, and the name of the credential it needs."""
    args = action["args"]
    assert isinstance(args, dict)  # an llm.call that build() made, by its digest
    head = bytes.fromhex(str(args["transcript"]))
    request = await build.model_request(
        connection,
        tenant_id,
        run_id,
        agent,
        tools,
        head,
        wire=cast("Wire", args["wire"]),
        model=str(args["model"]),
        max_tokens=cast(int, args["max_tokens"]),
    )
    material = ModelMaterial(
        system=request.system,
        tools=[
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in request.tools
        ],
        entries=[canonical_bytes(entry).decode() for entry in request.entries],
    )
    # the wire of the action, not the agent's first choice: it may be a fallback's
    return material, f"provider.{request.wire}"


def _problem(error: HoldfastError) -> JSONResponse:
    return JSONResponse(
        {"code": error.code, "detail": error.message, "remedy": error.remedy},
        status_code=error.status,
        media_type="application/problem+json",
    )


async def _body(request: Request) -> dict[str, JsonValue]:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > _BODY_BYTES_MAX:
            raise RequestInvalid(f"the body is over {_BODY_BYTES_MAX} bytes")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestInvalid(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestInvalid("the body is not a JSON object")
    return value


async def _principal(broker: Broker, request: Request) -> Principal:
    """Returns who asks; the broker believes the API key itself, not the API that passes it on."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return await authenticate(broker.engine, key if scheme.lower() == "bearer" else "")


async def _vault_principal(broker: Broker, request: Request) -> Principal:
    """Returns who asks.

    Raises:
        NotPermitted: The key's roles do not include the vault.
    """
    principal = await _principal(broker, request)
    if not {"owner", "admin"} & set(principal.roles):
        raise NotPermitted("only owners and admins may touch the vault")
    return principal


def _asked(body: Mapping[str, JsonValue], kind: type[AskedT]) -> AskedT:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise RequestInvalid(f"this asks for no address of a content ({error.error_count()} faults)") from None


def application(broker: Broker) -> Starlette:
    """Builds the broker's HTTP surface: /redeem for executors, /vault for the API on behalf of people, objects for both."""

    async def objects(request: Request) -> Response:
        principal = await _principal(broker, request)
        signed = await broker.sign(principal.tenant_id, _asked(await _body(request), Asked))
        return Response(signed.model_dump_json(), media_type="application/json")

    async def execution_objects(request: Request) -> Response:
        asked = _asked(await _body(request), ExecutionAsked)
        try:
            tenant_id, hold_id = UUID(asked.tenant_id), UUID(asked.hold_id)
            lease_token = base64.b64decode(asked.lease_token, validate=True)
        except ValueError:
            raise RequestInvalid("tenant_id, hold_id or lease_token is none") from None
        signed = await broker.sign_for_execution(tenant_id, hold_id, lease_token, asked)
        return Response(signed.model_dump_json(), media_type="application/json")

    async def redeem(request: Request) -> Response:
        body = await _body(request)
        fields = [body.get(name) for name in ("permit", "workflow_id", "activity_type")]
        if not all(isinstance(field, str) for field in fields):
            raise RequestInvalid("permit, workflow_id and activity_type must be text")
        reply = await broker.redeem(*map(str, fields))
        return Response(reply.model_dump_json(), media_type="application/json")

    async def vault_list(request: Request) -> Response:
        principal = await _vault_principal(broker, request)
        async with transaction(broker.engine, principal.tenant_id) as connection:
            entries = await broker.vault.names(connection, principal.tenant_id)
        return JSONResponse({"entries": [{"name": name, "updated_at": at} for name, at in entries]})

    async def vault_entry(request: Request) -> Response:
        principal = await _vault_principal(broker, request)
        name: str = request.path_params["name"]
        put = request.method == "PUT"
        credential = await _body(request) if put else {}
        async with transaction(broker.engine, principal.tenant_id) as connection:
            if put:
                await broker.vault.put(connection, principal.tenant_id, name, credential)
            elif not await broker.vault.delete(connection, principal.tenant_id, name):
                raise NotFound(f"the vault has no entry {name}")
            await record_event(
                connection,
                principal.tenant_id,
                kind="vault",
                verdict="allow",
                code="vault.put" if put else "vault.deleted",
                message=f"entry {name} was {'stored' if put else 'deleted'}",
                facts={"name": name, "user_id": str(principal.user_id)},
            )
        return Response(status_code=204)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HoldfastError)  # registered for these only
        return _problem(error)

    async def alive(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/redeem", redeem, methods=["POST"]),
            Route("/objects", objects, methods=["POST"]),
            Route("/executions/objects", execution_objects, methods=["POST"]),
            Route("/vault", vault_list, methods=["GET"]),
            Route("/vault/{name}", vault_entry, methods=["PUT", "DELETE"]),
            Route("/healthz", alive, methods=["GET"]),
        ],
        exception_handlers={HoldfastError: refused},
    )


class _Server(uvicorn.Server):
    """A server that leaves the process's signals alone: they belong to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See `uvicorn.Server`."""
        yield


class BrokerServer:
    """The broker's HTTP server, a part of a process. It listens from the beginning, and answers once it runs.

    Args:
        broker: What it serves.
        host: Where to listen.
        port: Where to listen; 0 takes a free one.
        shutdown_grace_ms: How long requests may go on after `stop`.

    Raises:
        ConfigurationInvalid: It cannot listen there.
    """

    def __init__(self, broker: Broker, host: str, port: int, shutdown_grace_ms: int) -> None:
        try:
            self._socket = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
            )
        except OSError as error:
            raise ConfigurationInvalid(
                f"the broker cannot listen on {host}:{port}: {error.strerror}", remedy="is the port taken?"
            ) from None
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        self._http = _Server(
            uvicorn.Config(
                application(broker),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=ceil(shutdown_grace_ms / 1000),
            )
        )

    async def run(self) -> None:
        """Serves until stopped."""
        await self._http.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Lets requests end, and takes no more."""
        self._http.should_exit = True


@asynccontextmanager
async def brokering(settings: BrokerSettings) -> AsyncIterator[BrokerServer]:
    """Yields the broker, listening; it serves while its `run` does.

    Raises:
        ConfigurationInvalid: A key file or a setting of S3 is wrong, or the port is taken.
    """
    vault = Vault(read_key_file(settings.vault_key_file))
    permit_key = permits.public_key(read_key_file(settings.permit_public_key_file))
    bucket = Bucket.of(settings)
    engine = create_engine(settings.broker_database_url, process="broker")
    try:
        await require_schema(engine)
        yield BrokerServer(
            Broker(engine, RunReader(), vault, permit_key, Ledger(engine), bucket),
            settings.broker_host,
            settings.broker_port,
            settings.shutdown_grace_ms,
        )
    finally:
        await engine.dispose()


async def main() -> int:
    """Runs until a signal to stop."""
    settings = load(BrokerSettings)
    logs.configure("broker", settings.log_level)
    warn_of_misspellings(BrokerSettings)
    async with brokering(settings) as broker:
        log.info("ready", address=broker.address)
        code = await process.run_until_stopped(broker)
    return process.leave(code)


if __name__ == "__main__":
    process.main(main())
