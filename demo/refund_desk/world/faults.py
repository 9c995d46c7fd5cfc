"""Faults on demand: what can go wrong between a request and its answer, at a place that a test chooses."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Literal, get_args

Target = Literal["refunds", "accounts", "mail"]
Kind = Literal["answer_lost", "error_before", "rate_limited", "slow", "gate"]

TARGETS: tuple[Target, ...] = get_args(Target)
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, for one request.

    Attributes:
        kind: `answer_lost`: the effect happens, then the connection is cut; `error_before`: an error before the
            effect; `rate_limited`: asked to come back later, before the effect; `slow`: the answer comes `delay_ms`
            after the effect; `gate`: the answer is held after the effect until released.
        delay_ms: For `slow`.
    """

    kind: Kind
    delay_ms: int = 0


class Faults:
    """Faults in waiting, in order, by target; each is met by one request."""

    def __init__(self) -> None:
        self._waiting: dict[Target, deque[Fault]] = defaultdict(deque)
        self._released = asyncio.Event()
        self.held = 0

    def add(self, target: Target, fault: Fault, times: int = 1) -> None:
        """Lets the next requests to the target meet the fault."""
        self._waiting[target].extend([fault] * times)

    def take(self, target: Target) -> Fault | None:
        """Takes the fault that this request meets, if any."""
        return self._waiting[target].popleft() if self._waiting[target] else None

    def clear(self) -> None:
        """Forgets all faults in waiting."""
        self._waiting.clear()

    async def after_effect(self, fault: Fault | None) -> bool:
        """Delays or holds the answer, and says whether it is to be lost."""
        if fault is None:
            return False
        if fault.kind == "slow":
            await asyncio.sleep(fault.delay_ms / 1000)
        if fault.kind == "gate":
            self.held += 1
            try:
                await self._released.wait()
            finally:
                self.held -= 1
        return fault.kind == "answer_lost"

    def release(self) -> int:
        """Lets every held answer go, and returns how many there were."""
        held = self.held
        self._released.set()
        self._released = asyncio.Event()
        return held
