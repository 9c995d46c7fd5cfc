"""What happens: a run is followed as it works, its processes are killed under it, a person is asked; then a run with a tiny cap."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from temporalio.api.workflow.v1 import PendingActivityInfo

from demo.refund_desk import policy
from demo.refund_desk.setting import EXECUTORS, Setting
from demo.refund_desk.show import Show
from holdfast.contracts import names
from holdfast.errors import HoldfastError
from holdfast.money import NANO_PER_USD, format_usd
from sdk import Approval, Event, Holdfast, HoldfastApiError
from sdk.types import Verdict

_POLL_S: Final = 0.02
_GATE_S: Final = 60.0
_CALLS_OF_TINY_RUN: Final = 3
_CSV: Final = Path(__file__).with_name("refunds.csv")
_FILES: Final = {_CSV.name: _CSV.read_bytes()}

Ask = Callable[[Approval], Awaitable[Verdict]]


class StoryBrokenError(HoldfastError):
    """Something did not happen that the story needs."""

    code = "demo.story_broken"


@dataclass(slots=True)
class Told:
    """What happened, for those who check it.

    Attributes:
        run_id: The main run.
        verdicts: What the person decided, by order.
        killed_executor: Which executor was killed in the middle of a model call.
        killed_governor: Whether the governor was killed.
        refused_admission: Code with which a run was not even admitted.
        tiny_run_id: The run with the tiny cap.
        tiny_cap_nano_usd: That cap.
        neighbour_saw: HTTP status that the other tenant's key got when it asked for the main run.
        no_sandbox: Why no code could be run on this machine, if none could.
    """

    run_id: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    killed_executor: str = ""
    killed_governor: bool = False
    refused_admission: str = ""
    tiny_run_id: str = ""
    tiny_cap_nano_usd: int = 0
    neighbour_saw: int = 0
    no_sandbox: str = ""


async def tell(setting: Setting, show: Show, ask: Ask) -> Told:
    """Plays the whole story."""
    told = Told()
    show.chapter(f"the refund desk works through its inbox ({setting.model.said} thinks)")
    await _MainRun(setting, show, ask, told).play()
    show.chapter("a run whose cap is used up")
    await _tiny_runs(setting, show, told)
    show.chapter("another tenant looks")
    try:
        await asyncio.to_thread(setting.people.neighbour.run, told.run_id)
        told.neighbour_saw = 200
    except HoldfastApiError as error:
        told.neighbour_saw = error.status
        show.say(f"{policy.NEIGHBOUR}'s owner asks for that run: {error.status} {error.code}: {error.detail}")
    return told


async def follow(client: Holdfast, run_id: str) -> AsyncIterator[Event]:
    """Yields a run's events; the client is a synchronous one, so a thread reads."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

    def read() -> None:
        last: Exception | None = None
        try:
            for event in client.events(run_id):
                loop.call_soon_threadsafe(queue.put_nowait, event)
        except Exception as error:  # noqa: BLE001 (it is raised again where the events are read)
            last = error
        loop.call_soon_threadsafe(queue.put_nowait, last)

    reading = asyncio.create_task(asyncio.to_thread(read))
    while (item := await queue.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item
    await reading


class _MainRun:
    """Follows the main run, and strikes at the moments that matter."""

    def __init__(self, setting: Setting, show: Show, ask: Ask, told: Told) -> None:
        self._setting = setting
        self._show = show
        self._ask = ask
        self._told = told
        self._tasks: list[asyncio.Task[None]] = []
        self._mails_read = False
        self._struck = False
        self._refunds = 0

    async def play(self) -> None:
        """Starts the run and follows it to its end."""
        people = self._setting.people
        created = await asyncio.to_thread(people.desk.create_run, policy.AGENT, policy.TASK, files=_FILES)
        self._told.run_id = created.run_id
        self._show.say(f"run {created.run_id} is admitted, with a cap of {format_usd(created.cap_nano_usd)}")
        self._show.say(f"in Temporal's UI: {self._setting.ui_of(created.run_id)}")
        async for event in follow(people.desk, created.run_id):
            self._show.event(event)
            await self._react(event)
        for task in self._tasks:
            await task  # whatever went wrong in there is raised here

    async def _react(self, event: Event) -> None:
        if event.type == "tool.result" and event.data["tool"] == "mail.read" and not self._mails_read:
            self._mails_read = True
            if self._setting.model.simulated:
                # the next answer stops in the middle and waits there
                order = [{"kind": "gate"}]
                (await self._setting.provider.post("/control/faults", json=order)).raise_for_status()
                self._strike_executor()
        elif event.type == "answer.delta" and self._mails_read and not self._setting.model.simulated:
            self._strike_executor()  # a real model's answer has begun to arrive
        elif event.type == "tool.result" and event.data["tool"] == "payments.refund":
            self._refunds += 1
            if self._refunds == 2:  # noqa: PLR2004 (the second: a refund has been paid, its customer not answered yet)
                await self._kill_governor(event)
        elif event.type == "approval.requested":
            await self._decide(str(event.data["approval_id"]))
        elif event.type == "code.result" and not event.data["ok"] and "exit_status" not in event.data:
            self._told.no_sandbox = str(event.data["content"])
            self._show.say(f"no code can be run on this machine: {self._told.no_sandbox}", "yellow")
        elif (event.type, event.data.get("code")) == ("run.waiting", "outcome.unknown"):
            raise StoryBrokenError(
                "an action that must not be repeated was interrupted, and the run waits for a person to say what became of it",
                remedy="no process is killed at such a moment here, so the machine was too slow: try again",
            )

    def _strike_executor(self) -> None:
        if not self._struck:
            self._struck = True
            self._tasks.append(asyncio.create_task(self._kill_executor_in_call()))

    async def _kill_executor_in_call(self) -> None:
        """Kills the executor that is receiving a model's answer at this moment, as Temporal knows it."""
        pending = await self._call_in_progress()
        pid = int(pending.last_worker_identity.partition("@")[0])
        installation = self._setting.installation
        executors = (f"executor-{number + 1}" for number in range(EXECUTORS))
        name = next((name for name in executors if installation.pid(name) == pid), "")
        if not name:
            raise StoryBrokenError(f"no executor has the process id {pid}")
        self._show.strike(f"{name} (process {pid}) is in the middle of {pending.activity_id}, a model call: kill -9")
        await installation.kill(name)
        self._told.killed_executor = name
        if self._setting.model.simulated:
            (await self._setting.provider.post("/control/release")).raise_for_status()

    async def _call_in_progress(self) -> PendingActivityInfo:
        """Waits until an answer has begun to arrive, and returns the activity that receives it."""
        handle = self._setting.temporal.get_workflow_handle(self._told.run_id)
        try:
            async with asyncio.timeout(_GATE_S):
                while True:
                    if await self._answer_has_begun():
                        described = await handle.describe()
                        for pending in described.raw_description.pending_activities:
                            if pending.activity_type.name == names.EXECUTE_LLM_CALL and pending.last_worker_identity:
                                return pending
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise StoryBrokenError(f"no model call was under way within {_GATE_S:g} s") from None

    async def _answer_has_begun(self) -> bool:
        if not self._setting.model.simulated:
            return True
        calls = (await self._setting.provider.get("/control/calls")).json()["calls"]
        return any(call["state"] == "waiting" for call in calls)

    async def _kill_governor(self, event: Event) -> None:
        pid = self._setting.installation.pid("governor")
        self._show.strike(
            f"step {event.data['step']}, a refund, is settled, and nobody is answered yet: kill -9 the governor (process {pid})"
        )
        await self._setting.installation.kill("governor")
        self._told.killed_governor = True

    async def _decide(self, approval_id: str) -> None:
        approver = self._setting.people.approver
        approval = await asyncio.to_thread(approver.approval, approval_id)
        verdict = await self._ask(approval)
        self._told.verdicts.append(verdict)
        with contextlib.suppress(HoldfastApiError):  # expired meanwhile: the run says so
            await asyncio.to_thread(approver.decide, approval_id, verdict, comment="decided in the demo")


async def _tiny_runs(setting: Setting, show: Show, told: Told) -> None:
    """A run that cannot even begin, and one whose cap affords a few calls and no more."""
    desk = setting.people.desk
    try:
        await asyncio.to_thread(desk.create_run, policy.AGENT, policy.TASK, cap_usd="0.0001")
    except HoldfastApiError as error:
        told.refused_admission = error.code
        show.say(f"a run with a cap of $0.0001 is not admitted: {error.status} {error.code}: {error.detail}", "red")
    told.tiny_cap_nano_usd = await _tiny_cap(setting, told.run_id)
    cap_usd = f"{told.tiny_cap_nano_usd // NANO_PER_USD}.{told.tiny_cap_nano_usd % NANO_PER_USD:09d}"
    created = await asyncio.to_thread(desk.create_run, policy.AGENT, policy.TASK, cap_usd=cap_usd)
    told.tiny_run_id = created.run_id
    show.say(f"the same run with a cap of {format_usd(created.cap_nano_usd)}: {_CALLS_OF_TINY_RUN} calls, not one more")
    async for event in follow(desk, created.run_id):
        show.event(event)


async def _tiny_cap(setting: Setting, run_id: str) -> int:
    """Returns a cap that the first calls of the same work fit under, and the one after them does not."""
    holds = await asyncio.to_thread(setting.people.desk.holds, run_id=run_id)
    calls = [hold for hold in holds[::-1] if hold.kind == "llm.call" and hold.state == "committed"]
    calls = calls[:_CALLS_OF_TINY_RUN]
    spent = sum(hold.cost_nano_usd or 0 for hold in calls)
    last = calls[-1]
    return last.max_cost_nano_usd + spent - (last.cost_nano_usd or 0) // 2
