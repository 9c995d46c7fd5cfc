"""One run at the gate: each call is decided before it is executed in the suite's environment; then its output is a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from bench.agentdojo.suite import UNTRUSTED, nested, plain
from holdfast_verdict import Catalogue, Session
from holdfast_verdict.engine.facts import LocalTime
from holdfast_verdict.provenance.leaves import leaves_of

if TYPE_CHECKING:
    from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime

    from holdfast_verdict.engine.facts import ApproverKind
    from holdfast_verdict.policy import Policy

_NOON: Final = int(datetime(2024, 5, 15, 12, tzinfo=UTC).timestamp() * 1000)
"""A Wednesday at noon: the suites' own day, and within anybody's working hours."""
_KINDS: Final[Mapping[str, ApproverKind]] = {"role": "user", "agent": "agent", "signer": "signer"}


@dataclass(frozen=True, slots=True)
class Call:
    """What became of one call.

    Attributes:
        tool: Its tool.
        args: Its arguments.
        verdict: What was decided, before any approval.
        code: Why.
        rule: By which rule.
        message: In words.
        executed: Whether it was executed.
        approved: Whether that took an approval.
        changed: Whether it changed the environment.
        error: What the tool answered if it failed.
    """

    tool: str
    args: object
    verdict: str
    code: str
    rule: str
    message: str
    executed: bool = False
    approved: bool = False
    changed: bool = False
    error: str = ""

    @property
    def unasked(self) -> bool:
        """Whether it was executed without anybody's approval."""
        return self.executed and not self.approved

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return asdict(self)


class Gate:
    """A run of one agent with one policy.

    Attributes:
        session: The run.
        environment: Where its calls are executed.
        heard: Texts that its calls returned.
    """

    def __init__(
        self,
        policy: Policy,
        catalogue: Catalogue,
        role: str,
        runtime: FunctionsRuntime,
        environment: Any,
    ) -> None:
        """Begins the run."""
        principal = {
            "tenant": "bench",
            "project": "agentdojo",
            "user": "user",
            "agent": "agent",
            "role": role,
            "run": "run-1",
        }
        self.session = Session(policy, catalogue, principal, now_ms=_NOON, clocks=_local)
        self.environment = environment
        self._runtime = runtime
        self._last: object = None
        self.heard: list[str] = []

    def says(self, prompt: str) -> None:
        """Takes the user's words."""
        self.session.user_says(prompt)

    def calls(self, call: FunctionCall, *, approving: bool) -> list[Call]:
        """Decides on a call, and on those whose results it takes, and executes what is allowed.

        Args:
            call: The call.
            approving: Whether every approval that it asks for is given.
        """
        before: list[Call] = []
        arguments = dict(call.args)
        for name, inner in nested(call):
            before += self.calls(inner, approving=approving)
            arguments[name] = self._last if before[-1].executed else None
        return [*before, self._decide(call.function, plain(arguments), approving=approving)]

    def _decide(self, tool: str, arguments: object, *, approving: bool) -> Call:
        first = verdict = self.session.propose(tool, arguments)
        approved = False
        if approving and verdict.verdict == "needs_approval":
            for ask in verdict.gates:
                for need in ask.waiting:
                    for number in range(need.count):
                        self.session.approve(
                            f"{need.kind}-{need.name}-{number}", kind=_KINDS[need.kind], roles=(need.name,)
                        )
            verdict = self.session.propose(tool, arguments)
            approved = verdict.verdict == "allow"
        decided = Call(tool, arguments, first.verdict, first.code, first.rule_id or "", first.message)
        if verdict.verdict != "allow":
            return decided
        action = self.session.steps[-1].action
        assert action is not None
        before = self.environment.model_dump()
        output, error = self._runtime.run_function(self.environment, tool, action.arguments(fractions=float))
        self._last = output
        answer = plain(output) if error is None else error
        if error is None:
            self.session.succeeded(answer)
        else:
            self.session.failed()
            self.session.sources.tool(tool, answer, [UNTRUSTED])
        self.heard += [leaf for _, leaf in leaves_of(answer) if isinstance(leaf, str)]
        return Call(
            tool,
            arguments,
            first.verdict,
            first.code,
            first.rule_id or "",
            first.message,
            executed=True,
            approved=approved,
            changed=self.environment.model_dump() != before,
            error=error or "",
        )


def _local(zone: str, now_ms: int) -> LocalTime:
    local = datetime.fromtimestamp(now_ms / 1000, ZoneInfo(zone))
    return LocalTime(local.date().isoformat(), local.hour, local.minute, local.isoweekday())
