"""What a run would cost to begin: its first call's worst case against every cap that applies. Nothing is reserved."""

from __future__ import annotations

from typing import Self
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from api.authentication import Caller
from api.context import Parts
from api.forms import TEXT_LENGTH_MAX, Answer, Form, Name, Usd, usd
from api.runs import STARTERS
from holdfast.money import parse_usd
from holdfast.runs import service
from holdfast.runs.service import RunEstimate

router = APIRouter(prefix="/v1", tags=["runs"])


class EstimateRun(Form):
    """What would be run."""

    agent: Name
    input: str = Field(min_length=1, max_length=TEXT_LENGTH_MAX, description="what the agent would be asked")
    project: Name | None = Field(default=None, description="default: the key's own project")
    cap_usd: Usd | None = Field(default=None, description="the run's own money cap; default and bound: the agent's")
    guaranteed: bool = Field(default=False, description="whether the whole cap would be held at once")


class CapShare(Answer):
    """What the first call would take from one cap."""

    cap_id: UUID
    scope_kind: str
    scope_name: str
    unit: str
    window: str
    limit_amount: int | None = Field(description="null if unlimited")
    available: int | None = Field(description="what a new hold could take now; null if unlimited")
    needed: int = Field(description="what the first call would hold here")
    affords: bool


class Estimate(Answer):
    """What a run's first call would hold, and whether the run would be admitted now."""

    agent: str
    agent_version: int
    role: str
    role_version: int
    project: str
    user: str
    wire: str
    model: str
    dearest_model: str | None = Field(
        description="the target that the amounts below are for: the dearest of the model and its fallbacks"
    )
    admitted: bool = Field(description="whether `POST /v1/runs` would admit it at this moment")
    code: str = Field(description="`admission.affordable`, or why not")
    message: str
    input_tokens_bound: int | None = Field(description="the most input tokens that the provider can count")
    output_tokens_bound: int | None
    first_call_nano_usd: int | None = Field(
        description="what the first call would hold; null if a target has no known price"
    )
    first_call_usd: str | None
    floor_nano_usd: int = Field(description="worst case of a smallest useful call, which admission asks for")
    floor_usd: str
    run_cap_nano_usd: int
    run_cap_usd: str
    run_affords: bool = Field(description="whether the run's own cap affords the first call")
    caps: list[CapShare]

    @classmethod
    def of(cls, found: RunEstimate, user: str) -> Self:
        """Builds the answer."""
        call, model = found.first_call, found.agent.definition.model
        cost = None if call is None else call.max_cost_nano_usd
        return cls(
            agent=found.agent.name,
            agent_version=found.agent.version,
            role=found.role.name,
            role_version=found.role.version,
            project=found.project,
            user=user,
            wire=model.wire,
            model=model.name,
            dearest_model=None if call is None else call.prices_used.model,
            admitted=found.economics.affordable,
            code=found.economics.code,
            message=found.economics.message,
            input_tokens_bound=None if call is None else call.input_tokens_bound,
            output_tokens_bound=None if call is None else call.output_tokens_bound,
            first_call_nano_usd=cost,
            first_call_usd=None if cost is None else usd(cost),
            floor_nano_usd=found.economics.floor_nano_usd,
            floor_usd=usd(found.economics.floor_nano_usd),
            run_cap_nano_usd=found.cap_nano_usd,
            run_cap_usd=usd(found.cap_nano_usd),
            run_affords=cost is not None and cost <= found.cap_nano_usd,
            caps=[
                CapShare(
                    cap_id=share.cap.cap_id,
                    scope_kind=share.cap.scope.kind,
                    scope_name=found.scope_names[share.cap.scope],
                    unit=share.cap.unit,
                    window=share.cap.window_kind,
                    limit_amount=None if share.cap.unlimited else share.cap.limit_amount,
                    available=share.available,
                    needed=share.needed,
                    affords=share.affords,
                )
                for share in found.shares
            ],
        )


@router.post("/estimate", summary="Estimate a run's first call")
async def estimate_run(body: EstimateRun, caller: Caller, parts: Parts) -> Estimate:
    """Shows what the run's first call would hold and whether each cap affords it. Nothing is reserved, recorded or started."""
    caller.require(*STARTERS)
    request = service.RunRequest(
        agent=body.agent,
        content=body.input,
        project=body.project,
        cap_nano_usd=None if body.cap_usd is None else parse_usd(body.cap_usd),
        guaranteed=body.guaranteed,
    )
    return Estimate.of(await service.estimate(parts.engine, caller, request), caller.user)
