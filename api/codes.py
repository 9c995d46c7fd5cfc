"""What codes mean: where the `type` of every problem leads. Anybody may read it; it says the same to all."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from holdfast.codes.catalogue import CATALOGUE, nearest
from holdfast.codes.entry import Code, Place
from holdfast.errors import NotFound

router = APIRouter(tags=["codes"])


class CodeView(BaseModel):
    """A code with what it means."""

    code: str = Field(description="stable dotted code", examples=["budget.insufficient"])
    cause: str = Field(description="what is so when it appears")
    remedy: str = Field(description="what to do about it")
    places: list[Place] = Field(description="where it appears")
    status: int = Field(description="HTTP status that goes with it; 0 if none does")
    verdict: Literal["", "allow", "deny", "needs_approval"] = Field(
        description="what a decision with this code says; empty if it is not a decision's alone"
    )


class CodeList(BaseModel):
    """All codes."""

    codes: list[CodeView]


def _view(code: Code) -> CodeView:
    return CodeView(
        code=code.code,
        cause=code.cause,
        remedy=code.remedy,
        places=list(code.places),
        status=code.status,
        verdict=code.verdict,
    )


@router.get("/problems", summary="List all codes")
async def list_codes() -> CodeList:
    """Returns every stable code with cause and remedy."""
    return CodeList(codes=[_view(CATALOGUE[name]) for name in sorted(CATALOGUE)])


@router.get("/problems/{code}", summary="Explain a code")
async def explain_code(code: Annotated[str, Path(max_length=100, description="a code")]) -> CodeView:
    """Returns what a code means and what to do about it."""
    found = CATALOGUE.get(code)
    if found is None:
        near = nearest(code)
        raise NotFound(
            "Holdfast has no such code", remedy=f"nearest: {', '.join(near)}" if near else "`GET /problems` lists all"
        )
    return _view(found)
