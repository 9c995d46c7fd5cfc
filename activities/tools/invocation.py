"""What a tool is given and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.errors import CredentialMissing
from holdfast.tools.toolset import Tool
from holdfast_verdict.canonical import JsonValue

if TYPE_CHECKING:
    from activities.lease import Outward

Cost = Literal["nothing", "known", "unknown"]
CredentialT = TypeVar("CredentialT", bound="Credential")


class Credential(BaseModel):
    """Base of the forms that vault entries of tools have. Errors never show what stands in them."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Approvals(Protocol):
    """What an execution may do with the approval that its own action names: PostgreSQL reads that from the hold."""

    async def read_approval(self) -> str | None:
        """Returns the approval as JSON, or None if there is none that asks for this run's agent."""

    async def vote(self) -> tuple[str, str]:
        """Votes as this run's agent; returns what came of it, and where the approval stands."""


@dataclass(frozen=True, slots=True)
class ToolInvocation:
    """One execution of a tool under a redeemed permit.

    Attributes:
        tool: Dotted name.
        definition: What is known of the tool, exactly as it was decided on.
        arguments: Exactly the arguments that were decided.
        credential: The vault entry that came with the permit.
        tenant: Slug of the run's tenant, from the run's row.
        idempotency_key: The same for all tries of a step.
        outward: The lease; to be begun once, right before the first byte goes outside.
        memory_bytes_max: Bound of a process that is started for it.
        approvals: For the tools that read approvals and vote on them.
    """

    tool: str
    definition: Tool
    arguments: dict[str, JsonValue]
    credential: dict[str, JsonValue]
    tenant: str
    idempotency_key: str
    outward: Outward
    memory_bytes_max: int = 2 * 1024**3
    approvals: Approvals | None = None

    def read_credential(self, form: type[CredentialT]) -> CredentialT:
        """Reads the vault entry into its form.

        Raises:
            CredentialMissing: A field is missing or wrong.
        """
        try:
            return form.model_validate(self.credential)
        except ValidationError as error:
            fields = ", ".join(sorted({".".join(map(str, problem["loc"])) for problem in error.errors()}))
            raise CredentialMissing(
                f"the vault entry for {self.tool} is incomplete or wrong in: {fields}",
                remedy="store the entry again with the documented fields",
            ) from None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answers.

    Attributes:
        ok: The tool did what was asked.
        content: What the model is shown.
        error_code: Stable dotted code, or None if ok.
        retryable: Another try may fare better, and is safe as far as the tool is concerned.
        retry_after_ms: Earliest useful time of another try, if the other side named one.
        cost: `known`: the effect happened, or there is an answer to build on; `nothing`: it provably did not happen;
            `unknown`: it may have happened and nobody knows (LAW 4).
    """

    ok: bool
    content: str
    error_code: str | None
    retryable: bool
    retry_after_ms: int | None
    cost: Cost

    @classmethod
    def done(cls, content: str) -> ToolResult:
        """The tool did it."""
        return cls(ok=True, content=content, error_code=None, retryable=False, retry_after_ms=None, cost="known")

    @classmethod
    def answered(cls, error_code: str, content: str) -> ToolResult:
        """The other side was asked and said no, or something that is not a success."""
        return cls(ok=False, content=content, error_code=error_code, retryable=False, retry_after_ms=None, cost="known")

    @classmethod
    def nothing(
        cls, error_code: str, content: str, *, retryable: bool = False, retry_after_ms: int | None = None
    ) -> ToolResult:
        """Provably nothing happened."""
        return cls(
            ok=False,
            content=content,
            error_code=error_code,
            retryable=retryable,
            retry_after_ms=retry_after_ms,
            cost="nothing",
        )

    @classmethod
    def unknown(
        cls, error_code: str, content: str, *, retryable: bool = False, retry_after_ms: int | None = None
    ) -> ToolResult:
        """It may have happened."""
        return cls(
            ok=False,
            content=content,
            error_code=error_code,
            retryable=retryable,
            retry_after_ms=retry_after_ms,
            cost="unknown",
        )
