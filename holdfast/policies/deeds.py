"""Actions that were allowed before, as their holds have them: what happened, and what of a limit they use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.engine.history import Event, EventKind
from holdfast_verdict.engine.numbers import number_of
from holdfast_verdict.engine.program import CompiledRule, Program, speaks_of
from holdfast_verdict.engine.unknown import Unknown
from holdfast_verdict.engine.usage import in_window
from holdfast_verdict.rehearse.recorded import outcome_of

if TYPE_CHECKING:
    from holdfast.actions.run_facts import RunFacts
    from holdfast_verdict.policy import Limit


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

    @property
    def name(self) -> str:
        """The name by which policies speak of it."""
        return self.tool if self.kind == "tool.call" else self.kind

    @cached_property
    def args(self) -> dict[str, Any]:  # Any: JSON
        """Its arguments."""
        args: dict[str, Any] = orjson.loads(self.action)["args"]
        return args

    @property
    def is_void(self) -> bool:
        """Whether it came to nothing for certain."""
        return self.state in ("voided", "expired")

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
    newest: dict[tuple[UUID, int], int] = {(run.run_id, step): 1 << 31}
    for deed in deeds:
        key = (deed.run_id, deed.step)
        newest[key] = max(newest.get(key, 0), deed.try_number)
    outcomes = []
    for deed in deeds:
        if deed.is_void and deed.try_number < newest[deed.run_id, deed.step]:
            continue
        principal, name = deed.principal(run.tenant), str(deed.hold_id)
        yield Event(deed.name, deed.args, "requested", deed.at_ms, principal, name)
        if deed.outcome is not None:
            settled_at = deed.settled_at or deed.created_at
            at_ms = int(settled_at.timestamp() * 1000)
            outcomes.append(Event(deed.name, deed.args, deed.outcome, at_ms, principal, name))
    yield from outcomes


def is_in(deed: Deed, limit: Limit, run: RunFacts) -> bool:
    """Says whether an action counts for a limit's total: it is the same run's, user's, …, in the window, and not void."""
    now_ms = int(run.now.timestamp() * 1000)
    principal = deed.principal(run.tenant)
    return (
        not deed.is_void
        and principal[limit.per] == run.principal[limit.per]
        and in_window(deed.at_ms, now_ms, limit.window)
    )


def used_of(compiled: CompiledRule, deeds: Iterable[Deed], program: Program, run: RunFacts) -> int | None:
    """Returns what actions use of a limit; `None` if that cannot be told. One of which it is unknown whether it counts, does."""
    limit, rule = compiled.rule.limit, compiled.rule
    assert limit is not None  # it is one
    used = 0
    for deed in deeds:
        if rule.role not in ("*", deed.role, *program.policy.roles.get(deed.role, ())):
            continue
        external = "external" in rule.actions  # what its tool said of its boundary is not kept: then it counts
        if not speaks_of(rule.actions, deed.name, external=external):
            continue
        context = Context(deed.name, external, deed.args, Facts(principal=deed.principal(run.tenant)), program)
        truth, _ = compiled.ask(context)
        if truth is False:
            continue
        if limit.measure == "count":
            used += 1
        elif compiled.measured is not None:
            number = number_of(compiled.measured(context))
            if isinstance(number, Unknown):
                return None
            used += max(math.ceil(number), 0)
        else:
            used += deed.cost_nano_usd if limit.unit == "nano_usd" else deed.tokens
    return used
