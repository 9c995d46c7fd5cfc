"""What running code costs: CPU time and memory held, at prices of our own, in whole nano-dollars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from holdfast_verdict.canonical import JsonValue

_MIB: Final = 2**20
_GIB_MS: Final = 2**30 * 1_000
"""Byte-milliseconds of a gibibyte held for a second."""
_STARTUP_CPU_MS: Final = 250
"""What making a job's process may take of its cgroup beside its own time."""


@dataclass(frozen=True, slots=True)
class CodePrice:
    """A version of the prices.

    Attributes:
        version: Its name; holds keep what they were made with.
        cpu_nano_usd_per_ms: For a millisecond of one core.
        memory_nano_usd_per_gib_s: For a gibibyte that is held for a second.
    """

    version: str
    cpu_nano_usd_per_ms: int
    memory_nano_usd_per_gib_s: int

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the price as a JSON object."""
        return {name: getattr(self, name) for name in CodePrice.__dataclass_fields__}

    def cost_nano_usd(self, *, cpu_ms: int, wall_ms: int, memory_bytes: int) -> int:
        """Returns the price of that much, rounded up."""
        held = memory_bytes * wall_ms * self.memory_nano_usd_per_gib_s
        return cpu_ms * self.cpu_nano_usd_per_ms + -(-held // _GIB_MS)


PRICES: Final = (CodePrice("code-1", cpu_nano_usd_per_ms=12, memory_nano_usd_per_gib_s=1_500),)
"""The versions, newest last: $0.0432 for an hour of a core, $0.0054 for an hour of a gibibyte."""


@dataclass(frozen=True, slots=True)
class CodeEstimate:
    """What a run of code can cost at most, with everything that it follows from.

    Attributes:
        max_cost_nano_usd: The amount to hold.
        cpu_ms_bound: The most CPU time.
        wall_ms_bound: The longest it may take.
        memory_bytes_bound: The most memory.
        prices_used: The price at which it was made; settling uses the same.
    """

    max_cost_nano_usd: int
    cpu_ms_bound: int
    wall_ms_bound: int
    memory_bytes_bound: int
    prices_used: CodePrice

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the estimate as a JSON object with a canonical form."""
        whole = {name: getattr(self, name) for name in CodeEstimate.__dataclass_fields__ if name != "prices_used"}
        return {**whole, "prices_used": self.prices_used.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue]) -> CodeEstimate:
        """Reads what `to_json` wrote."""
        price = cast("Mapping[str, JsonValue]", value["prices_used"])
        return cls(
            max_cost_nano_usd=cast(int, value["max_cost_nano_usd"]),
            cpu_ms_bound=cast(int, value["cpu_ms_bound"]),
            wall_ms_bound=cast(int, value["wall_ms_bound"]),
            memory_bytes_bound=cast(int, value["memory_bytes_bound"]),
            prices_used=CodePrice(
                str(price["version"]),
                cast(int, price["cpu_nano_usd_per_ms"]),
                cast(int, price["memory_nano_usd_per_gib_s"]),
            ),
        )

    def actual_nano_usd(self, *, cpu_ms: int, wall_ms: int, memory_bytes: int) -> int:
        """Returns what a job did cost: what was measured, and never more than was held."""
        measured = self.prices_used.cost_nano_usd(cpu_ms=cpu_ms, wall_ms=wall_ms, memory_bytes=memory_bytes)
        return min(measured, self.max_cost_nano_usd)


def estimate_code(timeout_ms: int, memory_mb: int, cores_percent: int = 100) -> CodeEstimate:
    """Returns the worst case of a run of code: all of its time on all that it may have.

    Args:
        timeout_ms: The longest it may take.
        memory_mb: The most memory, in MiB.
        cores_percent: The CPU it may have, 100 for one core.
    """
    price, memory_bytes = PRICES[-1], memory_mb * _MIB
    cpu_ms = timeout_ms * cores_percent // 100 + _STARTUP_CPU_MS
    return CodeEstimate(
        max_cost_nano_usd=price.cost_nano_usd(cpu_ms=cpu_ms, wall_ms=timeout_ms, memory_bytes=memory_bytes),
        cpu_ms_bound=cpu_ms,
        wall_ms_bound=timeout_ms,
        memory_bytes_bound=memory_bytes,
        prices_used=price,
    )
