"""How soon the first token arrives: a governed run over the API, against a bare FastAPI pass-through to the same provider."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import orjson
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from bench.place import MODEL, Place, open_place
from bench.report import Figure, Report
from cli.stack.ports import LOOPBACK, Ports
from holdfast.database.engine import transaction
from holdfast.tenancy.keys import create_key

PROVIDER_DELAY_MS = 400
_PROMPT = "Say hello.\n#!script " + '[{"say": "Hello from the far side of the gate, in more than one piece."}]'


@asynccontextmanager
async def _bare_proxy(provider_url: str) -> AsyncIterator[str]:
    """Serves what most teams begin with: a FastAPI route that passes the provider's stream on."""
    app = FastAPI()
    upstream = httpx.AsyncClient(base_url=provider_url, trust_env=False, timeout=30)

    @app.post("/v1/messages")
    async def pass_on(request: Request) -> StreamingResponse:
        headers = {"content-type": "application/json", "x-api-key": "simulated", "anthropic-version": "2023-06-01"}
        outgoing = upstream.build_request("POST", "/v1/messages", content=await request.body(), headers=headers)
        response = await upstream.send(outgoing, stream=True)
        return StreamingResponse(response.aiter_raw(), media_type="text/event-stream")

    server = uvicorn.Server(uvicorn.Config(app, host=LOOPBACK, port=0, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 (uvicorn offers a flag, not an event)
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://{LOOPBACK}:{port}"
    finally:
        server.should_exit = True
        await serving
        await upstream.aclose()


async def _bare_first_token_ms(client: httpx.AsyncClient) -> float:
    """Returns milliseconds from sending the request to the first piece of the answer."""
    body = {
        "model": MODEL,
        "max_tokens": 1_000,
        "stream": True,
        "messages": [{"role": "user", "content": _PROMPT}],
    }
    started = time.perf_counter()
    async with client.stream("POST", "/v1/messages", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data:") and "text_delta" in line:
                return (time.perf_counter() - started) * 1000
    raise RuntimeError("the pass-through sent no text")


async def _governed_first_token_ms(client: httpx.AsyncClient) -> float:
    """Returns milliseconds from submitting the run to the first token event of its stream."""
    started = time.perf_counter()
    created = await client.post("/v1/runs", json={"agent": "reader", "input": _PROMPT})
    created.raise_for_status()
    run_id = created.json()["run_id"]
    first_ms = 0.0
    async with client.stream("GET", f"/v1/runs/{run_id}/events") as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            event = orjson.loads(line[5:])
            if not first_ms and event["type"] == "answer.delta":
                first_ms = (time.perf_counter() - started) * 1000
            if event["type"] == "run.ended":
                if event["data"]["status"] != "succeeded" or not first_ms:
                    raise RuntimeError(f"run {run_id} ended as {event['data']} after {first_ms} ms to its first token")
                return first_ms
    raise RuntimeError(f"the stream of run {run_id} ended early")


async def _key(place: Place) -> str:
    principal = place.principal
    async with transaction(place.engine, principal.tenant_id) as connection:
        _, key = await create_key(
            connection,
            principal.tenant_id,
            user_id=principal.user_id,
            project_id=principal.project_id,
            roles=["developer"],
        )
    return key


async def measure(*, quick: bool) -> Report:
    """Measures the time to the first token, alternating between the two ways."""
    rounds = 8 if quick else 30
    ports = Ports.free()
    provider = [
        *(sys.executable, "-m", "cli.simulated_provider"),
        *("--port", str(ports.provider), "--delay-ms", str(PROVIDER_DELAY_MS)),
    ]
    bare_ms: list[float] = []
    governed_ms: list[float] = []
    async with open_place(api=True, ports=ports, commands={"provider": provider}) as place:
        headers = {"authorization": f"Bearer {await _key(place)}"}
        async with (
            _bare_proxy(place.stack.urls.provider) as proxy_url,
            httpx.AsyncClient(base_url=proxy_url, trust_env=False, timeout=30) as bare,
            httpx.AsyncClient(base_url=place.stack.urls.api, trust_env=False, timeout=30, headers=headers) as governed,
        ):
            for number in range(rounds + 2):
                bare_once_ms = await _bare_first_token_ms(bare)
                governed_once_ms = await _governed_first_token_ms(governed)
                if number >= 2:  # noqa: PLR2004 (the first two warm up connections and caches)
                    bare_ms.append(bare_once_ms)
                    governed_ms.append(governed_once_ms)
    bare_p50_ms, governed_p50_ms = statistics.median(bare_ms), statistics.median(governed_ms)
    return Report(
        "stream",
        figures={
            "first_token_over_bare_proxy": Figure(governed_p50_ms / bare_p50_ms, "ratio", ("<=", 1.5)),
            "first_token_overhead_ms": Figure(governed_p50_ms - bare_p50_ms, "ms"),
            "first_token_p50_ms_governed": Figure(governed_p50_ms, "ms"),
            "first_token_p50_ms_bare": Figure(bare_p50_ms, "ms"),
        },
        notes=[
            f"{rounds} runs each, alternating; the provider waits {PROVIDER_DELAY_MS} ms before its first token, as hosted models do",
            "governed = POST /v1/runs, then the first token event of its stream: admission, workflow start, hold and permit included",
        ],
    )
