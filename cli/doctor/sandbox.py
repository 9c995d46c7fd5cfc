"""Whether code can be run here: the sandbox's canary attacks every layer, as it does before the first job."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from cli.doctor.finding import Finding, ok, warning
from holdfast.errors import HoldfastError

PROFILE: Final = "HOLDFAST_SANDBOX_PROFILE"
_PART: Final = "sandbox"


def layers() -> Finding:
    """Starts a sandbox, which attacks its own layers, and ends it; without one everything but `code.exec` works."""
    return asyncio.run(_layers(os.environ.get(PROFILE, "full")))


async def _layers(profile: str) -> Finding:
    from sandbox.service import Sandbox, Settings

    if profile not in ("full", "unprivileged"):
        return warning(_PART, f"{PROFILE} is {profile!r}", "set it to full or unprivileged")
    try:
        async with Sandbox(
            Settings(profile="full" if profile == "full" else "unprivileged", idle_min=1, idle_max=1)
        ) as sandbox:
            receipt = sandbox.receipt
    except HoldfastError as error:
        refused = "code.exec is refused here; everything else works"
        return warning(
            _PART, f"{error.message}: {refused}", f"{error.remedy} ({PROFILE}=unprivileged allows the latter)"
        )
    if receipt.missing:
        return warning(
            _PART,
            f"profile {receipt.profile}: {len(receipt.layers)} layers hold, without {', '.join(receipt.missing)}",
            " ".join(receipt.weaker),
        )
    return ok(_PART, f"all {len(receipt.layers)} layers hold: {', '.join(receipt.layers)}")
