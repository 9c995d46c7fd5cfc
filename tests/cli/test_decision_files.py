"""Decisions in files for other programs, and followed at a terminal while the server is restarted."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path

from sdk import Decision
from tests.api import ocsf

from .desk import LETTER, Desk, refund, until
from .pseudo_terminal import on_terminal

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
HOSTILE = ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)")


async def exported(desk: Desk, form: str, folder: Path, *filters: str) -> bytes:
    out = folder / f"decisions.{form}"
    written = await desk.answer("decisions", "export", "--format", form, "--out", str(out), *filters)
    assert written == {"file": str(out), "bytes": out.stat().st_size}
    return out.read_bytes()


def rows_of(text: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.decode(), newline="")))


async def test_every_format_has_the_same_decisions_in_the_order_in_which_they_were_made(
    desk: Desk, tmp_path: Path
) -> None:
    run_id = await desk.start(
        {"tool": "mail.send", "arguments": {**LETTER, "subject": "In files"}},
        {"tool": "nobody.has.this", "arguments": {}},
        refund("FILE-1"),
    )
    asked = await desk.asked(run_id)
    assert (await desk.holdfast("deny", asked.approval_id, "--comment", "no", user="alice")).exit_code == 0
    await desk.ended(run_id)
    await desk.put_away(run_id)  # or it comes in between two of the exports
    filters = ("--run", run_id)
    listed = (await desk.answer("decisions", *filters, "--limit", "200"))[::-1]
    assert {one["verdict"] for one in listed} == {"allow", "deny", "needs_approval"}

    lines = [json.loads(line) for line in (await exported(desk, "jsonl", tmp_path, *filters)).splitlines()]
    ids = [one["decision_id"] for one in lines]
    assert ids[: len(listed)] == [one["decision_id"] for one in listed]
    rows = rows_of(await exported(desk, "csv", tmp_path, *filters))
    assert [row["decision_id"] for row in rows] == ids
    for row, line in zip(rows, lines, strict=True):
        assert list(row) == list(line)
        assert (row["verdict"], row["kind"], row["tool"]) == (line["verdict"], line["kind"], line["tool"])
        assert row["reason_codes"].split() == line["reason_codes"]
        assert row["step"] == ("" if line["step"] is None else str(line["step"]))
    events = [json.loads(line) for line in (await exported(desk, "ocsf", tmp_path, *filters)).splitlines()]
    assert [event["metadata"]["uid"] for event in events] == ids
    assert [event["authorizations"][0]["decision"] for event in events] == [line["verdict"] for line in lines]


async def test_all_that_the_tenant_ever_decided_are_events_of_their_class(desk: Desk, tmp_path: Path) -> None:
    run_id = await desk.start(refund("FILE-2"), {"say": "done"})
    asked = await desk.asked(run_id)
    assert (await desk.holdfast("approve", asked.approval_id, user="alice")).exit_code == 0
    await desk.ended(run_id)
    events = [json.loads(line) for line in (await exported(desk, "ocsf", tmp_path)).splitlines()]
    kinds = {event["metadata"]["event_code"] for event in events}
    assert kinds >= {"config", "run.admission", "llm.call", "tool.call", "approval"}, kinds
    for event in events:
        assert ocsf.wrong(event) == [], event


async def test_what_a_model_asks_for_is_no_formula_in_a_spreadsheet(desk: Desk, tmp_path: Path) -> None:
    """A model chooses names of tools, and they stand in cells."""
    run_id = await desk.start(*({"tool": name, "arguments": {}} for name in HOSTILE), {"say": "done"})
    await desk.ended(run_id)
    filters = ("--run", run_id)
    lines = [json.loads(line) for line in (await exported(desk, "jsonl", tmp_path, *filters)).splitlines()]
    rows = rows_of(await exported(desk, "csv", tmp_path, *filters))
    hostile = [line["tool"] for line in lines if line["tool"].startswith(FORMULA_STARTS)]
    assert hostile, [line["tool"] for line in lines]
    assert [row["tool"] for row in rows if row["tool"].startswith("'")] == [f"'{name}" for name in hostile]
    assert not [cell for row in rows for cell in row.values() if cell.startswith(FORMULA_STARTS)]


async def thoughts(desk: Desk) -> dict[int, str]:
    """The decisions on a model's calls by their numbers in the log, once all have one."""

    async def listed() -> list[Decision]:
        return await asyncio.to_thread(desk.owner.decisions, kind="llm.call", count=50)

    async def numbered() -> bool:
        return all(one.leaf_index is not None for one in await listed())

    await until(numbered, what="numbers of the log")
    found = {one.leaf_index: one.decision_id for one in await listed() if one.leaf_index is not None}
    return {number: found[number] for number in sorted(found)}


async def test_what_is_followed_goes_on_over_a_restart_of_the_server(desk: Desk) -> None:
    earlier = await thoughts(desk)
    size = max(earlier, default=-1) + 1
    where = ("--data-dir", str(desk.data), "--key-file", str(desk.key_file("owner")))
    what = ("--after", str(size), "--limit", "6", "--kind", "llm.call", "--json")
    async with on_terminal("decisions", "--tail", *what, *where) as terminal:
        await desk.ended(await desk.start({"say": "before"}))
        [before] = set(await thoughts(desk)) - set(earlier)
        await terminal.sees((await thoughts(desk))[before])
        await desk.stack.stop_child("api")
        await desk.stack.start_child("api")
        await desk.stack.wait_ready("api")
        for _ in range(5):
            await desk.ended(await desk.start({"say": "after"}))
        assert await terminal.ends(within_s=90) == 0, terminal.plain
        followed = [json.loads(line)["decision_id"] for line in terminal.plain.splitlines() if line.startswith("{")]
    wanted = [one for number, one in (await thoughts(desk)).items() if number >= size]
    assert followed == wanted, "in order, none twice, and none left out"
