"""Runs: admit, look at, steer, cancel, wait for."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Literal, Self
from uuid import UUID

import structlog
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, model_validator
from temporalio.service import RPCError

from api.authentication import Caller, own_only
from api.context import Context, Parts
from api.forms import (
    TEXT_LENGTH_MAX,
    Answer,
    Cursor,
    Form,
    IdempotencyKey,
    Name,
    Page,
    PageSize,
    Time,
    Usd,
    claim_for,
    id_cursor,
    page_of,
    usd,
)
from holdfast.artefacts.objects import ObjectFolder
from holdfast.artefacts.signed import BrokerSigner, SignedStorage
from holdfast.artefacts.storage import ObjectStorage
from holdfast.database.engine import transaction
from holdfast.errors import RequestInvalid
from holdfast.money import parse_usd
from holdfast.runs import reading, service, signals, steering
from holdfast.runs.reading import RunView
from holdfast.runs.start import start_run
from holdfast.tenancy.principals import ADMIN, AGENT, DEVELOPER, OWNER
from holdfast.timeline.follow import Follower, Position
from holdfast.tools.code import FILES_MAX, FileName

router = APIRouter(prefix="/v1/runs", tags=["runs"])
_log = structlog.get_logger("api.runs")

STARTERS = (OWNER, ADMIN, DEVELOPER, AGENT)
"""Roles that may start, steer and cancel runs."""
_WAIT_DEFAULT_S = 30

Status = Literal[
    "pending", "running", "waiting", "paused", "succeeded", "failed", "cancelled", "timed_out", "terminated"
]


class CreateRun(Form):
    """What to run."""

    agent: Name
    input: str = Field(min_length=1, max_length=TEXT_LENGTH_MAX, description="what the agent is asked")
    project: Name | None = Field(default=None, description="default: the key's own project")
    cap_usd: Usd | None = Field(default=None, description="the run's own money cap; default and bound: the agent's")
    guaranteed: bool = Field(default=False, description="hold the whole cap for this run at once")
    deadline_s: int | None = Field(default=None, ge=1, le=31_536_000, description="default and bound: the agent's")
    parent_run_id: UUID | None = Field(
        default=None,
        description="the run that this is a part of, of the same project, user and role: its cap gives the whole cap of this run "
        "at once, as for `guaranteed`, and gets back what this run did not spend",
        strict=False,
    )
    follows_latest: bool = Field(
        default=False,
        description="decide each action by the version of the policy that is active then, and not by the one that is active now; a "
        "child run is decided as its parent is",
    )
    files: dict[FileName, str] = Field(
        default={},
        max_length=FILES_MAX,
        description="files that its code can be given by name; contents in base64. The model is told what there is",
    )


class CreatedRun(Answer):
    """A run that was admitted; it starts by itself."""

    run_id: UUID
    agent: str
    agent_version: int
    role: str
    role_version: int
    project: str
    user: str
    cap_nano_usd: int
    guaranteed: bool
    parent_run_id: UUID | None = None
    policy_id: UUID | None = Field(
        default=None, description="the version of the policy that decides; null: none, or the active one"
    )
    follows_latest: bool = False
    decision_id: UUID
    created_at: Time
    deadline_at: Time


class Run(Answer):
    """A run as it stands."""

    run_id: UUID
    status: Status
    status_code: str = Field(description="why it ended as it did")
    status_message: str
    simulated: bool = Field(description="whether a simulated provider answered")
    project: str
    user: str
    agent: str
    agent_version: int
    role: str
    role_version: int
    parent_run_id: UUID | None
    guaranteed: bool
    created_at: Time
    started_at: Time | None
    cancel_requested_at: Time | None
    deadline_at: Time
    ended_at: Time | None
    newest_event: int
    cap_nano_usd: int | None
    held_nano_usd: int
    spent_nano_usd: int
    cap_usd: str | None
    held_usd: str
    spent_usd: str

    @classmethod
    def of(cls, view: RunView) -> Self:
        """Builds the answer."""
        fields = {name: getattr(view, name) for name in cls.model_fields if not name.endswith("_usd") or "nano" in name}
        cap = None if view.cap_nano_usd is None else usd(view.cap_nano_usd)
        return cls(**fields, cap_usd=cap, held_usd=usd(view.held_nano_usd), spent_usd=usd(view.spent_nano_usd))


class RunInput(Answer):
    """Something a person said to a run."""

    seq: int
    mode: str
    content: str
    user: str
    created_at: Time


class RunDetail(Run):
    """A run with what was said to it."""

    inputs: list[RunInput]


class SendInput(Form):
    """Something to tell a run."""

    mode: Literal["followup", "steer", "pause", "resume"] = Field(
        description="`followup`: after this turn; `steer`: at the next step; `pause`, `resume`: stand still, go on"
    )
    content: str = Field(default="", max_length=TEXT_LENGTH_MAX)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        speaks = self.mode in ("followup", "steer")
        if speaks and not self.content:
            raise ValueError(f"`content`: a {self.mode} says something")
        if not speaks and self.content:
            raise ValueError(f"`content`: a {self.mode} says nothing")
        return self


class SentInput(Answer):
    """An input that the run will get."""

    run_id: UUID
    seq: int
    mode: str


async def hear(parts: Context, delivery: str, sending: object) -> None:
    """Awaits a delivery to Temporal; if Temporal is away, the outbox keeps it and a sweeper delivers it."""
    assert asyncio.iscoroutine(sending)
    try:
        await sending
    except (RPCError, RuntimeError, OSError) as error:  # the SDK's word for a connection that fails is RuntimeError
        _log.warning("temporal.unavailable", delivery=delivery, error=type(error).__name__, effect="delivered later")


def object_storage(parts: Context, request: Request) -> ObjectStorage:
    """Returns object storage: the folder, or S3 through the broker, which believes the caller's own key and no API (LAW 5)."""
    if parts.settings.objects_folder is not None:
        return ObjectFolder(parts.settings.objects_folder)
    headers = {"authorization": request.headers.get("authorization", "")}
    return SignedStorage(BrokerSigner(parts.broker, "/objects", headers=headers), parts.s3)


def _content(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise RequestInvalid(f"files.{name}: is not base64") from None


@router.post("", status_code=201, summary="Admit a run")
async def create_run(
    body: CreateRun,
    request: Request,
    response: Response,
    caller: Caller,
    parts: Parts,
    idempotency_key: IdempotencyKey = None,
) -> CreatedRun:
    """Checks the economics, holds a guaranteed budget, records the decision and starts the run.

    402 if nothing useful could be afforded. The same Idempotency-Key with the same body admits one run.
    """
    caller.require(*STARTERS)
    # a key that was sent before a field was there is still the same request
    since = {name for name in ("follows_latest", "files") if not getattr(body, name)}
    claim = claim_for(caller, "POST /v1/runs", idempotency_key, body.model_dump(mode="json", exclude=since))
    files = {name: _content(name, text) for name, text in body.files.items()}
    if files:
        objects = object_storage(parts, request)
        for content in files.values():
            await objects.put(caller.tenant_id, content)
    admission = service.RunRequest(
        agent=body.agent,
        content=body.input,
        project=body.project,
        cap_nano_usd=None if body.cap_usd is None else parse_usd(body.cap_usd),
        guaranteed=body.guaranteed,
        deadline_s=body.deadline_s,
        parent_run_id=body.parent_run_id,
        follows_latest=body.follows_latest,
        files=files,
        least_tier=parts.settings.sandbox_tier,
    )
    admitted = await service.admit(parts.engine, caller, admission, claim)
    structlog.contextvars.bind_contextvars(run_id=str(admitted.run_id))
    await parts.publisher.poke(caller.tenant_id, admitted.run_id, admitted.timeline_seq)
    await hear(parts, "start", start_run(parts.temporal, parts.engine, caller.tenant_id, admitted.run_id))
    response.headers["location"] = f"/v1/runs/{admitted.run_id}"
    return CreatedRun.model_validate(admitted.body)


@router.get("", summary="List runs, newest first")
async def list_runs(
    caller: Caller,
    parts: Parts,
    status: Status | None = None,
    agent: Annotated[str | None, Query(max_length=63)] = None,
    cursor: Cursor = None,
    size: PageSize = 50,
) -> Page[Run]:
    """Lists the tenant's runs; a key with the role `agent` only sees those of its own user."""
    only = own_only(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        views = await reading.list_runs(
            connection,
            caller.tenant_id,
            before=id_cursor(cursor),
            count=size + 1,
            status=status,
            agent=agent,
            only_of=only.user_id if only else None,
        )
    return page_of([Run.of(view) for view in views], [str(view.run_id) for view in views], size)


async def read_visible(caller: Caller, parts: Context, run_id: UUID) -> RunView:
    """Returns a run if the caller may see it.

    Raises:
        NotFound: There is none for this caller (LAW 5).
    """
    only = own_only(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return await reading.read_run(connection, caller.tenant_id, run_id, only_of=only.user_id if only else None)


@router.get("/{run_id}", summary="Look at a run")
async def get_run(run_id: UUID, caller: Caller, parts: Parts) -> RunDetail:
    """Shows where a run stands, what it has spent and what was said to it."""
    view = await read_visible(caller, parts, run_id)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        inputs = await reading.list_inputs(connection, caller.tenant_id, run_id)
    return RunDetail(**Run.of(view).model_dump(), inputs=[RunInput.model_validate(item) for item in inputs])


@router.post("/{run_id}/cancel", status_code=202, summary="Cancel a run")
async def cancel_run(run_id: UUID, caller: Caller, parts: Parts) -> Run:
    """Asks the run and all that it started to stop: what is begun is settled, nothing new begins. Asking again changes nothing."""
    caller.require(*STARTERS)
    for asked in await steering.request_cancel(parts.engine, caller, run_id):
        await parts.publisher.poke(caller.tenant_id, asked.run_id, asked.seq)
        delivery = signals.deliver_cancel(parts.temporal, parts.engine, caller.tenant_id, asked.run_id)
        await hear(parts, "cancel", delivery)
    return Run.of(await read_visible(caller, parts, run_id))


@router.post("/{run_id}/input", status_code=201, summary="Tell a run something")
async def send_input(
    run_id: UUID, body: SendInput, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None
) -> SentInput:
    """Adds a message, or makes the run stand still or go on. What is accepted reaches the run, or the answer is 409."""
    caller.require(*STARTERS)
    operation = f"POST /v1/runs/{run_id}/input"
    claim = claim_for(caller, operation, idempotency_key, body.model_dump(mode="json"))
    answer, newest = await steering.add_input(parts.engine, caller, run_id, body.mode, body.content, claim)
    sent = SentInput.model_validate(answer)
    await parts.publisher.poke(caller.tenant_id, run_id, newest)
    delivery = signals.deliver_input(parts.temporal, parts.engine, caller.tenant_id, run_id, sent.seq)
    await hear(parts, "input", delivery)
    return sent


@router.get("/{run_id}/wait", summary="Wait until a run has ended")
async def wait_for_run(
    run_id: UUID,
    caller: Caller,
    parts: Parts,
    timeout_s: Annotated[int, Query(ge=0, le=120, description="answer after so long at the latest")] = _WAIT_DEFAULT_S,
) -> Run:
    """Answers when the run has ended, or with where it stands when the time is over."""
    view = await read_visible(caller, parts, run_id)
    if view.ended_at is None and timeout_s > 0:
        # the heartbeat is how the loop notices that the process shall end
        position = Position(view.newest_event)
        follower = Follower(parts.engine, parts.redis, caller.tenant_id, run_id, position, heartbeat_ms=1_000)
        try:
            async with asyncio.timeout(timeout_s):
                async for _ in follower.events():
                    if parts.stopping.is_set():
                        break
        except TimeoutError:
            pass
        view = await read_visible(caller, parts, run_id)
    return Run.of(view)
