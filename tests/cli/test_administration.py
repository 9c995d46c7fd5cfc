"""Caps, decisions, keys, tenants and estimates on the command line, against a whole stack."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from cli.stack.data_folder import write_atomically

from .desk import Desk, please


async def test_caps_show_what_is_used_held_and_free(desk: Desk) -> None:
    await asyncio.to_thread(desk.owner.create_user, "carol")
    made = await desk.answer("caps", "set", "user:carol", "tokens", "1000", "--reason", "a trial")
    assert (made["scope_name"], made["limit_amount"], made["available"]) == ("carol", 1_000, 1_000)
    done = await desk.holdfast("caps", "set", "user:carol", "tokens", "unlimited", "--reason", "the trial is over")
    assert done.stdout == "the cap on user:carol is unlimited, unlimited free\n"
    shown = (await desk.holdfast("caps")).stdout
    assert shown.split()[:6] == ["on", "counts", "limit", "used", "held", "free"]
    (row,) = [line for line in shown.splitlines() if line.startswith("user:carol")]
    assert row.split() == ["user:carol", "tokens", "unlimited", "0", "0", "unlimited", "never", "-"]
    decisions = await desk.answer("decisions", "--code", "cap.set", "--limit", "1")
    assert decisions[0]["kind"] == "config"
    run_id = await desk.start({"say": "hello"})
    assert await desk.ended(run_id) == "succeeded"
    caps = {cap["unit"]: cap for cap in await desk.answer("caps", "--run", run_id)}
    assert caps["nano_usd"]["committed"] > 0
    assert caps["calls"]["committed"] == 1


@pytest.mark.usefixtures("hour")
async def test_caps_of_a_day_show_when_they_reset_and_who_has_set_them(desk: Desk) -> None:
    await asyncio.to_thread(desk.owner.create_user, "frida")
    on = ("user_role:frida/helper", "calls")
    daily = (*on, "--window", "day")
    made = await desk.answer("caps", "set", *on, "20", "--window", "day", "--reason", "a pilot", "--threshold", "90")
    assert (made["window"], made["in_force"], made["thresholds"]) == ("day", True, [90])
    assert made["ends_at"] > made["starts_at"]
    more = await desk.holdfast("caps", "set", *on, "unlimited", "--window", "day", "--reason", "the pilot is over")
    assert more.stdout.startswith("the cap on user_role:frida/helper per day is unlimited, unlimited free until "), (
        more.output
    )
    shown = (await desk.holdfast("caps")).stdout
    (row,) = [line for line in shown.splitlines() if line.startswith("user_role:frida/helper")]
    assert row.split()[1:5] == ["calls", "per", "day", "unlimited"]
    assert made["ends_at"][:10] in row
    newest, first = await desk.answer("caps", "history", *daily)
    assert (newest["from_amount"], newest["to_amount"], newest["reason"]) == (20, None, "the pilot is over")
    assert (first["made"], first["to_amount"], first["actor"][:5]) == (True, 20, "user:")
    told = (await desk.holdfast("caps", "history", *daily)).stdout.splitlines()
    assert told[0].split() == ["when", "who", "from", "to", "debt", "paid", "why"]
    assert "the pilot is over" in told[1]
    (window,) = await desk.answer("caps", "windows", *daily)
    assert window["starts_at"] == made["starts_at"]
    assert len((await desk.holdfast("caps", "windows", *daily)).stdout.splitlines()) == 2
    for wrong in (("--window", "week"), ("--window", "745h"), ("--threshold", "101")):
        refused = await desk.holdfast("caps", "set", *on, "1", *wrong, "--reason", "x")
        assert (refused.exit_code, "Traceback" in refused.output) == (2, False)
    assert "1h to 744h" in (await desk.holdfast("caps", "set", *on, "1", "--window", "week", "--reason", "x")).stderr
    rolling = await desk.holdfast(
        "caps", "set", *on, "30", "--window", "24h", "--reason", "no day and night may have more"
    )
    assert rolling.stdout == "the cap on user_role:frida/helper per 24h is 30, 30 free\n", rolling.output
    shown = (await desk.holdfast("caps")).stdout
    (row,) = [line for line in shown.splitlines() if "calls per 24h" in line]
    assert row.split()[1:9] == ["calls", "per", "24h", "30", "0", "0", "30", "-"]
    (hour,) = await desk.answer("caps", "windows", *on, "--window", "24h")
    assert (hour["window"], hour["limit_amount"]) == ("24h", 30)
    missing = await desk.holdfast("caps", "history", *on)
    assert (missing.exit_code, "there is no cap on user_role:frida/helper that counts calls" in missing.stderr) == (
        1,
        True,
    )


async def test_the_time_zone_of_windows_is_shown_and_set(desk: Desk) -> None:
    assert (await desk.answer("caps", "zone"))["time_zone"] == "UTC"
    for wrong in (["Europe/Berlin"], ["Mars/Base", "--reason", "x"], ["UTC+3", "--reason", "x"]):
        assert (await desk.holdfast("caps", "zone", *wrong)).exit_code == 1
    done = await desk.holdfast("caps", "zone", "Europe/Berlin", "--reason", "our customers")
    assert done.stdout.endswith("follow Europe/Berlin\n"), done.output
    assert (await desk.answer("caps", "zone", "UTC", "--reason", "and back"))["time_zone"] == "UTC"
    (newest, *_) = await desk.answer("decisions", "--code", "tenant.time_zone", "--limit", "1")
    assert newest["kind"] == "config"


@pytest.mark.parametrize(
    "arguments",
    [
        ["galaxy", "usd", "1"],
        ["tenant:x", "usd", "1"],
        ["user", "usd", "1"],
        ["user:nobody", "usd", "1"],
        ["tenant", "usd", "much"],
        ["user_role:alice", "usd", "1"],
        ["user_role:alice/nobody", "usd", "1"],
        ["tenant", "tokens", "1.5"],
        ["tenant", "tokens", "-1"],
    ],
    ids=" ".join,
)
async def test_a_wrong_cap_is_refused_in_a_sentence(desk: Desk, arguments: list[str]) -> None:
    done = await desk.holdfast("caps", "set", "--reason", "x", "--", *arguments)
    assert done.exit_code in (1, 2), done.output
    assert done.stderr


async def test_decisions_are_found_and_shown_with_their_records(desk: Desk) -> None:
    run_id = await desk.start({"tool": "nobody.has.this", "arguments": {}})
    await desk.ended(run_id)
    listed = await desk.answer("decisions", "--run", run_id, "--verdict", "deny")
    assert [one["reason_codes"] for one in listed] == [["action.unknown"]]
    done = await desk.holdfast("decisions", "show", listed[0]["decision_id"])
    assert done.exit_code == 0, done.output
    assert "deny (action.unknown)" in done.stdout
    assert listed[0]["record_hash"] in done.stdout
    assert '"verdict"' in done.stdout
    record = await desk.answer("decisions", "show", listed[0]["decision_id"])
    # the log may have numbered it meanwhile
    assert {**record["decision"], "leaf_index": None} == {**listed[0], "leaf_index": None}
    assert record["part_a"]["action"]["tool"] == "nobody.has.this"
    assert listed[0]["decision_id"] in (await desk.holdfast("decisions", "--code", "action.unknown")).stdout
    assert (await desk.holdfast("decisions", "show", run_id)).exit_code == 1


async def test_decisions_are_looked_for_followed_and_exported(desk: Desk, tmp_path: Path) -> None:
    run_id = await desk.start({"tool": "nobody.has.this", "arguments": {}})
    await desk.ended(run_id)
    filters = ("--run", run_id, "--tool", "nobody.has.this", "--agent", "helper", "--from", "2026-01-01")
    [denied] = await desk.answer("decisions", *filters)
    assert denied["reason_codes"] == ["action.unknown"]
    # as it comes into the log: one object a line, until there were as many as were asked for
    followed = await desk.holdfast("decisions", "--tail", "--after", "0", "--limit", "1", *filters, "--json")
    assert followed.exit_code == 0, followed.output
    assert json.loads(followed.stdout)["decision_id"] == denied["decision_id"]
    told = (await desk.holdfast("decisions", "--tail", "--after", "0", "--limit", "1", *filters)).stdout
    assert "nobody.has.this  helper  action.unknown" in told
    out = tmp_path / "decisions.csv"
    for format_, said in (("csv", "decision_id,"), ("jsonl", '{"decision_id"'), ("ocsf", '{"category_uid"')):
        written = await desk.answer("decisions", "export", "--format", format_, "--out", str(out), *filters)
        text = out.read_text()
        assert (written["file"], written["bytes"]) == (str(out), out.stat().st_size)
        assert text.startswith(said)
        assert denied["decision_id"] in text
        again = await desk.holdfast("decisions", "export", "--format", format_, "--out", str(out))
        assert again.exit_code != 0
        assert out.read_text() == text, "no file is written over"
        out.unlink()
    empty = await desk.holdfast("decisions", "--agent", "nobody")
    assert (empty.exit_code, empty.stdout) == (0, "nothing was decided\n")
    for wrong, word in (
        (("--verdict", "maybe"), "maybe"),
        (("--from", "2026-02-02", "--to", "2026-02-01"), "`to`"),
        (("--run", "7"), "run"),
        (("--after", "3"), "--tail"),
        (("--tail", "--after", "x"), "last event id"),
    ):
        done = await desk.holdfast("decisions", *wrong)
        assert done.exit_code in (1, 2), done.output
        assert word in done.stderr


async def test_a_key_is_shown_once_works_and_is_revoked_at_once(desk: Desk, tmp_path: Path) -> None:
    made = await desk.holdfast("keys", "create", "dora", "--role", "viewer", "--new-user", "--expires", "1h")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    assert "\n" not in key
    assert key not in made.stderr
    file = tmp_path / "dora.key"
    write_atomically(file, key)
    where = ("--data-dir", str(desk.data), "--key-file", str(file))
    assert (await desk.bare("runs", *where)).exit_code == 0
    lacking = await desk.bare("run", "hello", "--agent", "helper", *where)
    assert (lacking.exit_code, "auth.not_permitted" in lacking.stderr) == (8, True)
    assert f"the key of {file}" in lacking.stderr
    listed = (await desk.holdfast("keys", "list")).stdout
    assert key not in listed
    (view,) = [one for one in await desk.answer("keys", "list") if one["user"] == "dora"]
    assert "key" not in view
    assert view["expires_at"] is not None
    assert "is revoked" in (await desk.holdfast("keys", "revoke", view["key_id"])).stdout
    refused = await desk.bare("runs", *where)
    assert (refused.exit_code, "auth.not_authenticated" in refused.stderr) == (8, True)
    assert "revoked" in refused.stderr
    nobody = await desk.holdfast("keys", "create", "nobody", "--role", "viewer")
    assert (nobody.exit_code, "--new-user" in nobody.stderr) == (1, True)


async def test_a_key_goes_into_a_file_of_ones_own(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "erin.key"
    command = ("keys", "create", "erin", "--role", "viewer", "--out", str(out))
    done = await desk.holdfast(*command, "--new-user")
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_text().strip() not in done.output
    assert (await desk.bare("runs", "--data-dir", str(desk.data), "--key-file", str(out))).exit_code == 0
    count = len(await desk.answer("keys", "list"))
    for place in (out, tmp_path / "nowhere" / "key"):  # a key that could not be written would be lost
        assert (await desk.holdfast(*command[:-1], str(place))).exit_code == 1
    assert len(await desk.answer("keys", "list")) == count


async def test_an_expired_key_says_so(desk: Desk, tmp_path: Path) -> None:
    made = await desk.answer("keys", "create", "alice", "--role", "viewer", "--expires", "1s")
    file = tmp_path / "key"
    write_atomically(file, made["key"])
    for _ in range(100):
        done = await desk.bare("runs", "--data-dir", str(desk.data), "--key-file", str(file))
        if done.exit_code:
            break
        await asyncio.sleep(0.1)
    assert done.exit_code == 8
    assert "expired" in done.stderr
    assert made["key"] not in done.output


async def test_tenants_are_the_operators(desk: Desk, tmp_path: Path) -> None:
    where = ("--data-dir", str(desk.data))
    made = await desk.bare("tenants", "create", "acme", "--name", "Acme", *where)
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    assert key.startswith("hf_")
    listed = json.loads((await desk.bare("tenants", "list", "--json", *where)).stdout)
    assert {"acme", "desk"} <= {one["slug"] for one in listed}
    assert "Acme" in (await desk.bare("tenants", "list", *where)).stdout
    refused = await desk.holdfast("tenants", "list")
    assert (refused.exit_code, "auth.not_permitted" in refused.stderr) == (8, True)
    file = tmp_path / "acme.key"
    write_atomically(file, key)
    acme = (*where, "--key-file", str(file))
    assert (await desk.bare("caps", *acme)).stdout == "there are no caps, so nothing can be spent\n"
    assert json.loads((await desk.bare("runs", "--json", *acme)).stdout) == []


async def test_an_estimate_is_what_the_first_call_then_holds(desk: Desk) -> None:
    text = please({"say": "hello"})
    estimate = await desk.answer("estimate", text, "--agent", "helper")
    assert estimate["admitted"]
    run_id = await desk.start({"say": "hello"})
    await desk.ended(run_id)
    (hold,) = await asyncio.to_thread(desk.owner.holds, run_id=run_id)
    assert hold.max_cost_nano_usd == estimate["first_call_nano_usd"]
    shown = (await desk.holdfast("estimate", "-", "--agent", "helper", text=text)).stdout
    assert "it would be admitted" in shown
    assert "this run" in shown
    assert "affords it" in shown
    small = await desk.holdfast("estimate", text, "--agent", "helper", "--budget", "0.001")
    assert (small.exit_code, "does not" in small.stdout, "it would NOT be admitted" in small.stdout) == (9, True, True)


async def test_spend_is_shown_by_agent_and_model_with_a_total(desk: Desk) -> None:
    run_id = await desk.start({"say": "hello"})
    assert await desk.ended(run_id) == "succeeded"
    shown = await desk.holdfast("spend", "--run", run_id)
    assert shown.exit_code == 0, shown.output
    heading, row, total, simulated = shown.stdout.splitlines()
    assert heading.split() == ["agent", "model", "calls", "tokens", "in", "cached", "tokens", "out", "cost"]
    assert row.split()[:3] == ["helper", "claude-haiku-4-5", "1"]
    assert total.split() == ["total", *row.split()[2:]]
    cost = row.split()[-1]
    assert simulated == f"{cost} of it is simulated: nobody bills it"
    found = await desk.answer("spend", "--run", run_id, "--by", "day,kind", "--since", "2d", "--simulated")
    (group,) = found["groups"]
    assert group["group"]["kind"] == "llm.call"
    assert group["tokens"] == group["input_tokens"] + group["output_tokens"] > 0
    assert found["total"]["cost_nano_usd"] == group["cost_nano_usd"] == group["simulated_nano_usd"] > 0
    caps = {cap["unit"]: cap for cap in await desk.answer("caps", "--run", run_id)}
    assert caps["nano_usd"]["committed"] == group["cost_nano_usd"]
    table = (await desk.holdfast("spend", "--run", run_id, "--by", "agent", "--csv")).stdout
    assert (
        table.splitlines()[0] == "agent,holds,calls,tokens,input_tokens,cached_tokens,cost_nano_usd,simulated_nano_usd"
    )
    assert table.splitlines()[1].startswith("helper,1,1,")
    assert (await desk.holdfast("spend", "--run", run_id, "--real")).stdout == "nothing was spent\n"
    assert (await desk.holdfast("spend", "--to", "2020-01-01")).stdout == "nothing was spent\n"


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["--by", "moon"], 1),
        (["--since", "1h"], 1),
        (["--from", "yesterday"], 1),
        (["--project", "nobody-has-this"], 1),
        (["--since", "7d", "--from", "2026-01-01"], 2),
        (["--csv", "--json"], 2),
    ],
)
async def test_what_spend_cannot_show_is_said(desk: Desk, arguments: list[str], exit_code: int) -> None:
    done = await desk.holdfast("spend", *arguments)
    assert (done.exit_code, done.stdout) == (exit_code, ""), done.output
    assert done.stderr


async def test_a_tier_is_asked_for_shown_and_taken_back(desk: Desk) -> None:
    done = await desk.holdfast("sandbox", "tier", "kernel", "--role", "helper", "--reason", "their data")
    assert done.exit_code == 0, done.output
    assert "role helper asks for kernel, which is not set up: its code is refused" in done.stdout
    shown = await desk.answer("sandbox", "tiers")
    assert (shown["deployment"], shown["available"]) == ("process", ["process"])
    assert [(one["role"], one["tier"]) for one in shown["asked"]] == [("helper", "kernel")]
    assert (await desk.holdfast("sandbox", "tier", "none")).exit_code == 2
    assert (await desk.answer("sandbox", "tier", "none", "--role", "helper", "--reason", "x"))["asked"] == []
