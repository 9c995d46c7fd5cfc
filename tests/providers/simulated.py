"""A running simulated provider, and what tests need to call models at it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from activities.model_call import call_model
from holdfast.errors import LeaseLost
from holdfast.providers.model import Delta, ModelOutcome, ModelRequest, ToolSpec, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
WIRES: tuple[Wire, ...] = ("anthropic", "openai")
MODELS = {"anthropic": "claude-haiku-4-5", "openai": "gpt-4.1"}
API_KEY = "key-from-the-vault"
KEY_FINGERPRINT = "a91d3852"  # what the simulated provider shows of it
MAIL = ToolSpec("mail.send", "sends mail", {"type": "object", "properties": {"to": {"type": "string"}}})


class Simulated:
    """Talks to the control endpoint of a simulated provider."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _control(self, name: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/control/{name}", data=data), timeout=60
        ) as reply:
            assert reply.headers["x-holdfast-simulated"] == "true"
            return json.load(reply)

    def fault(self, kind: str, **members: object) -> None:
        self._control("faults", [{"kind": kind, **members}])

    def faults(self, orders: object) -> Any:
        return self._control("faults", orders)

    def release(self) -> int:
        released: int = self._control("release", {})["released"]
        return released

    def reset(self) -> None:
        self._control("reset", {})

    def calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = self._control("calls")["calls"]
        return calls

    def base_url(self, wire: Wire) -> str:
        return self.url if wire == "anthropic" else f"{self.url}/v1"

    def credential(self, wire: Wire, **changes: object) -> dict[str, object]:
        return {"api_key": API_KEY, "base_url": self.base_url(wire), "simulated": True, **changes}

    def wait_for_state(self, state: str) -> dict[str, Any]:
        """Polls the journal until the last call is in that state."""
        give_up = time.monotonic() + 45
        while time.monotonic() < give_up:
            calls = self.calls()
            if calls and calls[-1]["state"] == state:
                return calls[-1]
            time.sleep(0.01)
        raise AssertionError(f"no call reached the state {state}: {self.calls()}")


def ready_line(stderr: IO[str]) -> dict[str, Any]:
    """Reads up to the line that says that the process is ready."""
    for line in stderr:
        if line.startswith("{"):
            event: dict[str, Any] = json.loads(line)
            if event.get("event") == "ready":
                return event
    raise AssertionError("the simulated provider ended before it was ready")


@contextmanager
def running(*arguments: str) -> Iterator[tuple[Simulated, subprocess.Popen[str]]]:
    """Runs a simulated provider on a free port."""
    command = [sys.executable, "-m", "cli.simulated_provider", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stderr is not None
            event = ready_line(process.stderr)
            yield Simulated(f"http://{event['host']}:{event['port']}"), process
        finally:
            process.terminate()
            process.wait(60)


class Outward:
    """A lease that records what is asked of it and can be lost at either point."""

    def __init__(self, *, lost_at_begin: bool = False, lost_at_write: bool = False) -> None:
        self.asked: list[str] = []
        self._lost_at_begin = lost_at_begin
        self._lost_at_write = lost_at_write

    remaining_ms = 60_000

    async def begin(self) -> None:
        self.asked.append("begin")
        if self._lost_at_begin:
            raise LeaseLost("the hold was settled meanwhile")

    def assert_live(self) -> None:
        self.asked.append("assert_live")
        if self._lost_at_write:
            raise LeaseLost("the lease has run out")


DEADLINES_MS: Final = (300, 3_000, 30_000)
"""For what has to be cut off in its course: the next one where a busy machine had not come so far before the first passed."""


async def cut_off(simulated: Simulated, request: ModelRequest, at: str) -> ModelOutcome:
    """Calls a model that hangs at the start, or in the middle, until the deadline."""
    for deadline_ms in DEADLINES_MS:
        simulated.reset()
        simulated.fault("hang", at=at)
        outcome = await call(simulated, request, deadline_ms=deadline_ms)
        if outcome.error_code == "provider.unreachable":
            continue
        if at == "start" or outcome.received_output_bytes:
            break
        simulated.wait_for_state("disconnected")  # what was ordered next is for the next call
    return outcome


def script(*steps: Mapping[str, object]) -> str:
    return f"#!script {json.dumps(steps)}"


def request_for(
    wire: Wire, text: str = "hello", *, max_tokens: int = 1_000, tools: tuple[ToolSpec, ...] = (MAIL,)
) -> ModelRequest:
    return ModelRequest(wire, MODELS[wire], max_tokens, "be brief", [{"kind": "user", "text": text}], list(tools))


async def ignore(_delta: Delta) -> None:
    """Takes a delta and does nothing."""


async def call(
    simulated: Simulated,
    request: ModelRequest,
    *,
    outward: Outward | None = None,
    on_delta: Callable[[Delta], Awaitable[None]] = ignore,
    on_partial: Callable[[ModelOutcome], None] | None = None,
    deadline_ms: int = 60_000,
    **credential: object,
) -> ModelOutcome:
    """Calls a model at the simulated provider."""
    return await call_model(
        request,
        simulated.credential(request.wire, **credential),
        "acme:run-1:3",
        outward or Outward(),
        on_delta,
        deadline_ms,
        on_partial=on_partial,
    )
