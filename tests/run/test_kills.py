"""Each process killed with -9 before, in and after each step of an action's way: model, mail and payment, each with and without a
steer in between, which changes the path that the workflow takes when it is replayed. Six cells a place, each in a run of its own;
one death takes all who stand at any of a process's places."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pytest

from .harness import Rig, Run, Tenant, mail, refund, say, task, until
from .points import PLACES

# Later places first: whoever is to stand at an earlier one passes none at which others stand.
GOVERNOR_PLACES: Final = ("settle.after", "settle.before", "redeem.in", "reserve.after", "reserve.before")
EXECUTOR_PLACES: Final = (
    ("outcome.after", "outcome.before", "execute.in"),
    ("execute.after_outward", "execute.before_outward", "redeem.after", "redeem.before"),
)
NEVER_SENT: Final = frozenset({"reserve.before", "reserve.after"})
"""Places at which a steer can still make the workflow drop the action."""
LOST: Final = frozenset({"execute.after_outward", "execute.in", "outcome.before"})
"""Places at which nobody but the outside knows whether it happened."""
BOUGHT_TWICE: Final = frozenset({"execute.in", "outcome.before"})
"""Places at which a model's answer is lost after it was asked: it has to be asked again."""


@dataclass(frozen=True)
class Cell:
    """One action, taken by a run of its own, and the place at which its process dies."""

    kind: str
    place: str
    steered: bool
    run: Run
    token: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}{' with a steer' if self.steered else ''}"

    def effects(self, rig: Rig) -> int:
        """How many exist in the world."""
        return len(rig.mails(self.token) if self.kind == "mail" else rig.refunds(self.token))


async def stand_at(rig: Rig, tenant: Tenant, places: Sequence[str]) -> list[Cell]:
    """Brings six runs to each of the places of their action, and leaves them standing there."""
    cells: list[Cell] = []

    async def begin(kind: str, place: str, steered: bool) -> None:
        token = f"{place.replace('.', '-').replace('_', '-')}-{kind}-{'S' if steered else 'N'}".upper()
        action = {"mail": mail(token), "payment": refund(token), "model": say("thought")}[kind]
        cells.append(Cell(kind, place, steered, await tenant.start(task(action, say("done"))), token))

    for place in places:
        if place == "execute.in":
            rig.fault("mail", "gate", times=2)
            rig.fault("refunds", "gate", times=2)
        else:
            rig.points.park(f"{place}:tool.call")
        await asyncio.gather(
            *(begin(kind, place, steered) for kind in ("mail", "payment") for steered in (False, True))
        )
        if place == "execute.in":
            await rig.until_held(4)
        else:
            await rig.points.until_parked(f"{place}:tool.call", 4)
    # only now, for the runs above have thought before they acted
    for place in places:
        if place == "execute.in":
            await rig.think_badly({"kind": "gate", "times": 2})
        else:
            rig.points.park(f"{place}:llm.call")
        await asyncio.gather(*(begin("model", place, steered) for steered in (False, True)))
        if place == "execute.in":
            await rig.until_thinking(2)
        else:
            await rig.points.until_parked(f"{place}:llm.call", 2)
    return cells


async def look_outside(rig: Rig, cell: Cell) -> None:
    """The person who is asked looks into the world, and says what became of the mail."""
    asked: set[object] = set()

    async def answered_or_over() -> bool:
        for hold in await cell.run.holds(tool="mail.send"):
            if hold["state"] == "unknown" and hold["hold_id"] not in asked and await cell.run.status() == "waiting":
                asked.add(hold["hold_id"])
                await cell.run.resolve(hold["hold_id"], happened=cell.effects(rig) > 0)
        return (await cell.run.row())["ended_at"] is not None

    await until(answered_or_over, within_s=120.0, what=f"the end of {cell}")


async def committed(cell: Cell) -> set[str]:
    """The tries that a run knew to be done; beside them, those of a payment that answered when the run had given them up.

    An executor that is slow to be heard is taken for dead. Where the outside knows a try by its key, as payments do, the run tries
    again, and both learn of the one effect.
    """
    done = {str(hold["hold_id"]) for hold in await cell.run.holds("tool.call") if hold["state"] == "committed"}
    if cell.kind == "payment":
        done -= {event["data"]["hold_id"] for event in await cell.run.events("hold.unknown")}
    return done


async def check(rig: Rig, cell: Cell) -> None:
    assert await cell.run.ended() == "succeeded", f"{cell}: {await cell.run.story()}"
    await cell.run.settled()
    story = f"{cell}\n{await cell.run.story()}"
    assert len(await cell.run.events("run.ended")) == 1, story
    asked = [event for event in await cell.run.events("run.waiting") if event["data"]["code"] == "outcome.unknown"]
    assert bool(asked) == (cell.kind == "mail" and cell.place in LOST), story
    assert cell.steered or "superseded" not in await cell.run.states(), story
    if cell.kind == "model":
        keys = Counter(one["idempotency_key"] for one in await rig.model_calls())
        key = f"{cell.run.tenant.tenant_id}:{cell.run.run_id}:1"
        assert keys[key] == (2 if cell.place in BOUGHT_TWICE else 1), story
        return
    dropped = cell.steered and cell.place in NEVER_SENT
    effects = cell.effects(rig)
    # exactly once, unless the person at the run's side said to do something else before anything was done
    assert effects == len(await committed(cell)), story
    assert effects == 1 or (dropped and effects == 0), story


async def test_killed_while_runs_finish_each_ends_once(rig: Rig, tenant: Tenant) -> None:
    finishing = []
    for place in ("finish.after", "finish.before"):
        rig.points.park(place)
        finishing.append(await tenant.start(task(say("done")), guaranteed=True))
        await rig.points.until_parked(place)
    await rig.kill("governor")
    rig.points.clear()
    for run in finishing:
        assert await run.ended() == "succeeded"
        assert len(await run.events("run.ended")) == len(await run.events("budget.returned")) == 1
        assert await run.states() == ["committed"]
    assert not await rig.value("SELECT sum(reserved) FROM caps WHERE tenant_id = $1", tenant.tenant_id)


async def test_failing_once_at_every_place_a_run_comes_through(rig: Rig, tenant: Tenant) -> None:
    for place in (
        "finish.before",
        "finish.after",
        *(f"{place}:{kind}" for place in PLACES for kind in ("llm.call", "tool.call")),
    ):
        rig.points.fail(place)
    cells = [
        Cell(kind, "", False, await tenant.start(task(action, say("done")), max_tries=20), f"FAILING-{number}")
        for number in range(6)
        for kind, action in (("mail", mail(f"FAILING-{number}")), ("payment", refund(f"FAILING-{number}")))
    ]
    await asyncio.gather(*(look_outside(rig, cell) for cell in cells))
    for cell in cells:
        assert await cell.run.ended() == "succeeded", await cell.run.story()
        assert cell.effects(rig) == 1, await cell.run.story()
    never = [place for place in PLACES if rig.points.armed(f"{place}:tool.call", "error")]
    assert never == ["execute.in_stream"]


@pytest.mark.parametrize(
    ("process", "places"),
    [("governor", GOVERNOR_PLACES), *(("executor-1", places) for places in EXECUTOR_PLACES)],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
async def test_killed_at_any_place_nothing_is_lost_or_doubled(
    rig: Rig, tenant: Tenant, process: str, places: Sequence[str]
) -> None:
    cells = await stand_at(rig, tenant, places)
    await asyncio.gather(*(cell.run.tell("steer", "hurry up") for cell in cells if cell.steered))
    await rig.kill(process)
    rig.points.clear()
    rig.world.faults.release()
    await rig.let_think()
    await asyncio.gather(*(look_outside(rig, cell) for cell in cells if cell.kind == "mail"))
    for cell in cells:
        await check(rig, cell)
