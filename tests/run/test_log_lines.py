"""What the logs of every process say of a run, and what none of them says: a prompt, an argument, a result, a credential.

Everything that must not stand there is a word of its own. It goes through the whole stack at the level `debug`, with failures that
like to quote: a tool that raises with it, a provider that echoes it, a database that goes away, a body that is refused.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from holdfast.database.engine import transaction
from holdfast.settings import read_key_file
from holdfast.tenancy.keys import create_key
from holdfast.vault import Vault
from holdfast_verdict.canonical import JsonValue
from tests.tools.raw_server import raw_server

from .captured import permit_of
from .harness import Rig, Run, Tenant, call, mail, refund, say, task, until
from .rigs import running_rig
from .test_lease import stolen_lease

PROCESSES = ("api", "governor", "executor", "provider")
# Their lines have forms of their own.
SERVERS = ("postgres", "valkey", "temporal")


@dataclass(slots=True)
class Words:
    """Words that stand in no log, by what they are."""

    by_kind: dict[str, str] = field(default_factory=dict)

    def new(self, kind: str) -> str:
        """Makes one."""
        self.by_kind[kind] = f"{kind}-{secrets.token_hex(8)}"
        return self.by_kind[kind]

    def add(self, kind: str, word: str) -> None:
        """Takes one that exists."""
        assert len(word) > 7
        self.by_kind[kind] = word


@pytest.fixture
async def talking_rig() -> AsyncIterator[Rig]:
    async with running_rig(more_parts=("api", "bootstrap"), environment={"HOLDFAST_LOG_LEVEL": "debug"}) as rig:
        yield rig


@pytest.fixture
def inbox() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-inbox-"))
    yield folder
    shutil.rmtree(folder)


async def store(rig: Rig, tenant: Tenant, name: str, entry: dict[str, JsonValue]) -> None:
    vault = Vault(read_key_file(rig.stack.secrets.vault_key_file))
    async with transaction(rig.engine("broker"), tenant.tenant_id) as connection:
        await vault.put(connection, tenant.tenant_id, name, entry)


async def api_key(rig: Rig, tenant: Tenant) -> str:
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        ada = tenant.ada
        _, key = await create_key(
            connection, tenant.tenant_id, user_id=ada.user_id, project_id=ada.project_id, roles=["developer"]
        )
    return key


def provider_entry(url: str, key: str) -> dict[str, JsonValue]:
    return {"api_key": key, "base_url": url, "simulated": True}


def add_keys_of_the_stack(rig: Rig, words: Words) -> None:
    for role, password in rig.stack.secrets.database_passwords.items():
        words.add(f"database password of {role}", password)
    words.add("Valkey's password", rig.stack.secrets.valkey_password)
    for name in ("permit.key", "vault.key", "codec.key"):
        words.add(name, (rig.stack.secrets.folder / name).read_text().strip())
    for name, key in json.loads(rig.stack.secrets.bootstrap_key_file.read_text()).items():
        words.add(name, key)


async def a_good_run(rig: Rig, tenant: Tenant, words: Words, inbox: Path) -> Run:
    """Reads a mail, refunds, answers the customer; then everything that it was given is a word that may stand nowhere."""
    letter = EmailMessage()
    letter["From"], letter["Subject"] = f"{words.new('sender')}@customer.example", words.new("inbox-subject")
    letter.set_content(words.new("inbox-body"))
    (inbox / "m-1.eml").write_bytes(letter.as_bytes())
    entry: dict[str, JsonValue] = {**rig.world.credentials()["tool.mail"], "maildir": str(inbox)}
    await store(rig, tenant, "tool.mail", entry)
    words.add("payments' key", rig.world.api_key)
    reading = call("mail.read", mail_id="m-1")
    body = {
        "to": [f"{words.new('recipient')}@customer.example"],
        "subject": words.new("mail-subject"),
        "body": words.new("mail-body"),
    }
    script = (reading, refund(words.new("order")), call("mail.send", **body), say(words.new("answer")))
    run = await tenant.start(
        task(*script, words=words.new("prompt")), tools=("mail.read", "mail.send", "payments.refund")
    )
    assert await run.ended() == "succeeded", await run.story()
    words.add("permit", await permit_of(rig, run, "step-2-try-1"))
    return run


async def failing_runs(rig: Rig, tenant: Tenant, words: Words) -> None:
    """A tool raises with a part of its credential, a provider echoes key and prompt, a database goes away, a lease is stolen."""
    mail_entry = rig.world.credentials()["tool.mail"]
    await store(rig, tenant, "tool.mail", {**mail_entry, "from_address": f"a@b {words.new('credential')}"})
    raising = await tenant.start(task(mail(words.new("unsent-subject")), say("done")))
    await raising.ended()
    assert "tool.failed" in [hold["error_code"] for hold in await raising.holds(tool="mail.send")]
    await store(rig, tenant, "tool.mail", mail_entry)

    key, prompt = words.new("provider-key"), words.new("echoed-prompt")
    echo = json.dumps({"type": "error", "error": {"type": "api_error", "message": f"{key} said {prompt}"}}).encode()
    answer = b"HTTP/1.1 500 Bad\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(echo) + echo
    async with raw_server(answer=answer) as provider:
        await store(rig, tenant, "provider.anthropic", provider_entry(f"http://127.0.0.1:{provider.port}", key))
        refused = await tenant.start(task(say("x"), words=prompt), max_tries=2)
        assert (await refused.ended()).startswith("failed")
        assert key.encode() in provider.requests[0]
        assert prompt.encode() in provider.requests[0]
    await store(rig, tenant, "provider.anthropic", provider_entry(rig.stack.urls.provider, words.new("other-key")))

    twice = f"INSERT INTO roles (tenant_id, name, version, rules, policy_hash) VALUES ($1, '{words.new('row')}', 1, '[]', $2)"
    await rig.database.execute(twice, tenant.tenant_id, bytes(32))
    with pytest.raises(asyncpg.UniqueViolationError):  # PostgreSQL likes to quote the row, and the statement
        await rig.database.execute(twice, tenant.tenant_id, bytes(32))

    run, _, token = await stolen_lease(rig, tenant, words.new("stolen-subject"))
    words.add("lease token", token.hex())
    rig.points.clear()
    assert await run.ended() == "succeeded"

    rig.points.park("settle.before:tool.call")
    cut = await tenant.start(task(mail(words.new("cut-subject")), say("done"), words=words.new("cut-prompt")))
    await rig.points.until_parked("settle.before:tool.call")
    await rig.stack.kill("postgres", signal.SIGKILL, restart=False)
    rig.points.clear()
    await asyncio.sleep(2)  # long enough for everybody to notice
    rig.restart("postgres")
    await rig.all_up()
    assert await cut.ended() == "succeeded", await cut.story()


async def bad_requests(rig: Rig, tenant: Tenant, words: Words) -> str:
    """Asks the API for what it refuses, and once for what it does; returns the id of that run."""
    key = await api_key(rig, tenant)
    words.add("API key", key)
    agent = (await tenant.admit("nothing")).tenant.runs[-1]
    name = await rig.value("SELECT agent_name FROM runs WHERE run_id = $1", agent.run_id)
    await agent.start()
    async with httpx.AsyncClient(base_url=rig.stack.urls.api, trust_env=False, timeout=60) as client:
        client.headers["authorization"] = f"Bearer {key}"
        bad: list[Any] = [
            {"agent": name, "input": words.new("refused-prompt"), words.new("field"): 1},
            {"agent": words.new("agent"), "input": "x"},
            {"agent": name, "input": words.new("nul-prompt") + "\x00"},
            f'{{"agent": "{words.new("broken-json")}", ',
            [words.new("list")],
        ]
        for body in bad:
            content = body if isinstance(body, str) else json.dumps(body)
            reply = await client.post("/v1/runs", content=content, headers={"content-type": "application/json"})
            assert 400 <= reply.status_code < 500, reply.text
        assert (await client.get(f"/v1/runs/{words.new('path')}?q={words.new('query')}")).status_code == 422
        wrong = words.new("wrong-key")
        reply = await client.get("/v1/runs", headers={"authorization": f"Bearer hf_{wrong}"})
        assert reply.status_code == 401
        reply = await client.post(
            "/v1/runs", json={"agent": name, "input": task(say("hello"), words=words.new("said"))}
        )
        run_id: str = reply.json()["run_id"]
        assert (await client.get(f"/v1/runs/{run_id}/wait", params={"timeout_s": 30})).json()["status"] == "succeeded"
    return run_id


def lines_of(rig: Rig) -> list[dict[str, Any]]:
    """Every line of our own processes, which is JSON and says who, when, how serious and what."""
    lines = []
    for path in sorted(rig.stack.folder.logs.glob("*.log*")):
        if path.name.partition(".")[0] in SERVERS:
            continue
        whole = path.read_text(encoding="utf-8").rpartition("\n")[
            0
        ]  # they go on, and the last line may be half written
        for text in filter(None, whole.split("\n")):
            line = json.loads(text)
            assert {"process", "level", "event", "timestamp", "logger"} <= line.keys(), text
            lines.append(line)
    return lines


async def waited_for(rig: Rig, asked: str) -> bool:
    """Whether the log has the request that waited for a run."""
    return any("/wait" in line and asked in line for line in rig.log("api").splitlines())


def check_ids(lines: list[dict[str, Any]], tenant: Tenant, good: Run, asked: str) -> None:
    """The lines about a run name it, its tenant and its steps, in every process that had to do with it."""
    of_run = [line for line in lines if line.get("run_id") == str(good.run_id)]
    assert {line["process"] for line in of_run} >= {"governor", "executor"}
    named = ("action.decided", "permit.redeemed", "outcome.stored", "action.settled")
    for event in named:
        steps = {line["step"] for line in of_run if line["event"] == event}
        assert steps == {1, 2, 3, 4, 5, 6, 7}, (event, steps)
    for line in of_run:
        # the SDK's debugging words, from before the run's row is read, cannot know the tenant
        if line["event"] in named:
            assert line["tenant_id"] == str(tenant.tenant_id), line
            assert line["hold_id"], line
    ended_early = [line for line in lines if line["event"] == "execution.ended_early"]
    assert ended_early
    assert all(line["tenant_id"] == str(tenant.tenant_id) and line["run_id"] and line["step"] for line in ended_early)
    requests = [line for line in lines if line["event"] == "request" and line.get("run_id") == asked]
    assert {line["path"] for line in requests} == {"/v1/runs", "/v1/runs/{run_id}/wait"}
    assert all(line["tenant_id"] == str(tenant.tenant_id) and line["request_id"] for line in requests)
    raised = next(line for line in lines if line["event"] == "tool.failed")
    assert raised["error"] == "ValueError"
    assert any(place.startswith("activities/tools/") for place in raised["places"])


async def test_no_log_of_any_process_says_a_secret_and_each_line_names_its_run(talking_rig: Rig, inbox: Path) -> None:
    rig, words = talking_rig, Words()
    add_keys_of_the_stack(rig, words)
    tenant = await rig.tenant()
    good = await a_good_run(rig, tenant, words, inbox)
    await failing_runs(rig, tenant, words)
    asked = await bad_requests(rig, tenant, words)
    await until(
        lambda: waited_for(rig, asked), what="the line of a request that was answered before"
    )  # a line is written after its answer is sent
    logs = {path.name: path.read_text(encoding="utf-8") for path in rig.stack.folder.logs.glob("*.log*")}
    assert {name.partition(".")[0].partition("-")[0] for name in logs} >= {*PROCESSES, *SERVERS}
    said = [
        f"{name} says the {kind}: {next(line for line in text.splitlines() if word in line)[:400]}"
        for name, text in logs.items()
        for kind, word in words.by_kind.items()
        if word in text
    ]
    assert not said, "\n".join(said)
    check_ids(lines_of(rig), tenant, good, asked)
