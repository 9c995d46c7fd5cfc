"""What code asks its run for: written down by whoever runs the code, decided and answered by the governor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# INVARIANT (LAW 1): only while the code that asks is running under its own hold, and only of that hold's run
_READ = text("""
    SELECT q.step, h.try, q.name, q.arguments FROM code_requests q JOIN holds h ON h.tenant_id = q.tenant_id AND h.hold_id = q.hold_id
    WHERE q.tenant_id = :tenant_id AND q.run_id = :run_id AND q.hold_id = :hold_id AND q.number = :number AND q.kind = 'tool'
      AND (:past OR h.state = 'executing')
""")

# the first answer stands: asked again, code is told the same (LAW 9)
_ANSWER = text("""
    UPDATE code_requests SET answered_at = clock_timestamp(), ok = :ok, code = :code, answer = :answer
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND hold_id = :hold_id AND number = :number AND answered_at IS NULL
    RETURNING number
""")


@dataclass(frozen=True, slots=True)
class CodeRequest:
    """A call of a tool that code asks for.

    Attributes:
        step: The step whose code asks.
        try_number: The try of it.
        tool: The tool's name, as the code wrote it.
        raw_arguments: Its arguments, JSON.
    """

    step: int
    try_number: int
    tool: str
    raw_arguments: bytes

    @property
    def arguments(self) -> Mapping[str, object]:
        """The arguments."""
        value: dict[str, object] = orjson.loads(self.raw_arguments)
        return value


async def read(
    connection: AsyncConnection, tenant_id: UUID, run_id: UUID, hold_id: UUID, number: int, *, past: bool = False
) -> CodeRequest | None:
    """Returns what a job of that run asks for; None if it asks for no tool under that number, or runs no longer.

    Args:
        connection: The caller's transaction.
        tenant_id: The tenant.
        run_id: The run.
        hold_id: The hold of the code that asks.
        number: Which of its requests.
        past: Whether code that has ended counts as well.
    """
    parameters = {"tenant_id": tenant_id, "run_id": run_id, "hold_id": hold_id, "number": number, "past": past}
    row = (await connection.execute(_READ, parameters)).one_or_none()
    return None if row is None else CodeRequest(*row)


async def answer(
    connection: AsyncConnection,
    tenant_id: UUID,
    run_id: UUID,
    hold_id: UUID,
    number: int,
    *,
    ok: bool,
    code: str,
    content: str,
) -> bool:
    """Writes down what code is told; says whether it was not told anything before."""
    parameters = {"tenant_id": tenant_id, "run_id": run_id, "hold_id": hold_id, "number": number}
    told = {"ok": ok, "code": code, "answer": content.encode(errors="replace")}
    return await connection.scalar(_ANSWER, parameters | told) is not None
