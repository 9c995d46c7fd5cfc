"""The whole ledger once more, in memory and one caller at a time: it predicts every answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .books import Cap

Key = tuple[int, int, int]
CapName = tuple[str, str]

WAYS = {
    ("held", "voided"), ("held", "expired"), ("executing", "voided"), ("executing", "unknown"), ("executed", "committed"),
    ("executed", "voided"), ("executed", "unknown"), ("unknown", "committed"), ("unknown", "voided"),
}  # fmt: skip


@dataclass(slots=True)
class Hold:
    """A hold: what it took, and how far it got."""

    argument: int
    legs: dict[CapName, int]
    state: str = "held"
    outward: bool = False
    outcome: bytes | None = None


@dataclass(slots=True)
class Try:
    """What stands for a key."""

    argument: int
    verdict: str
    code: str
    hold: Hold | None


@dataclass(slots=True)
class Model:
    """See the module."""

    caps: dict[CapName, Cap] = field(default_factory=dict)
    tries: dict[Key, Try] = field(default_factory=dict)
    alarms: int = 0

    def set_limit(self, name: CapName, limit: int, unlimited: bool) -> None:
        self.caps.setdefault(name, Cap(name[1])).set_limit(limit, unlimited)

    def reserve(self, key: Key, argument: int, amounts: Mapping[str, int]) -> Try:
        standing = self.tries.get(key)
        if standing is not None and standing.argument == argument:
            again = standing.hold is not None and standing.hold.state != "held"
            return Try(argument, "replayed" if again else standing.verdict, standing.code, standing.hold)
        if standing is not None and standing.hold is not None:
            if standing.hold.state != "held":
                self.alarms += 1
                return Try(argument, "deny", "hold.key_conflict", None)
            self._close(standing.hold, "voided", {})
        code = self._refusal(amounts)
        hold = None if code else Hold(argument, {name: amounts[name[1]] for name in self.caps if name[1] in amounts})
        if hold is not None:
            for name, amount in hold.legs.items():
                self.caps[name].reserve(amount)
        made = Try(argument, "deny" if code else "allow", code or "policy.permitted", hold)
        self.tries[key] = made
        return made

    def _refusal(self, amounts: Mapping[str, int]) -> str:
        if amounts.get("nano_usd", 0) and ("tenant", "nano_usd") not in self.caps:
            return "budget.no_cap"
        short = any(
            unit in amounts and not cap.unlimited and cap.free() < amounts[unit] for (_, unit), cap in self.caps.items()
        )
        return "budget.cap_exceeded" if short else ""

    def redeem(self, hold: Hold, right: bool) -> bool:
        if hold.state != "held" or not right:
            return False
        hold.state = "executing"
        return True

    def begin(self, hold: Hold, right: bool) -> bool:
        if hold.state != "executing" or not right:
            return False
        hold.outward = True
        return True

    def store(self, hold: Hold, right: bool, result: bytes) -> bool:
        if not right:
            return False
        if hold.outcome is None:
            if hold.state not in ("executing", "unknown"):
                return False
            hold.outcome = result
            hold.state = "executed" if hold.state == "executing" else "unknown"
        return hold.outcome == result

    def settle(self, hold: Hold, to: str, actual: Mapping[str, int]) -> bool:
        if (hold.state, to) not in WAYS or ((hold.state, to) == ("executing", "voided") and hold.outward):
            return False
        if actual and to != "committed":
            return False
        if to == "unknown":
            hold.state = to
        else:
            self._close(hold, to, actual)
        return True

    def resolve(self, hold: Hold, happened: bool, cost: int) -> bool:
        if hold.state != "unknown" or hold.outcome is not None:  # every outcome here has its cost
            return False
        held: dict[str, int] = {unit: amount for (_, unit), amount in hold.legs.items()}
        if happened or cost:
            self._close(hold, "committed", {**held, "nano_usd": cost})
        else:
            self._close(hold, "voided", {})
        return True

    def _close(self, hold: Hold, to: str, actual: Mapping[str, int]) -> None:
        hold.state = to
        for name, amount in hold.legs.items():
            self.caps[name].settle(amount, 0 if name[1] == "slots" else actual.get(name[1], 0))
