"""One run at a gate: each call is decided before it is executed in the suite's environment; then its output is a source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.agentdojo.suite import nested, plain
from holdfast_verdict.provenance.leaves import leaves_of

if TYPE_CHECKING:
    from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime


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


@dataclass(frozen=True, slots=True)
class Done:
    """What came of an execution.

    Attributes:
        answer: What the tool returned, as JSON, or why it failed.
        error: Why it failed, or empty.
        changed: Whether it changed the environment.
    """

    answer: Any  # JSON of any tool
    error: str
    changed: bool


class Gate(ABC):
    """A run of one agent with one policy.

    Attributes:
        environment: Where its calls are executed.
        heard: Texts that its calls returned.
        executed: How many calls were executed.
    """

    def __init__(self, runtime: FunctionsRuntime, environment: Any) -> None:  # Any: each suite has a type of its own
        """Begins the run."""
        self.environment = environment
        self.heard: list[str] = []
        self.executed = 0
        self._runtime = runtime
        self._last: object = None

    @abstractmethod
    async def says(self, prompt: str) -> None:
        """Takes the user's words."""

    @abstractmethod
    async def decide(self, tool: str, arguments: object, *, approving: bool) -> Call:
        """Decides on a call, and executes it if it is allowed."""

    async def calls(self, call: FunctionCall, *, approving: bool) -> list[Call]:
        """Decides on a call, and on those whose results it takes, and executes what is allowed.

        Args:
            call: The call.
            approving: Whether every approval that it asks for is given.
        """
        before: list[Call] = []
        arguments = dict(call.args)
        for name, inner in nested(call):
            before += await self.calls(inner, approving=approving)
            arguments[name] = self._last if before[-1].executed else None
        return [*before, await self.decide(call.function, plain(arguments), approving=approving)]

    def execute(self, tool: str, arguments: dict[str, Any]) -> Done:
        """Executes a call in the environment."""
        self.executed += 1
        before = self.environment.model_dump()
        output, error = self._runtime.run_function(self.environment, tool, arguments)
        self._last = output
        answer = plain(output) if error is None else error
        self.heard += [leaf for _, leaf in leaves_of(answer) if isinstance(leaf, str)]
        return Done(answer, error or "", self.environment.model_dump() != before)


Opened = Callable[[Any], Awaitable[Gate]]
"""Begins a run in an environment."""
