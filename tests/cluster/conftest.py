from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from demo.refund_desk.setting import BRAIN, HEARTBEAT_TIMEOUT_MS

from .native import Cluster
from .record import Recorder


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(), "cluster-record")


@pytest.fixture(scope="session")
async def cluster() -> AsyncIterator[Cluster]:
    """Everything of compose.yaml, with the simulated provider, as `docker compose --profile simulated up` would start it."""
    folder = Path(tempfile.mkdtemp(prefix="hf-"))
    folder.chmod(0o755)
    try:
        async with Cluster(
            folder,
            environ={"HOLDFAST_PROVIDERS": "simulated", "HOLDFAST_HEARTBEAT_TIMEOUT_MS": HEARTBEAT_TIMEOUT_MS},
            profiles=["simulated"],
            more_arguments={"provider": ["--brain", BRAIN]},
        ) as started:
            yield started
    except BaseException:
        kept = Path(tempfile.mkdtemp(prefix="hf-logs-"))
        shutil.copytree(folder / "logs", kept, dirs_exist_ok=True)
        print(f"the logs of all services are kept in {kept}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
