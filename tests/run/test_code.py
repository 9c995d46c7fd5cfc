"""`code.exec` is an action like all others: no permit, no code; what it used is paid; what it leaves behind is the run's."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import pytest

from holdfast.contracts import names
from holdfast.ledger.types import Scope
from holdfast.pricing.code import estimate_code
from holdfast_verdict.canonical import JsonValue

from .captured import is_encrypted, payloads, permit_of
from .harness import PERMIT_ALL, Record, Rig, Run, Step, Tenant, call, say, task, until
from .test_permits import altered, play_rogue

TOOLS: Final = ("code.exec", "mail.list")
RULES: Final = (*PERMIT_ALL, 'permit code.exec as "compute"')

REPORT: Final = """
import csv
rows = list(csv.DictReader(open('orders.csv')))
total = sum(int(row['cents']) for row in rows)
print('total', total)
with open('report.svg', 'w') as file:
    file.write('<svg xmlns="http://www.w3.org/2000/svg"><text>%d</text></svg>' % total)
"""
MAKE_ORDERS: Final = "open('orders.csv', 'w').write('order,cents\\nA-1,1250\\nA-2,300\\n')"


def code(text: str, **arguments: JsonValue) -> Step:
    """A step of a script: the model proposes code."""
    return call("code.exec", code=text, **arguments)


async def start(tenant: Tenant, *script: Step, rules: Any = RULES, **admission: Any) -> Run:
    return await tenant.start(task(*script, say("done")), rules=rules, tools=TOOLS, **admission)


async def results(run: Run) -> list[Record]:
    """What the model was told of its code."""
    return [entry for entry in await run.transcript() if entry["kind"] == "tool_result"]


async def outcome(run: Run, hold: Record) -> Record:
    stored = await run.rig.value("SELECT result FROM outcomes WHERE hold_id = $1", hold["hold_id"])
    return json.loads(stored)


async def test_code_runs_over_a_file_and_leaves_one(rig: Rig, tenant: Tenant) -> None:
    run = await start(tenant, code(MAKE_ORDERS), code(REPORT, files=["orders.csv"], memory_mb=128, timeout_ms=5_000))
    assert await run.ended() == "succeeded"
    first, second = await results(run)
    assert first["ok"], first
    assert second["ok"], second
    assert "total 1550" in second["content"]
    holds = await run.holds("code.exec")
    assert [hold["state"] for hold in holds] == ["committed", "committed"]
    action = json.loads(holds[1]["action"])
    assert set(action) == {"kind", "args", "salt"}, "what is in the code and its files may be personal"
    [file] = action["args"]["files"]
    assert file["name"] == "orders.csv"
    made = await outcome(run, holds[1])
    assert [each["name"] for each in made["files"]] == ["report.svg"]
    content = rig.stack.folder.objects / str(tenant.tenant_id) / made["files"][0]["sha256"][:2]
    assert "<text>1550</text>" in (content / made["files"][0]["sha256"]).read_text()
    assert made["receipt"]["backend"] == "native"
    # paid by what was measured, at the prices that stand with the hold
    price = estimate_code(5_000, 128)
    estimate = json.loads(holds[1]["estimate"])
    assert estimate == price.to_json()
    used = made["used"]
    assert holds[1]["cost_nano_usd"] == price.prices_used.cost_nano_usd(**used)
    assert 0 < holds[1]["cost_nano_usd"] < holds[1]["max_cost_nano_usd"] == price.max_cost_nano_usd
    [shown] = [each["data"] for each in await run.events("code.result") if each["data"]["step"] == holds[1]["step"]]
    assert shown["receipt"]["layers"]
    assert shown["files"][0]["name"] == "report.svg"


async def test_neither_code_nor_what_it_prints_stands_in_history(rig: Rig, tenant: Tenant) -> None:
    run = await start(tenant, code("print('so' + 'nderbar')\n# wunderlich"))
    assert await run.ended() == "succeeded"
    assert "sonderbar" in (await results(run))[0]["content"]
    codec = rig.client.data_converter.payload_codec
    assert codec is not None
    for event in (await run.history()).events:
        for payload in filter(is_encrypted, payloads(event)):
            [decoded] = await codec.decode([payload])
            assert b"sonderbar" not in decoded.data
            assert b"wunderlich" not in decoded.data


async def test_code_names_its_language_and_what_is_not_there_is_told(tenant: Tenant) -> None:
    absent = code("print(1)", packages="0" * 64)
    run = await start(tenant, code("seq 3 | tac", language="shell"), absent)
    assert await run.ended() == "succeeded"
    shell, refused = await results(run)
    assert "3\n2\n1" in shell["content"]
    assert "no environment is built" in refused["content"]
    assert "holdfast sandbox build" in refused["content"]
    first, second = await run.holds("code.exec")
    assert json.loads(first["action"])["args"]["language"] == "shell"
    assert (await outcome(run, first))["receipt"]["runtime"] == "shell"
    assert first["estimate"] == second["estimate"]
    assert second["cost_nano_usd"] == 0


async def test_a_rule_sees_the_language(tenant: Tenant) -> None:
    python = 'permit code.exec where args.language == "python" as "python"'
    run = await start(tenant, code("echo 1", language="shell"), rules=(*PERMIT_ALL, python))
    assert await run.ended() == "succeeded"
    assert "policy.not_permitted" in await run.codes()
    assert await run.holds("code.exec") == []


async def test_code_is_denied_to_whom_it_was_not_given(tenant: Tenant) -> None:
    without = await tenant.start(task(code("print(1)"), say("done")), rules=RULES, tools=("mail.list",))
    unpermitted = await start(tenant, code("print(1)"), rules=PERMIT_ALL)
    narrow = 'permit code.exec where args.timeout_ms <= 1000 as "short"'
    too_long = await start(tenant, code("print(1)", timeout_ms=1_001), rules=(*PERMIT_ALL, narrow))
    for run, expected in (
        (without, "action.unknown"),
        (unpermitted, "policy.not_permitted"),
        (too_long, "policy.not_permitted"),
    ):
        assert await run.ended() == "succeeded"
        assert expected in await run.codes()
        assert await run.holds("code.exec") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"code": "print(1)", "language": "perl"}, "language"),
        ({"code": "echo 1", "language": "shell", "runtime": "data"}, "runtime"),
        ({"code": "print(1)", "timeout_ms": 60_001}, "timeout_ms"),
        ({"code": "print(1)", "memory_mb": 100_000}, "memory_mb"),
        ({"code": "print(1)", "files": ["nowhere.csv"]}, "no file 'nowhere.csv'"),
        ({"code": "print(1)", "files": ["../../etc/passwd"]}, "files"),
        ({"code": "print(1)", "files": ["a", "a"]}, "twice"),
        ({"code": "print(1) # \u202e reversed"}, "U+202E"),
        ({"code": ""}, "code"),
        ({}, "code"),
    ],
)
async def test_what_is_no_code_is_refused_in_words(tenant: Tenant, arguments: dict[str, JsonValue], says: str) -> None:
    run = await tenant.start(task(call("code.exec", **arguments), say("done")), rules=RULES, tools=TOOLS)
    assert await run.ended() == "succeeded"
    assert "action.malformed" in await run.codes()
    [told] = await results(run)
    assert says in told["content"]


async def test_a_permit_for_code_is_worth_nothing_to_anybody_else(rig: Rig, tenant: Tenant) -> None:
    rig.points.park("settle.before:code.exec")
    run = await start(tenant, code("print(1)"))
    await rig.points.until_parked("settle.before:code.exec")
    used = await permit_of(rig, run, "step-2-try-1")
    before = await rig.refusals()
    body, queue = names.EXECUTE_CODE, names.CODE_QUEUE
    attempts = {"none at all": "none", "empty": "", "rubbish": "rubbish", "altered": altered(used), "used": used}
    for what, permit in attempts.items():
        assert await play_rogue(rig, "activity", body, queue, permit) == "permit.invalid", what
    assert await play_rogue(rig, "activity", names.EXECUTE_TOOL_CALL, names.TOOL_QUEUE, used) == "permit.invalid"
    assert await rig.refusals() == before + len(attempts) + 1
    rig.points.release("settle.before:code.exec")
    assert await run.ended() == "succeeded"
    assert await run.states("code.exec") == ["committed"]


async def test_code_that_was_changed_after_the_decision_does_not_run(rig: Rig, tenant: Tenant) -> None:
    rig.points.park("redeem.before:code.exec")
    run = await start(tenant, code("print('decided')"))
    await rig.points.until_parked("redeem.before:code.exec")
    [hold] = await run.holds("code.exec")
    action = json.loads(hold["action"])
    action["args"]["code"] = "print('tampered')"
    tampered = json.dumps(action, sort_keys=True, separators=(",", ":")).encode()
    # as somebody could who can write the database past every right that Holdfast's own roles have
    await rig.database.execute("ALTER TABLE holds DISABLE TRIGGER USER")
    await rig.database.execute("UPDATE holds SET action = $1 WHERE hold_id = $2", tampered, hold["hold_id"])
    await rig.database.execute("ALTER TABLE holds ENABLE TRIGGER USER")
    rig.points.release("redeem.before:code.exec")
    await run.ended()
    assert not any("tampered" in told["content"] for told in await results(run))
    states = await run.states("code.exec")
    assert states[0] == "voided"


async def test_a_file_that_was_changed_in_storage_is_not_given(rig: Rig, tenant: Tenant) -> None:
    rig.points.park("redeem.before:code.exec")
    run = await start(tenant, code(MAKE_ORDERS), code(REPORT, files=["orders.csv"]))
    await rig.points.until_parked("redeem.before:code.exec")
    rig.points.release("redeem.before:code.exec")
    rig.points.park("reserve.before:code.exec")
    await rig.points.until_parked("reserve.before:code.exec")
    for path in (rig.stack.folder.objects / str(tenant.tenant_id)).rglob("*"):
        if path.is_file():
            path.write_text("order,cents\nA-1,999999\n")
    rig.points.release("reserve.before:code.exec")
    assert await run.ended() == "succeeded"
    told = (await results(run))[1]
    assert not told["ok"]
    assert "was changed" in told["content"]
    assert (await run.holds("code.exec"))[1]["error_code"] == "artefact.lost"
    assert (await run.states("code.exec"))[1] == "voided"


async def test_code_dearer_than_the_cap_does_not_run(rig: Rig, tenant: Tenant) -> None:
    worst = estimate_code(60_000, 1_024).max_cost_nano_usd
    rig.points.park("reserve.before:code.exec")
    run = await start(tenant, code("print(1)", timeout_ms=60_000, memory_mb=1_024))
    await rig.points.until_parked("reserve.before:code.exec")
    spent = (await run.holds("llm.call"))[0]["cost_nano_usd"]
    await tenant.limit(spent + worst - 1, scope=Scope("run", str(run.run_id)))  # one nano-dollar too little
    rig.points.release("reserve.before:code.exec")
    await run.ended()
    assert "budget.cap_exceeded" in await run.codes()
    assert await run.holds("code.exec") == []


@pytest.mark.parametrize(
    ("text", "arguments", "says"),
    [
        ("while True: pass", {"timeout_ms": 700}, "took longer than it may"),
        (
            "b = bytearray(300 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1",
            {"memory_mb": 64},
            "memory|MemoryError",
        ),
        ("import sys\nwhile True: sys.stdout.write('x' * 65536)", {}, "printed more than it may"),
        ("raise ValueError('the sum is wrong')", {}, "line 1: ValueError: the sum is wrong"),
        ("import sys; sys.exit(3)", {}, "exit status 3"),
        ("import socket; socket.create_connection(('1.1.1.1', 80), 1)", {}, "OSError|PermissionError|was ended"),
    ],
)
async def test_what_ends_badly_is_said_in_words_and_paid(
    tenant: Tenant, text: str, arguments: dict[str, JsonValue], says: str
) -> None:
    run = await start(tenant, code(text, **arguments), code("print('still', 'here')"))
    assert await run.ended() == "succeeded"
    told, after = await results(run)
    assert not told["ok"]
    assert any(part in told["content"] for part in says.split("|")), told["content"]
    assert "still here" in after["content"]
    first = (await run.holds("code.exec"))[0]
    assert first["state"] == "committed"
    assert 0 < first["cost_nano_usd"] <= first["max_cost_nano_usd"]


async def test_fifty_megabytes_are_not_kept_and_a_fork_bomb_harms_nobody(tenant: Tenant) -> None:
    big = "with open('big.bin', 'wb') as f:\n  for _ in range(50): f.write(b'x' * 1048576)\nopen('small.txt', 'w').write('ok')"
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    run = await start(tenant, code(big), code(bomb, timeout_ms=1_500), code("print('fine', 'still')"))
    assert await run.ended() == "succeeded"
    first, second, third = await results(run)
    assert first["ok"], first
    assert "not kept: big.bin" in first["content"]
    assert "file small.txt" in first["content"]
    assert not second["ok"]
    assert "fine still" in third["content"]


async def test_a_killed_executor_takes_its_jobs_along_and_the_run_goes_on(
    rig: Rig, tenant: Tenant, tmp_path: Path
) -> None:
    rig.points.clear()
    # it stays while its executor is killed, and not as long again when it is run anew
    stay = f"time.sleep(max(4, {time.time() + 12} - time.time()))"
    run = await start(tenant, code(f"import time\nprint('begun', flush=True)\n{stay}\nprint('through')"))
    hold_id = await _until_running(rig, run)
    pid = rig.pid("executor-1")
    jobs = _descendants(pid)
    assert jobs, "the sandbox has processes"
    await rig.kill("executor-1")

    async def dead() -> bool:
        return not any(Path(f"/proc/{each}").exists() and _state(each) != "Z" for each in jobs)

    await until(dead, what="the death of every job of a killed executor")
    assert await run.ended() == "succeeded"
    assert "through" in (await results(run))[-1]["content"]
    holds = await run.holds("code.exec")
    # what began and was lost stays held until it is reconciled; what was done is paid once (LAW 4)
    assert [hold["state"] for hold in holds] == ["unknown", "committed"]
    assert holds[0]["hold_id"] == hold_id
    assert holds[0]["cost_nano_usd"] is None


async def _until_running(rig: Rig, run: Run) -> UUID:
    async def outward() -> bool:
        return any(hold["outward_at"] for hold in await run.holds("code.exec"))

    await until(outward, what="the start of a job")
    executor = rig.pid("executor-1")

    async def seen() -> bool:
        return any(b"begun" in _cmdline(pid) or _state(pid) for pid in _descendants(executor))

    await until(seen, what="a process of the sandbox")
    return cast(UUID, (await run.holds("code.exec"))[0]["hold_id"])


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _descendants(pid: int) -> set[int]:
    """All processes that come from one, by the kernel's own book."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                children = {int(each) for each in path.read_text().split()}
            except OSError:
                continue
            found |= children
            waiting += children
    return found
