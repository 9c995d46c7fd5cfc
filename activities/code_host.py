"""The sandbox of one process: started when the first code is to run, and anew after it was lost."""

from __future__ import annotations

import asyncio

import structlog

from sandbox.errors import LayerMissing
from sandbox.service import Sandbox, Settings

_log = structlog.get_logger("sandbox")


class CodeHost:
    """Keeps a sandbox.

    Args:
        settings: How jobs are run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sandbox: Sandbox | None = None
        self._starting = asyncio.Lock()

    async def sandbox(self) -> Sandbox:
        """Returns the sandbox, started: its canary has attacked every layer.

        Raises:
            LayerMissing: A layer does not hold here that the settings do not allow to be missing: no code runs (LAW 6, LAW 7).
            SandboxLost: It cannot run.
        """
        async with self._starting:
            if self._sandbox is None:
                sandbox = Sandbox(self._settings)
                try:
                    await sandbox.start()
                except LayerMissing as error:
                    _log.error("sandbox.refused", layer=error.layer.value, cause=error.message)
                    raise
                self._sandbox = sandbox
                receipt = sandbox.receipt
                _log.info("sandbox.ready", profile=receipt.profile, missing=list(receipt.missing))
            return self._sandbox

    async def forget(self, sandbox: Sandbox) -> None:
        """Closes a sandbox that was lost; the next job gets another."""
        async with self._starting:
            if self._sandbox is sandbox:
                self._sandbox = None
                await sandbox.close()

    async def close(self) -> None:
        """Ends the sandbox, and every job with it."""
        async with self._starting:
            if self._sandbox is not None:
                sandbox, self._sandbox = self._sandbox, None
                await sandbox.close()
