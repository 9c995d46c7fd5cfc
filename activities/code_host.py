"""The sandboxes of one process, one for each tier: each started when the first code is to run there, and anew after it was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from holdfast.contracts.tiers import PROCESS, Tier, unavailable
from sandbox.errors import BackendMissing, LayerMissing, raise_first
from sandbox.service import Sandbox, Settings

_log = structlog.get_logger("sandbox")


class CodeHost:
    """Keeps sandboxes.

    Args:
        settings: How jobs are run in each tier that there is.
    """

    def __init__(self, settings: Mapping[Tier, Settings]) -> None:
        self._settings = settings
        self._sandboxes: dict[Tier, Sandbox] = {}
        self._starting = asyncio.Lock()

    async def sandbox(self, tier: Tier = PROCESS) -> Sandbox:
        """Returns the sandbox of a tier, started: its canary has attacked every layer.

        Raises:
            TierUnavailable: There is none of that tier here, and none of another takes its place (LAW 7).
            BackendMissing: Its program is not here, or too old.
            LayerMissing: A layer does not hold here that the settings do not allow to be missing: no code runs (LAW 6, LAW 7).
            SandboxLost: It cannot run.
        """
        if tier not in self._settings:
            raise unavailable(tier, list(self._settings))
        async with self._starting:
            if (known := self._sandboxes.get(tier)) is not None and known.lost:
                del self._sandboxes[tier]
                await known.close()
            if tier not in self._sandboxes:
                sandbox = Sandbox(self._settings[tier])
                try:
                    await sandbox.start()
                except LayerMissing as error:
                    _log.error("sandbox.refused", tier=tier, layer=error.layer.value, cause=error.message)
                    raise
                except BackendMissing as error:
                    _log.error("sandbox.refused", tier=tier, cause=error.message)
                    raise
                self._sandboxes[tier] = sandbox
                receipt = sandbox.receipt
                _log.info(
                    "sandbox.ready",
                    tier=tier,
                    backend=receipt.backend,
                    version=receipt.version,
                    profile=receipt.profile,
                    missing=list(receipt.missing),
                )
            return self._sandboxes[tier]

    async def start(self) -> None:
        """Starts the sandbox of every tier.

        Raises:
            HoldfastError: As `sandbox` does.
        """
        for tier in self._settings:
            await self.sandbox(tier)

    async def forget(self, sandbox: Sandbox) -> None:
        """Closes a sandbox that was lost; the next job gets another. Nothing is done where only one of its runtimes was lost."""
        async with self._starting:
            if not sandbox.lost:
                return  # jobs of the other runtimes go on
            for tier, known in list(self._sandboxes.items()):
                if known is sandbox:
                    del self._sandboxes[tier]
                    await sandbox.close()

    async def close(self) -> None:
        """Ends every sandbox, and every job with it."""
        async with self._starting:
            sandboxes = list(self._sandboxes.values())
            self._sandboxes.clear()
            raise_first(await asyncio.gather(*(sandbox.close() for sandbox in sandboxes), return_exceptions=True))
