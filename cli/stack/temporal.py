"""Temporal's dev server as a child. `python -m cli.stack.temporal` makes sure that its program is here."""

from __future__ import annotations

import asyncio
import importlib
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

from cli.stack.child import ChildSpec
from cli.stack.data_folder import DataFolder
from cli.stack.log_file import LogFile
from cli.stack.ports import LOOPBACK, Ports
from cli.stack.probe import Probe, listens

NAMESPACE: Final = "holdfast"
RETENTION: Final = timedelta(days=30)
_CONNECT_TIMEOUT_S: Final = 5.0
_RPC_TIMEOUT: Final = timedelta(seconds=3)
# The defaults poll a shard's queues 20 times a second, which would cost every action 100 ms.
_POLLS_PER_SECOND: Final = 5000


def prepare(folder: DataFolder, program: Path, ports: Ports, *, headless: bool) -> ChildSpec:
    """Returns Temporal as a child."""
    argv = [
        str(program),
        "server",
        "start-dev",
        f"--ip={LOOPBACK}",
        f"--port={ports.temporal}",
        f"--db-filename={folder.temporal / 'temporal.db'}",
        "--sqlite-pragma=journal_mode=wal",
        "--sqlite-pragma=synchronous=full",
        f"--namespace={NAMESPACE}",
        f"--dynamic-config-value=history.transferProcessorMaxPollRPS={_POLLS_PER_SECOND}",
        f"--dynamic-config-value=history.timerProcessorMaxPollRPS={_POLLS_PER_SECOND}",
        "--log-level=error",
        "--log-format=json",
    ]
    if headless:
        argv.append("--headless")
    else:
        argv += [f"--ui-port={ports.temporal_ui}", f"--ui-codec-endpoint=http://{LOOPBACK}:{ports.api}/codec"]
    return ChildSpec(
        name="temporal",
        argv=argv,
        # a home of its own: no configuration of the user's changes how it runs
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder.temporal)},
        log_path=folder.logs / "temporal.log",
        ready=_ready(ports.temporal),
        folder=folder.temporal,
        ready_timeout_ms=120_000,
    )


def _ready(port: int) -> Probe:
    """It answers for the namespace, which is then told how long to keep what has ended."""
    listening = listens(LOOPBACK, port)

    async def probe(log: LogFile) -> bool:
        if not await listening(log):
            return False
        # imported by a thread while other children start: it takes a good part of a second
        await asyncio.to_thread(importlib.import_module, "temporalio.client")
        from google.protobuf.duration_pb2 import Duration
        from temporalio.api.namespace.v1 import NamespaceConfig
        from temporalio.api.workflowservice.v1 import UpdateNamespaceRequest
        from temporalio.client import Client
        from temporalio.service import RPCError

        retention = Duration()
        retention.FromTimedelta(RETENTION)
        config = NamespaceConfig(workflow_execution_retention_ttl=retention)
        request = UpdateNamespaceRequest(namespace=NAMESPACE, config=config)
        try:
            connecting = Client.connect(f"{LOOPBACK}:{port}", namespace=NAMESPACE)
            client = await asyncio.wait_for(connecting, _CONNECT_TIMEOUT_S)
            await client.workflow_service.update_namespace(request, timeout=_RPC_TIMEOUT)
        except (RPCError, RuntimeError, TimeoutError):  # the SDK's word for a connection that fails is RuntimeError
            return False
        return True

    return probe


if __name__ == "__main__":
    from cli.stack.temporal_program import main

    sys.exit(main())
