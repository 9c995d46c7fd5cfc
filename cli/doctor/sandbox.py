"""Whether code can be run here: the sandbox's canary attacks every layer, as it does before the first job."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from cli.doctor.finding import Finding, ok, warning
from cli.environments import FOLDER
from holdfast.contracts.tiers import KERNEL, by_tier
from holdfast.errors import HoldfastError

PROFILE: Final = "HOLDFAST_SANDBOX_PROFILE"
BACKENDS: Final = "HOLDFAST_SANDBOX_BACKENDS"
ALLOW_OLD: Final = "HOLDFAST_SANDBOX_ALLOW_OLD"
_PART: Final = "sandbox"
_BACKENDS: Final = "backends"
_LANGUAGES: Final = "languages"


def layers() -> list[Finding]:
    """Starts the sandbox of each backend that is set, which attacks its own layers; without one all but `code.exec` works."""
    profile, names = os.environ.get(PROFILE, "full"), os.environ.get(BACKENDS) or "native"
    try:
        chosen = by_tier([name.strip() for name in names.split(",")])
    except ValueError as error:
        return [warning(_PART, f"{BACKENDS} {error}", "name backends by commas, one for each tier at most")]
    return [asyncio.run(_layers(profile, tier, backend)) for tier, backend in chosen.items()]


def backends() -> Finding:
    """Says what else could isolate code on this machine, and what of it is set."""
    from sandbox.backends import KINDS
    from sandbox.isolators import look

    words = []
    for kind in KINDS.values():
        if kind.program:
            found = look(kind.program, kind.least)
            old = "" if found.usable or not found.path else f": {kind.why}"
            words.append(f"{kind.name} (tier {kind.tier}): {found.words}{old}")
    names = os.environ.get(BACKENDS) or "native"
    if not {kind.name for kind in KINDS.values() if kind.tier == KERNEL} & {name.strip() for name in names.split(",")}:
        words.append("none of the tier kernel is set, so code that asks for it is refused")
    return ok(_BACKENDS, f"{BACKENDS}={names}; {'; '.join(words)}")


def languages() -> Finding:
    """Says what code can be written in and with here."""
    from sandbox.environments import Environments, data_lock
    from sandbox.runtime import installed

    there = ["python", *(name for name, is_here in installed().items() if is_here)]
    missing = [name for name, is_here in installed().items() if not is_here]
    folder = os.environ.get(FOLDER)
    environments = Environments(Path(folder) if folder else None)
    data = environments.find(data_lock()) is not None
    others = sum(not one.data for one in environments.list())
    words = [f"code can be {', '.join(there)}"]
    words += [f"without {', '.join(missing)}, which is not installed"] if missing else []
    words += [f"runtime data {'built' if data else 'not built'}", f"{others} environments by other locks"]
    if not data:
        return warning(
            _LANGUAGES, "; ".join(words), "run `holdfast sandbox build data` if code shall have numpy and pandas"
        )
    return ok(_LANGUAGES, "; ".join(words))


async def _layers(profile: str, tier: str, backend: str) -> Finding:
    from sandbox.errors import LayerMissing
    from sandbox.service import Sandbox, Settings

    if profile not in ("full", "unprivileged"):
        return warning(_PART, f"{PROFILE} is {profile!r}", "set it to full or unprivileged")
    try:
        async with Sandbox(
            Settings(
                profile="full" if profile == "full" else "unprivileged",
                backend=backend,
                allow_old=backend in os.environ.get(ALLOW_OLD, "").split(","),
                idle_min=1,
                idle_max=1,
            )
        ) as sandbox:
            receipt = sandbox.receipt
    except LayerMissing as error:
        refused = f"code.exec in the tier {tier} is refused here; everything else works"
        return warning(
            _PART, f"{error.message}: {refused}", f"{error.remedy} ({PROFILE}=unprivileged allows the latter)"
        )
    except HoldfastError as error:
        refused = f"code.exec in the tier {tier} is refused here; everything else works"
        return warning(_PART, f"{error.message}: {refused}", error.remedy)
    where = f"tier {tier} by {receipt.version or receipt.backend}"
    if receipt.missing:
        return warning(
            _PART,
            f"{where}, profile {receipt.profile}: {len(receipt.layers)} layers hold, without {', '.join(receipt.missing)}",
            " ".join(receipt.weaker),
        )
    if receipt.weaker:
        return warning(_PART, f"{where}: all {len(receipt.layers)} layers hold", " ".join(receipt.weaker))
    return ok(_PART, f"{where}: all {len(receipt.layers)} layers hold: {', '.join(receipt.layers)}")
