"""The commands that speak to the API, against a whole stack."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from temporalio.client import Client

from cli.main import app
from cli.stack.temporal import NAMESPACE
from demo.refund_desk.world.faults import Fault
from demo.refund_desk.world.smtp_server import stored_mails
from holdfast.contracts import names
from holdfast.ids import new_id
from tests.stack.places import ROOT

from .desk import LETTER, Desk, refund

COMMANDS = [
    ["vault", "put"],
    ["vault", "list"],
    ["vault", "delete"],
    ["approvals"],
    ["approve"],
    ["deny"],
    ["approval-token"],
    ["approval-link"],
    ["delegate"],
    ["withdraw"],
    ["signers"],
    ["signers", "add"],
    ["signers", "revoke"],
    ["release"],
    ["releases"],
    ["run"],
    ["runs"],
    ["artefacts"],
    ["show"],
    ["logs"],
    ["cancel"],
    ["input"],
    ["steer"],
    ["pause"],
    ["resume"],
    ["estimate"],
    ["spend"],
    ["caps"],
    ["caps", "set"],
    ["decisions"],
    ["decisions", "show"],
    ["decisions", "export"],
    ["audit", "export"],
    ["audit", "cross-check"],
    ["audit", "erase"],
    ["audit", "erasures"],
    ["audit", "retention", "show"],
    ["audit", "retention", "set"],
    ["audit", "legal-hold", "place"],
    ["audit", "legal-hold", "list"],
    ["audit", "legal-hold", "lift"],
    ["keys", "list"],
    ["keys", "create"],
    ["keys", "revoke"],
    ["tenants", "list"],
    ["tenants", "create"],
    ["profiles", "add"],
    ["profiles", "list"],
    ["profiles", "use"],
    ["profiles", "remove"],
    ["doctor"],
    ["up"],
    ["down"],
    ["status"],
    ["holds"],
    ["holds", "resolve"],
    ["stop"],
    ["stops"],
    ["stops", "lift"],
    ["webhooks"],
    ["webhooks", "add"],
    ["webhooks", "show"],
    ["webhooks", "test"],
    ["webhooks", "enable"],
    ["webhooks", "remove"],
    *(["policy", name] for name in ("push", "list", "show", "activate", "rollback", "shadow", "log", "rehearse")),
    ["replay"],
    ["apply"],
    ["log", "status"],
    ["log", "rotate-key"],
    ["log", "witness"],
    ["log", "add-witness"],
    ["new", "agent"],
    ["new", "tool"],
    ["agents"],
    ["roles"],
    ["tools"],
    *(["sandbox", name] for name in ("build", "list", "remove")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_every_command_explains_itself(desk: Desk, command: list[str]) -> None:
    done = await desk.bare(*command, "--help")
    assert done.exit_code == 0
    assert "Exit codes: 0 done" in " ".join(done.stdout.split())
    assert "--json" in done.stdout


async def test_a_credential_goes_in_and_is_never_shown(desk: Desk) -> None:
    secret = "s3cr3t-that-nobody-may-see"
    done = await desk.holdfast("vault", "put", "tool.http", text=json.dumps({"allowed_hosts": [secret], "methods": []}))
    assert (done.exit_code, done.stdout) == (0, "stored tool.http\n")
    [entry] = [entry for entry in await desk.answer("vault", "list") if entry["name"] == "tool.http"]
    assert set(entry) == {"name", "updated_at"}
    assert datetime.fromisoformat(entry["updated_at"]).tzinfo is not None
    for wrong in ("", "[1]", f'{{"key": "{secret}'):
        refused = await desk.holdfast("vault", "put", "tool.http", text=wrong)
        assert refused.exit_code == 1
        assert "is not a JSON object" in refused.stderr
        assert secret not in refused.output
    assert (await desk.holdfast("vault", "delete", "tool.http")).exit_code == 0
    assert "tool.http" not in (await desk.holdfast("vault", "list")).stdout
    again = await desk.holdfast("vault", "delete", "tool.http")
    assert again.exit_code == 1
    assert "resource.not_found" in again.stderr


async def test_a_credential_is_no_argument(desk: Desk) -> None:
    done = await desk.holdfast("vault", "put", "tool.http", '{"key": "shown in the list of processes"}')
    assert done.exit_code == 2


async def test_consent_is_asked_shown_and_given_by_the_right_person(desk: Desk) -> None:
    run_id = await desk.start(refund("A-1"))
    approval = await desk.asked(run_id)
    shown = (await desk.holdfast("approvals", user="alice")).stdout
    assert approval.approval_id in shown
    assert '"order_id": "A-1"' in shown
    assert "refunds need a word" in shown
    [listed] = await desk.answer("approvals", "--run", run_id)
    assert listed["action"]["args"]["amount_usd_cents"] == 1250
    refused = await desk.holdfast("approve", approval.approval_id)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: ")
    decided = await desk.answer("approve", approval.approval_id, "--comment", "they are right", user="alice")
    assert (decided["state"], decided["decided_by"], decided["comment"]) == ("approved", "alice", "they are right")
    assert (
        await desk.holdfast("approve", approval.approval_id, "--comment", "they are right", user="alice")
    ).exit_code == 0
    assert (await desk.holdfast("deny", approval.approval_id, user="alice")).exit_code == 1
    assert await desk.ended(run_id) == "succeeded"
    assert [row["order_id"] for row in desk.world.store.refunds()].count("A-1") == 1


async def test_consent_may_be_for_other_arguments_and_then_only_for_those(desk: Desk, tmp_path: Path) -> None:
    run_id = await desk.start(refund("A-2"))
    approval = await desk.asked(run_id)
    edited = tmp_path / "arguments.json"
    edited.write_text(json.dumps({"order_id": "A-2", "amount_usd_cents": 1000, "reason": "a part of it"}))
    done = await desk.holdfast("approve", approval.approval_id, "--arguments", str(edited), user="alice")
    assert done.exit_code == 0, done.output
    assert '"amount_usd_cents": 1000' in done.stdout
    assert await desk.ended(run_id) == "succeeded"
    assert [row["amount_usd_cents"] for row in desk.world.store.refunds() if row["order_id"] == "A-2"] == [1000]


async def test_a_refusal_keeps_the_money(desk: Desk) -> None:
    run_id = await desk.start(refund("A-3"))
    approval = await desk.asked(run_id)
    done = await desk.holdfast("deny", approval.approval_id, "--comment", "no", user="alice")
    assert done.exit_code == 0, done.output
    assert await desk.ended(run_id) == "succeeded"
    assert "A-3" not in [row["order_id"] for row in desk.world.store.refunds()]
    shown = (await desk.holdfast("show", run_id)).stdout
    assert "approval.denied" in shown


async def test_a_token_decides_when_it_comes_by_a_bare_signal(desk: Desk) -> None:
    run_id = await desk.start(refund("A-4"))
    approval = await desk.asked(run_id)
    assert (await desk.holdfast("approval-token", approval.approval_id, "--verdict", "maybe")).exit_code == 2
    refused = await desk.holdfast("approval-token", approval.approval_id, "--verdict", "approved")
    assert refused.exit_code == 1, "the requester got a token"
    done = await desk.holdfast("approval-token", approval.approval_id, "--verdict", "approved", user="alice")
    assert done.exit_code == 0, done.output
    token = done.stdout.strip()
    assert "\n" not in token
    assert f"temporal workflow signal --workflow-id {run_id} --name approval" in done.stderr
    # as `temporal workflow signal --input` does: plain JSON, without Holdfast's codec
    client = await Client.connect(desk.stack.urls.temporal, namespace=NAMESPACE)
    handle = client.get_workflow_handle(run_id)
    await handle.signal(names.SIGNAL_APPROVAL, {"approval_id": approval.approval_id, "token": "x" * len(token)})
    await handle.signal(names.SIGNAL_APPROVAL, {"approval_id": approval.approval_id, "token": token})
    assert await desk.ended(run_id) == "succeeded"
    assert [row["order_id"] for row in desk.world.store.refunds()].count("A-4") == 1
    assert (await asyncio.to_thread(desk.owner.approval, approval.approval_id)).decided_by == "alice"


async def test_runs_are_listed_shown_and_cancelled(desk: Desk) -> None:
    run_id = await desk.start({"tool": "mail.list", "arguments": {}}, refund("A-5"))
    await desk.asked(run_id)
    assert run_id in (await desk.holdfast("runs", "--status", "waiting", "--agent", "helper")).stdout
    listed = await desk.answer("runs", "--limit", "1")
    assert [run["run_id"] for run in listed] == [run_id]
    shown = await desk.answer("show", run_id)
    assert shown["run"]["simulated"] is True
    assert shown["inputs"][0]["content"].startswith("please")
    decided = [(one["tool"], one["verdict"]) for one in shown["decisions"] if one["step"]]
    assert decided == [("", "allow"), ("mail.list", "allow"), ("", "allow"), ("payments.refund", "needs_approval")]
    assert {hold["state"] for hold in shown["holds"]} == {"committed"}
    text = (await desk.holdfast("show", run_id)).stdout
    assert "simulated provider" in text
    assert "approval.required" in text
    assert (await desk.answer("cancel", run_id))["run_id"] == run_id
    assert await desk.ended(run_id) == "cancelled"
    again = await desk.holdfast("cancel", run_id)
    assert again.exit_code == 0
    assert "had ended: cancelled" in again.stdout


async def test_an_unknown_outcome_waits_for_a_person_who_looked(desk: Desk) -> None:
    desk.world.faults.add("mail", Fault("answer_lost"))
    run_id = await desk.start({"tool": "mail.send", "arguments": LETTER})
    hold = await desk.unknown(run_id)
    assert hold.tool == "mail.send"
    assert hold.hold_id in (await desk.holdfast("holds", "--state", "unknown")).stdout
    [listed] = await desk.answer("holds", "--run", run_id, "--state", "unknown")
    assert listed["hold_id"] == hold.hold_id
    assert (
        await desk.holdfast("holds", "resolve", hold.hold_id, "--reason", "no word on what happened")
    ).exit_code == 2
    nobody = await desk.holdfast("holds", "resolve", hold.hold_id, "--happened", "--reason", "seen", user="alice")
    assert nobody.exit_code == 8
    done = await desk.holdfast(
        "holds", "resolve", hold.hold_id, "--happened", "--cost", "$0", "--reason", "it lies in the mailbox"
    )
    assert done.exit_code == 0, done.output
    assert "is committed" in done.stdout
    again = await desk.holdfast("holds", "resolve", hold.hold_id, "--did-not-happen", "--reason", "or not")
    assert again.exit_code == 1
    assert await desk.ended(run_id) == "succeeded"
    assert len([mail for mail in stored_mails(desk.world.sent) if mail["Subject"] == "Hello"]) == 1


async def test_errors_are_sentences_with_a_code(desk: Desk, tmp_path: Path) -> None:
    nothing = str(new_id())
    for command in (
        ["show", nothing],
        ["cancel", nothing],
        ["approve", nothing],
        ["holds", "resolve", nothing, "--happened", "--reason", "x"],
    ):
        done = await desk.holdfast(*command)
        assert done.exit_code == 1, command
        assert done.stderr.startswith("error: there is no ")
        assert "resource.not_found" in done.stderr
    unknown = await desk.holdfast("replay", nothing)
    assert (unknown.exit_code, "no history of a run" in unknown.stderr) == (1, True)
    wrong_key = tmp_path / "key"
    wrong_key.write_text("hf_abcdefgh_" + "x" * 43)
    stranger = await desk.bare("runs", "--url", desk.stack.urls.api, "--key-file", str(wrong_key))
    assert stranger.exit_code == 8
    assert "auth." in stranger.stderr
    assert f"the key of {wrong_key}" in stranger.stderr
    nowhere = await desk.bare("runs", "--url", "http://127.0.0.1:9", "--key-file", str(wrong_key))
    assert nowhere.exit_code == 3
    assert "cannot be reached" in nowhere.stderr
    for url in ("nonsense", "ftp://a", "http://a b", "http://a:port", "http://[::1"):
        wrong = await desk.bare("runs", "--url", url, "--key-file", str(wrong_key))
        assert (wrong.exit_code, "is no address" in wrong.stderr) == (1, True), wrong.output
    keyless = await desk.bare("runs", "--url", desk.stack.urls.api)
    assert keyless.exit_code == 1
    assert "HOLDFAST_API_KEY" in keyless.stderr
    not_there = await desk.bare("runs", "--data-dir", str(tmp_path))
    assert not_there.exit_code == 3
    other_program = await desk.bare("runs", "--url", desk.stack.urls.provider, "--key-file", str(wrong_key))
    assert other_program.exit_code == 1
    assert "is --url the address" in other_program.stderr


async def test_without_a_key_the_first_tenants_is_taken(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await desk.bare("runs", "--data-dir", str(desk.data))).stdout == "there are no runs\n"
    monkeypatch.setenv("HOLDFAST_URL", desk.stack.urls.api)
    monkeypatch.setenv("HOLDFAST_API_KEY", desk.key_file("owner").read_text())
    assert "helper" in (await desk.bare("runs")).stdout


async def test_options_before_a_subcommand_are_refused_rather_than_lost(desk: Desk) -> None:
    arguments = ("resolve", str(new_id()), "--happened", "--reason", "x")
    done = await desk.bare("holds", "--data-dir", str(desk.data), *arguments)
    assert done.exit_code == 2
    assert "options come after" in done.output


def test_asking_for_help_loads_nothing_heavy() -> None:
    heavy = ["temporalio", "asyncpg", "sqlalchemy", "httpx", "pydantic", "sdk", "rich.table"]
    code = f"import sys, cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_answers_in_json() -> None:
    command: Any = typer.main.get_command(app)  # Typer keeps the library under it to itself
    missing = []

    def look(command: Any, path: str) -> None:
        for name, each in getattr(command, "commands", {}).items():
            look(each, f"{path} {name}")
        leaf = not hasattr(command, "commands") or command.invoke_without_command
        if leaf and "--json" not in [option for parameter in command.params for option in parameter.opts]:
            missing.append(path)

    look(command, "holdfast")
    assert not missing


@pytest.mark.parametrize(
    ("words", "offered"),
    [("holdfast pro", "profiles"), ("holdfast keys ", "revoke"), ("holdfast runs --sta", "--status")],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_commands_and_options(shell: str, words: str, offered: str) -> None:
    environment = {
        **os.environ,
        "_HOLDFAST_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    argv = [sys.executable, "-c", "from cli.main import app; app(prog_name='holdfast')"]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert offered in done.stdout, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown_and_installed(shell: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "from cli.main import app; app(prog_name='holdfast')"]
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    for option in ("--show-completion", "--install-completion"):
        done = subprocess.run(
            [*argv, option, shell], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    written = "".join(one.read_text() for one in tmp_path.rglob("*") if one.is_file())
    assert "_HOLDFAST_COMPLETE" in written
