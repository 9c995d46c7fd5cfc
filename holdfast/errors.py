"""The one exception hierarchy: every error Holdfast raises on purpose carries a stable, dotted code.

The same code stands in the API's problem details, in decision records, in the SDK and in the docs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class HoldfastError(Exception):
    """Base of every error that Holdfast raises on purpose.

    Attributes:
        code: Stable dotted code, part of the public interface.
        status: HTTP status the API answers with.
        remedy: A sentence that says what to do, or an empty string.
        problems: Where many things are wrong at once, each of them as JSON.
    """

    code: ClassVar[str] = "internal.error"
    status: ClassVar[int] = 500

    problems: Sequence[Mapping[str, Any]] = ()  # Any: JSON

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class ConfigurationInvalid(HoldfastError):
    """A setting is missing or wrong; the process refuses to start."""

    code = "configuration.invalid"


class RequestInvalid(HoldfastError):
    """What the caller sent does not have the documented form."""

    code = "request.invalid"
    status = 422


class RequestTooLarge(HoldfastError):
    """A body, depth, count or text is over its documented bound."""

    code = "request.too_large"
    status = 413


class NotAuthenticated(HoldfastError):
    """No valid API key came with the request."""

    code = "auth.not_authenticated"
    status = 401


class NotPermitted(HoldfastError):
    """The principal's roles do not include what the operation needs."""

    code = "auth.not_permitted"
    status = 403


class NotFound(HoldfastError):
    """No such thing in the caller's tenant (another tenant's things look the same: LAW 5)."""

    code = "resource.not_found"
    status = 404


class Conflict(HoldfastError):
    """The thing is not in a state that allows this."""

    code = "resource.conflict"
    status = 409


class IdempotencyConflict(HoldfastError):
    """An Idempotency-Key came again with a different request."""

    code = "idempotency.conflict"
    status = 409


class BudgetInsufficient(HoldfastError):
    """Nothing useful could be afforded, so the run is not admitted."""

    code = "budget.insufficient"
    status = 402


class Unavailable(HoldfastError):
    """A part that Holdfast needs does not answer; nothing was decided or executed."""

    code = "service.unavailable"
    status = 503


class LedgerBusy(Unavailable):
    """More operations wait for the ledger than it takes; nothing was decided."""

    code = "ledger.busy"


class StopActive(HoldfastError):
    """An emergency stop is on: permits that were given before it are worth nothing as long as it lasts."""

    code = "stop.active"
    status = 403


class PermitInvalid(HoldfastError):
    """A permit is malformed, altered, expired, of another run, or not for these arguments (LAW 1)."""

    code = "permit.invalid"
    status = 403


class PermitUsed(PermitInvalid):
    """A permit was redeemed before, or its hold is no longer held (LAW 1)."""

    code = "permit.used"


class LeaseLost(HoldfastError):
    """The executor's lease on a hold has run out or was revoked: nothing may go outside any more (LAW 1)."""

    code = "lease.lost"


class ExecutorStopped(HoldfastError):
    """The executor was told to stop and handed the execution back; the run tries again at once, and it counts as no failure."""

    code = "executor.stopped"


class HoldConflict(HoldfastError):
    """A key was reserved before with other arguments and is past `held` (LAW 4)."""

    code = "hold.key_conflict"
    status = 409


class CallRefused(HoldfastError):
    """The run has refused a call that code asked for; its code is the decision's, or that of the tool's failure."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # one class for the codes of all decisions and tools


class CallsExhausted(HoldfastError):
    """Code has asked its run for as much as a job may."""

    code = "code.calls_exhausted"


class CallUnanswered(HoldfastError):
    """Nobody answers code any more: its run has ended, or its own time is over. What it asked for may have been done."""

    code = "code.call_unanswered"


class RunUnknown(HoldfastError):
    """A workflow runs that no admitted run stands behind (LAW 7)."""

    code = "run.unknown"
    status = 403


class PolicyBroken(HoldfastError):
    """A stored policy is not what was accepted: nothing may be decided by it (LAW 7)."""

    code = "policy.broken"


class PriceUnknown(HoldfastError):
    """No price is known for a model, so its cost cannot be bounded."""

    code = "price.unknown"
    status = 422


class ContentUnsupported(HoldfastError):
    """A request carries something that no wire here has a form for and whose cost nobody here can bound (LAW 7)."""

    code = "content.unsupported"
    status = 422


class CredentialMissing(HoldfastError):
    """The vault has no entry for what an action needs."""

    code = "vault.credential_missing"
    status = 424
