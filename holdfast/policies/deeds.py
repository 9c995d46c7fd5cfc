"""Actions that were allowed before, as their holds have them, and what happened by them.

Not every hold is an action: what is set aside for a run is a hold as well. Nobody does it, and what the run does with it is held for
itself, so nothing that asks for actions of the past may count it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from holdfast.ledger.core import RUN_BUDGET
from holdfast_verdict import sealing
from holdfast_verdict.engine.history import Event, EventKind
from holdfast_verdict.rehearse.recorded import outcome_of

if TYPE_CHECKING:
    from holdfast.actions.run_facts import RunFacts
    from holdfast.ledger.types import TryKey


@dataclass(frozen=True)
class Deed:
    """An action that was allowed, with what became of it.

    Attributes:
        hold_id: Its hold.
        run_id: The run.
        step: The step.
        try_number: The try.
        kind: Kind of action.
        tool: Tool, or empty.
        action: Canonical bytes.
        state: The hold's state.
        created_at: When it was allowed.
        settled_at: When it was settled, if it was.
        settled_by: By whom.
        went_out: Whether it may have had an effect outside.
        answered: Whether an outcome was stored.
        ok: Whether that said that it was done.
        cost_nano_usd: What it cost, or at most may cost.
        tokens: Tokens that it may take at most.
        project: The run's project.
        user: Its user.
        agent: Its agent.
        role: Its role.
        seq: Its number in the order in which settled actions are folded into sums, if it has one.
        retried: Whether it came to nothing and its step was tried again.
    """

    hold_id: UUID
    run_id: UUID
    step: int
    try_number: int
    kind: str
    tool: str
    action: bytes
    state: str
    created_at: datetime
    settled_at: datetime | None
    settled_by: str
    went_out: bool
    answered: bool
    ok: bool
    cost_nano_usd: int
    tokens: int
    project: str
    user: str
    agent: str
    role: str
    seq: int | None
    retried: bool

    @property
    def name(self) -> str:
        """The name by which policies speak of it."""
        return self.tool if self.kind == "tool.call" else self.kind

    @property
    def is_budget(self) -> bool:
        """Whether it is no action, but what was set aside for a run."""
        return self.kind == RUN_BUDGET

    @cached_property
    def args(self) -> dict[str, Any]:  # Any: JSON
        """Its arguments, without those that were erased."""
        args: dict[str, Any] = orjson.loads(self.action)["args"]
        return sealing.told(args) if sealing.MARK.encode() in self.action else args

    @property
    def is_void(self) -> bool:
        """Whether it came to nothing for certain."""
        return self.state in ("voided", "expired")

    def gives_way_to(self, key: TryKey) -> bool:
        """Says whether a decision on a try takes this one's place: it is of the same try, and nobody has begun it."""
        own = (self.run_id, self.step, self.try_number)
        return self.state == "held" and own == (key.run_id, key.step, key.try_number)

    @property
    def at_ms(self) -> int:
        """When it was allowed, in milliseconds of the epoch."""
        return int(self.created_at.timestamp() * 1000)

    @property
    def outcome(self) -> EventKind | None:
        """What became of it; `None` while nobody knows, which stands against it as if it had succeeded."""
        return outcome_of(self.state, self.settled_by, answered=self.answered, ok=self.ok, went_out=self.went_out)

    def principal(self, tenant: str) -> dict[str, str]:
        """Who acted, as rules see it."""
        return {
            "tenant": tenant,
            "project": self.project,
            "user": self.user,
            "agent": self.agent,
            "role": self.role,
            "run": str(self.run_id),
        }


def events_of(deeds: Sequence[Deed], run: RunFacts, step: int) -> Iterable[Event]:
    """Yields what happened. A try that came to nothing and the next one of its step are one request.

    Args:
        deeds: Actions in the order in which they were allowed.
        run: The run that is decided for.
        step: Its step.
    """
    outcomes = []
    for deed in deeds:
        if deed.is_void and (deed.retried or (deed.run_id, deed.step) == (run.run_id, step)):
            continue
        principal, name = deed.principal(run.tenant), str(deed.hold_id)
        yield Event(deed.name, deed.args, "requested", deed.at_ms, principal, name)
        if deed.outcome is not None:
            settled_at = deed.settled_at or deed.created_at
            at_ms = int(settled_at.timestamp() * 1000)
            outcomes.append(Event(deed.name, deed.args, deed.outcome, at_ms, principal, name))
    yield from outcomes
