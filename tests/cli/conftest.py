from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.stack.supervisor import Stack
from demo.refund_desk.world.servers import World

from .desk import Desk, move_in


@pytest.fixture(scope="package")
async def desk() -> AsyncIterator[Desk]:
    """A whole stack with one tenant in it, and the commands that speak to it."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-cli-"))
    folder.chmod(0o755)
    try:
        async with (
            Stack(
                folder / "data",
                ports="free",
                provider="simulated",
                headless=True,
                extra_env={"executor": {"PYTHONPATH": str(folder / "packages")}},
            ) as stack,
            World(folder / "world") as world,
        ):
            desk = await move_in(stack, world, folder / "packages")
            yield desk
            desk.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("HOLDFAST_") and name != "HOLDFAST_TEMPORAL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
