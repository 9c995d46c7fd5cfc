"""`python -m cli.stack.temporal_download VERSION FOLDER`: has Temporal's SDK download its program into a folder."""

from __future__ import annotations

import asyncio
import sys

from temporalio.testing import WorkflowEnvironment


async def _download(version: str, folder: str) -> None:
    # The SDK has no download alone: it starts what it has downloaded, which also shows that it runs here.
    environment = await WorkflowEnvironment.start_local(
        dev_server_download_version=f"v{version}", download_dest_dir=folder, dev_server_log_level="never"
    )
    await environment.shutdown()


if __name__ == "__main__":
    asyncio.run(_download(sys.argv[1], sys.argv[2]))
