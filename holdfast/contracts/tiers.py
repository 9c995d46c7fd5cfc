"""Tiers: how hard code is isolated, by name, from weaker to stronger; and which backend is of which tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, cast

from holdfast.errors import HoldfastError

Tier = Literal["process", "kernel"]
PROCESS: Final[Tier] = "process"
"""The host's own kernel isolates, by namespaces, mounts and filters: a hole in it is a hole in the sandbox."""
KERNEL: Final[Tier] = "kernel"
"""A kernel of the code's own stands between it and the host's."""
TIERS: Final[tuple[Tier, ...]] = (PROCESS, KERNEL)

BACKENDS: Final[Mapping[str, Tier]] = MappingProxyType({"native": PROCESS, "bubblewrap": PROCESS, "runsc": KERNEL})
"""What isolates, with the tier of each."""


class TierUnavailable(HoldfastError):
    """Code is to run in a tier that is not set up; it runs in no other (LAW 7)."""

    code = "isolation.tier_unavailable"
    status = 503


def strictest(*tiers: str | None) -> Tier:
    """Returns the strongest of the tiers that are named; `process` if none is."""
    return cast(
        "Tier", max((tier for tier in tiers if tier), key=TIERS.index, default=PROCESS)
    )  # a ValueError for no tier


def by_tier(backends: Sequence[str]) -> Mapping[Tier, str]:
    """Returns the backend of each tier that there is one for.

    Raises:
        ValueError: One is not known, or two are of the same tier.
    """
    if unknown := [name for name in backends if name not in BACKENDS]:
        raise ValueError(f"{', '.join(unknown)} is none of {', '.join(BACKENDS)}")
    found: dict[Tier, str] = {}
    for name in backends:
        if BACKENDS[name] in found:
            raise ValueError(f"names two backends for the tier {BACKENDS[name]}: {found[BACKENDS[name]]} and {name}")
        found[BACKENDS[name]] = name
    return found


def unavailable(tier: str, there: Sequence[str]) -> TierUnavailable:
    """Returns the refusal of a tier that is not set up."""
    wanted = (
        " or ".join(name for name, of in BACKENDS.items() if of == tier) or "a backend that this version does not have"
    )
    return TierUnavailable(
        f"code is to run in the tier {tier}, and only {', '.join(there) or 'none'} is set up",
        remedy=f"Install {wanted} on the hosts that run code, and name it in HOLDFAST_SANDBOX_BACKENDS of governor and executors; or "
        "have the tenant and the role ask for less.",
    )
