"""Whether code can be run here: the sandbox's canary attacks every layer, as it does before the first job."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from cli.doctor.finding import Finding, ok, warning
from cli.environments import FOLDER
from holdfast.errors import HoldfastError

PROFILE: Final = "HOLDFAST_SANDBOX_PROFILE"
_PART: Final = "sandbox"
_LANGUAGES: Final = "languages"


def layers() -> Finding:
    """Starts a sandbox, which attacks its own layers, and ends it; without one everything but `code.exec` works."""
    return asyncio.run(_layers(os.environ.get(PROFILE, "full")))


def languages() -> Finding:
    """Says what code can be written in and with here, and what else could isolate it."""
    from sandbox.environments import Environments, data_lock
    from sandbox.isolators import found
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
    words.append(f"jobs run in the sandbox's own layers alone ({', '.join(one.words for one in found())})")
    if not data:
        return warning(
            _LANGUAGES, "; ".join(words), "run `holdfast sandbox build data` if code shall have numpy and pandas"
        )
    return ok(_LANGUAGES, "; ".join(words))


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
