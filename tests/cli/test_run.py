"""`holdfast run` and `logs`: started once, shown once, through cuts and restarts, with an exit code that says how it ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import Result

from cli import following

from .desk import Desk, Done, please, refund, until
from .proxies import breaking_proxy

Line = dict[str, Any]


def events_and_run(done: Result | Done) -> tuple[list[Line], Line]:
    """Returns what `run --json` has printed."""
    *events, run = [json.loads(line) for line in done.stdout.splitlines()]
    return events, run


def check_whole(events: Sequence[Line]) -> None:
    """Each event once, in order, none missing, up to the end."""
    ids = [event["id"] for event in events]
    assert len(ids) == len(set(ids))
    durable = [event["seq"] for event in events if "." not in event["id"]]
    assert durable == list(range(1, len(durable) + 1))
    assert events[-1]["type"] == "run.ended"


async def test_a_run_is_started_shown_and_summed_up(desk: Desk) -> None:
    text = please({"tool": "mail.list", "arguments": {}}, {"say": "The answer is 42."})
    done = await desk.holdfast("run", text, "--agent", "helper", "--project", "default", "--budget", "$0.25")
    assert done.exit_code == 0, done.output
    assert "at most $0.2500" in done.stdout
    assert "mail.list         done" in done.stdout
    assert "llm.call          done, $0.00" in done.stdout
    assert done.stdout.count("│ The answer is 42.") == 1
    assert done.stdout.splitlines()[-1].startswith("succeeded; $0.00")
    assert "$0.0000 held; simulated provider" in done.stdout


async def test_with_json_there_is_one_object_for_each_event_and_then_the_run(desk: Desk) -> None:
    done = await desk.holdfast("run", please({"say": "words " * 40}), "--agent", "helper", "--json")
    assert done.exit_code == 0, done.output
    events, run = events_and_run(done)
    check_whole(events)
    assert "answer.delta" in {event["type"] for event in events}
    assert (run["status"], run["run_id"], run["simulated"]) == ("succeeded", events[0]["run"], True)


async def test_the_exit_code_says_how_the_run_ended(desk: Desk) -> None:
    failed = await desk.holdfast("run", please({"tool": "mail.list", "arguments": {}}), "--agent", "brief")
    assert failed.exit_code == 5
    assert "failed (run.max_steps)" in failed.stdout
    late = await desk.holdfast("run", please(refund("R-1")), "--agent", "helper", "--deadline", "1s")
    assert late.exit_code == 5
    assert "timed_out (run.deadline)" in late.stdout
    running = desk.apart("run", please(refund("R-2")), "--agent", "helper")
    approval = await desk.asked_of("R-2")
    assert (await desk.holdfast("cancel", approval.run_id)).exit_code == 0
    assert (await running).exit_code == 6


async def test_a_gate_names_the_commands_that_decide_it(desk: Desk) -> None:
    running = desk.apart("run", please(refund("R-3"), {"say": "ok"}), "--agent", "helper")
    approval = await desk.asked_of("R-3")
    command = f"holdfast approve {approval.approval_id} --data-dir {desk.data}"
    shown = (await desk.holdfast("show", approval.run_id)).stdout
    assert command in shown
    decided = await desk.bare(*command.split()[1:], "--key-file", str(desk.key_file("alice")))
    assert decided.exit_code == 0, decided.output
    done = await running
    assert done.exit_code == 0, done.stderr
    assert command in done.stdout
    assert f"holdfast deny {approval.approval_id}" in done.stdout
    assert "was approved by alice" in done.stdout


async def test_the_question_may_come_on_standard_input(desk: Desk) -> None:
    done = await desk.holdfast("run", "-", "--agent", "helper", text=please({"say": "I have read it"}))
    assert (done.exit_code, "I have read it" in done.stdout) == (0, True)
    empty = await desk.holdfast("run", "-", "--agent", "helper", text="  \n")
    assert (empty.exit_code, "nothing to say" in empty.stderr) == (1, True)


async def test_one_key_starts_one_run_and_a_detached_one_is_only_named(desk: Desk) -> None:
    command = ("run", please({"say": "once"}), "--agent", "helper", "--idempotency-key", str(uuid4()), "--detach")
    first, second = await desk.holdfast(*command), await desk.holdfast(*command)
    assert first.exit_code == second.exit_code == 0
    assert first.stdout == second.stdout
    assert await desk.ended(first.stdout.strip()) == "succeeded"


async def test_a_lost_answer_starts_nothing_twice(desk: Desk) -> None:
    before = len(await asyncio.to_thread(desk.owner.runs))
    async with breaking_proxy(desk.stack.ports.api, cut_after=0, cuts_max=1) as (url, cuts):
        command = ("run", please({"say": "once"}), "--agent", "helper", "--url", url)
        done = await desk.bare(*command, "--key-file", str(desk.key_file("owner")))
    assert done.exit_code == 0, done.output
    assert len(cuts) == 1
    assert len(await asyncio.to_thread(desk.owner.runs)) == before + 1


async def test_no_event_is_lost_or_doubled_when_connections_break(desk: Desk) -> None:
    script = please({"say": "words " * 150, **refund("R-4")}, {"say": "words " * 150})
    async with breaking_proxy(desk.stack.ports.api) as (url, cuts):
        running = desk.apart("run", script, "--agent", "helper", "--json", "--url", url)
        approval = await desk.asked_of("R-4")
        following = desk.apart("logs", "-f", approval.run_id, "--json", "--url", url)
        await asyncio.to_thread(desk.alice.decide, approval.approval_id, "approved")
        done, logged = await running, await following
    assert (done.exit_code, logged.exit_code) == (0, 0), done.stderr + logged.stderr
    events, run = events_and_run(done)
    check_whole(events)
    assert run["status"] == "succeeded"
    assert [json.loads(line) for line in logged.stdout.splitlines()] == [one for one in events if "." not in one["id"]]
    assert len(cuts) >= 4


async def test_a_restarted_api_is_followed_on(desk: Desk) -> None:
    url = desk.stack.urls.api
    running = desk.apart("run", please(refund("R-5"), {"say": "after it"}), "--agent", "helper", "--json", "--url", url)
    approval = await desk.asked_of("R-5")
    following = desk.apart("logs", "-f", approval.run_id, "--json", "--url", url)
    await desk.stack.kill("api")
    await desk.stack.wait_ready("api")
    await asyncio.to_thread(desk.alice.decide, approval.approval_id, "approved")
    done, logged = await running, await following
    assert (done.exit_code, logged.exit_code) == (0, 0), done.stderr + logged.stderr
    check_whole(events_and_run(done)[0])
    check_whole([json.loads(line) for line in logged.stdout.splitlines()])


async def test_a_server_that_stays_away_is_said_and_the_run_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE_S", 1.0)
    async with breaking_proxy(desk.stack.ports.api, cuts_max=0) as (url, _):
        command = ("run", please(refund("R-9")), "--agent", "helper", "--url", url)
        running = asyncio.create_task(desk.bare(*command, "--key-file", str(desk.key_file("owner"))))
        approval = await desk.asked_of("R-9")
    done = await running
    assert done.exit_code == 3, done.output
    assert f"holdfast logs -f {approval.run_id} --url {url}" in done.stderr
    assert (await asyncio.to_thread(desk.owner.run, approval.run_id)).cancel_requested_at is None
    await asyncio.to_thread(desk.owner.cancel_run, approval.run_id)


async def test_logs_end_where_the_timeline_ends(desk: Desk) -> None:
    run_id = await desk.start({"think": "hm", "say": "a long story", **refund("R-6")})
    await desk.asked(run_id)
    done = await desk.holdfast("logs", run_id)
    assert done.exit_code == 0, done.output
    for words in ("was admitted: helper", "┆ hm", "│ a long story", "WAITS    approval.required", "holdfast approve "):
        assert words in done.stdout
    listed = [json.loads(line) for line in (await desk.holdfast("logs", run_id, "--json")).stdout.splitlines()]
    assert [event["seq"] for event in listed] == list(range(1, len(listed) + 1))
    after = [
        json.loads(line) for line in (await desk.holdfast("logs", run_id, "--json", "--after", "3")).stdout.splitlines()
    ]
    assert after == listed[3:]
    assert (await desk.holdfast("logs", run_id, "--after", listed[-1]["id"])).stdout == ""
    assert (await desk.holdfast("logs", run_id, "--after", "x")).exit_code == 1
    only = (await desk.holdfast("logs", run_id, "--channel", "approval", "--channel", "budget", "--json")).stdout
    assert {json.loads(line)["channel"] for line in only.splitlines()} == {"approval", "budget"}
    await asyncio.to_thread(desk.owner.cancel_run, run_id)
    assert await desk.ended(run_id) == "cancelled"
    whole = [json.loads(line) for line in (await desk.holdfast("logs", run_id, "--json")).stdout.splitlines()]
    check_whole(whole)


async def test_a_run_can_be_told_things_and_made_to_stand_still(desk: Desk) -> None:
    run_id = await desk.start(refund("R-7"), {"say": "heard"})
    approval = await desk.asked(run_id)
    assert "will hear it at its next step" in (await desk.holdfast("steer", run_id, "be brief")).stdout
    assert (await desk.answer("input", run_id, "-", text="and then this"))["mode"] == "followup"
    assert (await desk.answer("pause", run_id))["mode"] == "pause"

    async def paused() -> bool:
        return (await asyncio.to_thread(desk.owner.run, run_id)).status in ("paused", "waiting")

    await until(paused, what="the pause")
    assert (await desk.answer("resume", run_id))["mode"] == "resume"
    await asyncio.to_thread(desk.alice.decide, approval.approval_id, "denied")
    await desk.ended(run_id)
    inputs = await asyncio.to_thread(desk.owner.run_inputs, run_id)
    assert [(one.mode, one.content) for one in inputs[1:3]] == [("steer", "be brief"), ("followup", "and then this")]
    gone = await desk.holdfast("input", run_id, "too late")
    assert (gone.exit_code, "the run has ended" in gone.stderr) == (1, True)


async def test_a_shown_run_fits_into_a_pipe_and_cuts_nothing(desk: Desk) -> None:
    run_id = await desk.start({"tool": "mail.list", "arguments": {}}, refund("R-8"))
    approval = await desk.asked(run_id)
    shown = (
        await desk.bare("show", run_id, "--url", desk.stack.urls.api, "--key-file", str(desk.key_file("owner")))
    ).stdout
    assert f"holdfast approve {approval.approval_id} --url {desk.stack.urls.api}\n" in shown
    rows = [line for line in shown.splitlines() if "holdfast " not in line]
    assert max(len(line) for line in rows) <= 80
    assert run_id in shown
    (first,) = [line for line in rows if line.startswith("  1.1")]
    assert first.split()[1:3] == ["llm.call", first.split()[2]]
    assert "█" in first
    (gate,) = [line for line in rows if "payments.refund" in line]
    assert "░" in gate
    assert "% of the cap" in shown
    await asyncio.to_thread(desk.owner.cancel_run, run_id)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--agent", "nobody"], 1, "name an agent that is there: brief, "),
        (["--agent", "helper", "--budget", "1000"], 1, "allows a run $1.0000 at most"),
        (["--agent", "helper", "--budget", "lots"], 1, "cap_usd"),
        (["--agent", "helper", "--budget", "0"], 9, "budget.insufficient"),
        (["--agent", "helper", "--deadline", "soon"], 1, "15m"),
        (["--agent", "helper", "--project", "nowhere"], 1, "resource.not_found"),
        ([], 2, "--agent"),
    ],
)
async def test_what_cannot_be_started_is_a_sentence(
    desk: Desk, arguments: list[str], exit_code: int, words: str
) -> None:
    done = await desk.holdfast("run", "hello", *arguments)
    assert done.exit_code == exit_code, done.output
    assert words in " ".join(done.stderr.split())


async def test_a_cap_of_zero_stops_every_run_and_says_what_to_do(desk: Desk) -> None:
    try:
        assert (await desk.holdfast("caps", "set", "tenant", "usd", "0", "--reason", "stop")).exit_code == 0
        done = await desk.holdfast("run", "hello", "--agent", "helper")
        assert done.exit_code == 9
        assert "the cap on tenant has $0.0000 left" in done.stderr
        assert "holdfast caps set" in done.stderr
        assert (await desk.holdfast("estimate", "hello", "--agent", "helper")).exit_code == 9
    finally:
        done = await desk.holdfast("caps", "set", "tenant", "usd", "5", "--reason", "go on")
    assert done.exit_code == 0, done.output
