"""The gate without a server: the engine and a run's facts in memory, at a fixed time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from bench.agentdojo.gate import Call, Gate
from bench.agentdojo.suite import PRINCIPAL, UNTRUSTED
from holdfast_verdict import Catalogue, Session
from holdfast_verdict.engine.facts import LocalTime

if TYPE_CHECKING:
    from agentdojo.functions_runtime import FunctionsRuntime

    from holdfast_verdict.engine.facts import ApproverKind
    from holdfast_verdict.policy import Policy

_NOON: Final = int(datetime(2024, 5, 15, 12, tzinfo=UTC).timestamp() * 1000)
"""A Wednesday at noon: the suites' own day, and within anybody's working hours."""
_KINDS: Final[Mapping[str, ApproverKind]] = {"role": "user", "agent": "agent", "signer": "signer"}


class MemoryGate(Gate):
    """A run in memory."""

    def __init__(
        self,
        policy: Policy,
        catalogue: Catalogue,
        role: str,
        runtime: FunctionsRuntime,
        environment: Any,  # each suite has a type of its own
    ) -> None:
        """Begins the run."""
        super().__init__(runtime, environment)
        principal = {**PRINCIPAL, "role": role, "run": "run-1"}
        self._session = Session(policy, catalogue, principal, now_ms=_NOON, clocks=_local)

    async def says(self, prompt: str) -> None:
        """Takes the user's words."""
        self._session.user_says(prompt)

    async def decide(self, tool: str, arguments: object, *, approving: bool) -> Call:
        """Decides on a call, and executes it if it is allowed."""
        session = self._session
        first = verdict = session.propose(tool, arguments)
        approved = False
        if approving and verdict.verdict == "needs_approval":
            for ask in verdict.gates:
                for need in ask.waiting:
                    for number in range(need.count):
                        session.approve(f"{need.kind}-{need.name}-{number}", kind=_KINDS[need.kind], roles=(need.name,))
            verdict = session.propose(tool, arguments)
            approved = verdict.verdict == "allow"
        decided = Call(tool, arguments, first.verdict, first.code, first.rule_id or "", first.message)
        if verdict.verdict != "allow":
            return decided
        action = session.steps[-1].action
        assert action is not None  # what is allowed has a canonical form
        done = self.execute(tool, action.arguments(fractions=float))
        if done.error:
            session.failed()
            session.sources.tool(tool, done.answer, [UNTRUSTED])
        else:
            session.succeeded(done.answer)
        return replace(decided, executed=True, approved=approved, changed=done.changed, error=done.error)


def _local(zone: str, now_ms: int) -> LocalTime:
    local = datetime.fromtimestamp(now_ms / 1000, ZoneInfo(zone))
    return LocalTime(local.date().isoformat(), local.hour, local.minute, local.isoweekday())
