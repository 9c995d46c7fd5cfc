"""`holdfast audit export` on a whole stack, and `audit verify` of what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

from .desk import LETTER, Desk


async def test_a_runs_decisions_are_exported_and_hold_without_the_server(desk: Desk, tmp_path: Path) -> None:
    run_id = await desk.start({"tool": "mail.send", "arguments": {**LETTER, "subject": "Audited"}}, {"say": "done"})
    assert await desk.ended(run_id) == "succeeded"
    file = tmp_path / "run.jsonl"
    done = await desk.holdfast("audit", "export", "--run", run_id, "--out", str(file))
    assert done.exit_code == 0, done.stderr
    assert str(file) in done.stdout
    verified = await desk.bare("audit", "verify", str(file), "--json")
    assert verified.exit_code == 0, verified.stdout
    report = json.loads(verified.stdout)
    assert report["holds"] is True
    assert report["scope"]["run_id"] == run_id
    again = await desk.holdfast("audit", "export", "--run", run_id, "--out", str(file))
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    nowhere = tmp_path / "nowhere.jsonl"
    missing = "0199f3a0-0000-7000-8000-000000000000"
    refused = await desk.holdfast("audit", "export", "--run", missing, "--out", str(nowhere))
    assert refused.exit_code == 1
    assert "resource.not_found" in refused.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["run.jsonl"]


async def test_temporals_history_says_the_same_as_the_log(desk: Desk) -> None:
    run_id = await desk.start({"tool": "mail.send", "arguments": {**LETTER, "subject": "Witnessed"}}, {"say": "done"})
    assert await desk.ended(run_id) == "succeeded"
    done = await desk.holdfast("audit", "cross-check", "--run", run_id)
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "history and log agree" in done.stdout
    told = json.loads((await desk.holdfast("audit", "cross-check", "--run", run_id, "--json")).stdout)
    assert (told["agrees"], told["source"], told["activities"]) == (True, "temporal", 3)
    missing = await desk.holdfast("audit", "cross-check", "--run", "0199f3a0-0000-7000-8000-000000000000")
    assert missing.exit_code == 1
    assert "resource.not_found" in missing.stderr
