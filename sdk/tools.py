"""What authors of tools in Python write with: a decorator that says what is known of the tool, what a call is given, and refusing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])  # any signature: the schema is made from it

ATTRIBUTE: Final = "__holdfast_tool__"
"""Where the decorator keeps what it was told: the server reads it there, and needs nothing of this package."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What is known of a tool before it runs.

    Attributes:
        name: Dotted name, such as `crm.note`; the name of its entry point, too.
        external: Its effect leaves the tenant's boundary.
        idempotent: The same call under the same idempotency key has its effect once, so it may be tried again.
        reversible: Its effect can be taken back.
        yields: Labels of what it returns.
        credential: Vault entry that it needs, such as `tool.crm`, or None.
        timeout_ms: Then a call is given up, and its process killed.
    """

    name: str
    external: bool
    idempotent: bool
    reversible: bool
    yields: tuple[str, ...]
    credential: str | None
    timeout_ms: int


class ToolRefused(Exception):
    """Raised by a tool that did nothing and will not: the model is told why.

    Args:
        message: A sentence that a model can act on. No secret: it becomes part of the conversation.
        retryable: Whether another try a little later may fare better.
    """

    holdfast_tool_refused: ClassVar[bool] = True

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable


def _nobody_asked() -> None:
    """Without Holdfast around it, a call may always begin."""


@dataclass(slots=True)
class ToolCall:
    """What a tool is given beside its arguments, if its first parameter asks for it. Tests make one by hand.

    Attributes:
        tenant: Slug of the run's tenant.
        idempotency_key: The same for all tries of a step: give it to the service, so that nothing happens twice.
        credential: The vault entry that came with the permit.
        begun: Whether `begin` was called.
    """

    holdfast_tool_call: ClassVar[bool] = True
    tenant: str = "tenant"
    idempotency_key: str = "key"
    credential: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON, as it was put into the vault
    begun: bool = False
    asking: Callable[[], None] = _nobody_asked

    def begin(self) -> None:
        """Asks whether the call may still go outside: to be called once, right before the first byte of an effect.

        What fails before it has provably done nothing. What fails after it has perhaps done something, and is treated so. It
        does not return if the lease has run out: the process is then killed.
        """
        if not self.begun:
            self.asking()
            self.begun = True


def tool(
    *,
    name: str,
    external: bool,
    idempotent: bool,
    reversible: bool,
    yields: Sequence[str] = ("untrusted",),
    credential: str | None = None,
    timeout_ms: int = 20_000,
) -> Callable[[FunctionT], FunctionT]:
    """Marks a function as a tool; the function stays as it is. See `Marks` for the arguments.

    Its parameters, all annotated, become the tool's arguments, and its docstring what the model is told. A first parameter
    annotated with `ToolCall` is none of them. Without one, the call has begun when the function is entered.
    """

    def mark(function: FunctionT) -> FunctionT:
        marks = Marks(name, external, idempotent, reversible, tuple(yields), credential, timeout_ms)
        setattr(function, ATTRIBUTE, marks)
        return function

    return mark
