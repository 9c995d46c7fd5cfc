"""What an agent is: role, instructions, model, tools, limits. Stored in versions; a run is pinned to one."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelTarget(BaseModel):
    """A model, and over which wire it is reached."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    wire: Literal["anthropic", "openai"]
    name: str = Field(min_length=1, max_length=200)


class ModelRoute(ModelTarget):
    """Which model thinks, and which others when its provider fails."""

    fallbacks: tuple[ModelTarget, ...] = Field(
        default=(),
        max_length=8,
        strict=False,  # JSON has no tuples
        description="who is asked, in this order, when a provider fails; after the last comes the first again",
    )

    @model_validator(mode="after")
    def _names_no_target_twice(self) -> Self:
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("the same wire and name stand there twice")
        return self

    @property
    def targets(self) -> tuple[ModelTarget, ...]:
        """All models in order, the first choice first."""
        return (ModelTarget(wire=self.wire, name=self.name), *self.fallbacks)


class AgentLimits(BaseModel):
    """Bounds of every run of the agent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    max_steps: int = Field(default=100, ge=1, le=10_000, description="steps after which the run ends as failed")
    max_tries: int = Field(default=5, ge=1, le=20, description="tries of a step that fails for passing reasons")
    deadline_s: int = Field(default=86_400, ge=1, le=31_536_000, description="then the run is timed out")
    run_cap_nano_usd: int = Field(default=1_000_000_000, ge=0, le=2**53 - 1, description="the run's own money cap")
    run_calls: int = Field(default=1_000, ge=1, le=1_000_000, description="actions a run may take")
    steps_per_execution: int = Field(default=0, ge=0, description="continue as new after so many; 0 = when advised")


class AgentDefinition(BaseModel):
    """One version of an agent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    instructions: str = Field(default="", max_length=100_000)
    model: ModelRoute
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=200_000,
        description="output bound of one model call; without one the role's default, or less where the caps cannot afford that",
    )
    tools: tuple[str, ...] = Field(default=(), max_length=200, strict=False)  # JSON has no tuples
    limits: AgentLimits = AgentLimits()
