"""The embedded stack that runs on a data folder: its processes, servers, Temporal with its workers, and the broker."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cli.doctor import own_servers
from cli.doctor.finding import Finding, failed, ok, warning
from cli.stack.data_folder import DataFolder

if TYPE_CHECKING:
    from pydantic import JsonValue
    from temporalio.client import Client

_TIMEOUT_S: Final = 5.0


def running(folder: DataFolder, state: Mapping[str, JsonValue]) -> Iterator[Finding]:
    """Looks at all parts of a stack that runs."""
    yield from _processes(folder, state)
    urls = _object(state.get("urls"))
    yield from _servers(folder, state, urls)
    if address := str(urls.get("temporal", "")):
        yield from asyncio.run(temporal(address, see=f"see {folder.logs}"))
    if broker := str(urls.get("broker", "")):
        yield _broker(broker, folder)


def _object(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _children(state: Mapping[str, JsonValue]) -> list[dict[str, JsonValue]]:
    children = state.get("children")
    return [child for child in children if isinstance(child, dict)] if isinstance(children, list) else []


def _processes(folder: DataFolder, state: Mapping[str, JsonValue]) -> Iterator[Finding]:
    children = _children(state)
    if not state.get("ready"):
        yield warning("stack", f"on {folder.path} is being started or stopped", "wait, and ask again")
    for child in children:
        name, how, restarts = child.get("name"), child.get("state"), child.get("restarts")
        if how != "ready":
            yield failed(str(name), f"is {how} after {restarts} restarts", f"see {folder.logs / f'{name}.log'}")
        elif isinstance(restarts, int) and restarts > 0:
            yield warning(str(name), f"has been restarted {restarts} times", f"see {folder.logs / f'{name}.log'}")
    good = sum(child.get("state") == "ready" for child in children)
    if good == len(children):
        yield ok("stack", f"runs on {folder.path}, {good} processes")


def _servers(folder: DataFolder, state: Mapping[str, JsonValue], urls: Mapping[str, JsonValue]) -> Iterator[Finding]:
    """Asks the embedded PostgreSQL and Valkey with the passwords of the data folder, which are shown nowhere."""
    names = {child.get("name") for child in _children(state)}
    if not {"postgres", "valkey"} <= names or os.environ.get("HOLDFAST_POSTGRES") or os.environ.get("HOLDFAST_REDIS"):
        return
    from cli.stack.valkey import url as valkey_url
    from holdfast.database.roles import url_for

    ports = _object(state.get("ports"))
    try:
        passwords = json.loads((folder.secrets / "database.json").read_text(encoding="ascii"))
        valkey_password = (folder.secrets / "valkey.key").read_text(encoding="ascii").strip()
        postgres = url_for(f"postgresql://127.0.0.1:{ports['postgres']}", "holdfast_api", passwords["holdfast_api"])
    except (OSError, ValueError, KeyError):
        return  # the finding about the secrets says so already
    yield from own_servers.embedded(postgres, valkey_url(int(str(ports["valkey"])), valkey_password))


async def temporal(address: str, *, see: str) -> list[Finding]:
    """Asks Temporal for its version, and for who takes work from our queues."""
    from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
    from temporalio.client import Client
    from temporalio.service import RPCError

    from cli.stack.temporal import NAMESPACE

    try:
        client = await asyncio.wait_for(Client.connect(address, namespace=NAMESPACE), _TIMEOUT_S)
        info = await client.workflow_service.get_system_info(
            GetSystemInfoRequest(), timeout=timedelta(seconds=_TIMEOUT_S)
        )
        workers = [await _pollers(client, kind, queue) for kind, queue in _queues()]
    except (
        RPCError,
        RuntimeError,
        TimeoutError,
        OSError,
    ) as error:  # the SDK's word for a connection that fails is RuntimeError
        return [failed("temporal", f"{address} does not answer: {type(error).__name__}", see)]
    found = [ok("temporal", f"server {info.server_version} at {address}")]
    for (kind, queue), pollers in zip(_queues(), workers, strict=True):
        part = f"{kind}s"
        if pollers:
            found.append(ok(part, f"{len(pollers)} take work from {queue}: {', '.join(sorted(pollers))}"))
        else:
            found.append(failed(part, f"nobody takes work from {queue}: runs wait", f"start one; {see}"))
    return found


def _queues() -> tuple[tuple[str, str], ...]:
    from holdfast.contracts import names

    return (
        ("governor", names.GOVERNOR_QUEUE),
        ("model executor", names.LLM_QUEUE),
        ("tool executor", names.TOOL_QUEUE),
    )


async def _pollers(client: Client, kind: str, queue: str) -> set[str]:
    """Returns who has asked for work lately: Temporal forgets a worker after five minutes."""
    from temporalio.api.enums.v1 import TaskQueueType
    from temporalio.api.taskqueue.v1 import TaskQueue
    from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

    activity = kind != "governor"
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY if activity else TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    answer = await client.workflow_service.describe_task_queue(request, timeout=timedelta(seconds=_TIMEOUT_S))
    return {poller.identity for poller in answer.pollers}


def _broker(url: str, folder: DataFolder) -> Finding:
    import httpx

    try:
        answer = httpx.get(f"{url}/healthz", timeout=_TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        return failed("broker", f"{url} does not answer: {type(error).__name__}", f"see {folder.logs}")
    if answer.is_success:
        return ok("broker", f"answers at {url}")
    return failed("broker", f"{url} answers with status {answer.status_code}", f"see {folder.logs}")
