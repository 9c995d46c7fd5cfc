"""The transparency log over the API: for standard clients, for auditors, for witnesses; and for one's own tenant alone."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from holdfast.transparency.keys import TextKeys, new_key, public_of
from holdfast_verdict.log import tiles, tree
from holdfast_verdict.log.checkpoint import SignedCheckpoint
from holdfast_verdict.log.note import ED25519, VerifierKey
from tests.log.go_oracle import Oracle, raw
from workers.sequencer import Sequencer

from .world import Tenant, World, problem

PRIVATE = new_key()
NAME = "log.example"


@pytest.fixture(scope="session")
def oracle() -> Iterator[Oracle]:
    with Oracle() as running:
        yield running


def vkey_of(tenant: Tenant) -> VerifierKey:
    return VerifierKey(f"{NAME}/{tenant.tenant_id}", ED25519, bytes.fromhex(public_of(PRIVATE)))


async def sequence(world: World) -> None:
    await Sequencer(world.engine("sweeper"), TextKeys(PRIVATE), name=NAME, interval_ms=50).round()


async def write(world: World, tenant: Tenant, count: int) -> None:
    await world.execute(
        """INSERT INTO decisions (tenant_id, decision_id, kind, verdict, reason_codes, reply, part_a, part_b, record_hash)
           SELECT $1, d.id, 'config', 'allow', '{cap.set}', '{}', d.a, d.a, sha256('\\x00'::bytea || sha256(d.a) || sha256(d.a))
           FROM (SELECT new_id() AS id, convert_to(n::text, 'UTF8') AS a FROM generate_series(1, $2::int) n) d""",
        tenant.tenant_id,
        count,
    )


def token_of(client: httpx.AsyncClient) -> str:
    return client.headers["authorization"].removeprefix("Bearer ")


async def test_a_standard_client_follows_the_log(world: World, tenant: Tenant, oracle: Oracle) -> None:
    auditor = await tenant.as_user("auditor", "auditor")
    for count in (300, 1, 260):
        await write(world, tenant, count)
        await sequence(world)
        asked = {"url": f"{world.api.url}/v1/log", "token": token_of(auditor), "keys": [vkey_of(tenant).text]}
        found = await asyncio.to_thread(oracle.ask, "follow", **asked)
        assert "error" not in found, found
        rows = await world.fetch(
            """SELECT sha256(part_a) || sha256(part_b) AS entry FROM decisions
               WHERE tenant_id = $1 AND leaf_index IS NOT NULL ORDER BY leaf_index""",
            tenant.tenant_id,
        )
        assert raw(found["entries"]) == [row["entry"] for row in rows]


async def test_a_decision_is_proved_to_be_in_the_log(world: World, tenant: Tenant) -> None:
    decision_id = (await tenant.reserve(await tenant.run())).decision_id
    path = f"/v1/log/inclusion/{decision_id}"
    assert "within two seconds" in problem(await tenant.owner.get(path), 404, "resource.not_found")["remedy"]
    await sequence(world)
    shown = (await tenant.owner.get(f"/v1/decisions/{decision_id}")).json()["decision"]
    for size in (None, (await tenant.owner.get(path)).json()["size"]):
        found = (await tenant.owner.get(path, params={} if size is None else {"size": size})).json()
        checkpoint = SignedCheckpoint.open(found["checkpoint"], [vkey_of(tenant)]).checkpoint
        assert found["record_hash"] == shown["record_hash"]
        tree.verify_inclusion(
            index=found["leaf_index"],
            size=found["size"],
            leaf=bytes.fromhex(found["record_hash"]),
            proof=[base64.b64decode(each) for each in found["proof"]],
            root=checkpoint.root,
        )
        await write(world, tenant, 40)
        await sequence(world)


async def test_the_log_is_proved_to_have_only_grown(world: World, tenant: Tenant) -> None:
    notes = []
    for count in (3, 5, 290):
        await write(world, tenant, count)
        await sequence(world)
        notes.append((await tenant.owner.get("/v1/log/checkpoint")).text)
    old, middle, new = (SignedCheckpoint.open(each, [vkey_of(tenant)]).checkpoint for each in notes)
    for before, size in ((old, new.size), (middle, new.size), (old, middle.size), (new, new.size)):
        found = (await tenant.owner.get("/v1/log/consistency", params={"old_size": before.size, "size": size})).json()
        after = SignedCheckpoint.open(found["checkpoint"], [vkey_of(tenant)]).checkpoint
        proof = [base64.b64decode(each) for each in found["proof"]]
        tree.verify_consistency(
            old_size=before.size, old_root=before.root, size=after.size, root=after.root, proof=proof
        )
    assert (await tenant.owner.get(f"/v1/log/checkpoints/{old.size}")).text == notes[0]
    listed = (await tenant.owner.get("/v1/log/checkpoints", params={"limit": 2})).json()
    assert [row["size"] for row in listed["items"]] == [new.size, middle.size]
    rest = (await tenant.owner.get("/v1/log/checkpoints", params={"before": listed["next_cursor"]})).json()
    assert next(row["size"] for row in rest["items"]) == old.size
    problem(await tenant.owner.get("/v1/log/checkpoints/1000000"), 404, "resource.not_found")
    wrong = {"old_size": new.size, "size": old.size}
    problem(await tenant.owner.get("/v1/log/consistency", params=wrong), 422, "request.invalid")


async def test_tiles_are_served_as_far_as_they_are_filled(world: World, tenant: Tenant) -> None:
    problem(await tenant.owner.get("/v1/log/tile/entries/000.p/1"), 404, "resource.not_found")
    await write(world, tenant, 300)
    await sequence(world)
    size = SignedCheckpoint.open((await tenant.owner.get("/v1/log/checkpoint")).text, [vkey_of(tenant)]).checkpoint.size
    for tile in tiles.tiles_between(0, size):
        data = (await tenant.owner.get(f"/v1/log/{tile.path}")).content
        entries = (
            tiles.entries_of(data)
            if tile.level == tiles.ENTRIES
            else [data[at : at + 32] for at in range(0, len(data), 32)]
        )
        assert len(entries) == tile.width
    for path in (
        f"0/001.p/{size - 255}",
        "0/002",
        "1/000",
        "1/001.p/1",
        "0/0",
        "9/000",
        "entries/../keys",
        "0/x000/000",
    ):
        problem(await tenant.owner.get(f"/v1/log/tile/{path}"), 404, "resource.not_found")


async def test_keys_are_published_also_when_they_sign_no_more(world: World, tenant: Tenant) -> None:
    await write(world, tenant, 2)
    await sequence(world)
    [key] = (await tenant.owner.get("/v1/log/keys")).json()["items"]
    assert (key["vkey"], key["public_key"]) == (vkey_of(tenant).text, public_of(PRIVATE))
    assert (key["retired_size"], key["retired_at"]) == (None, None)


async def test_nobody_reads_another_tenants_log(world: World, tenant: Tenant, other: Tenant) -> None:
    await write(world, tenant, 5)
    await sequence(world)
    for path in ("checkpoint", "checkpoints/5", "tile/entries/000.p/5"):
        own = await tenant.owner.get(f"/v1/log/{path}")
        theirs = await other.owner.get(f"/v1/log/{path}")
        assert theirs.status_code == 404 or theirs.content != own.content
    assert str(tenant.tenant_id) not in (await other.owner.get("/v1/log/keys")).text
    nobody = await tenant.as_user("robot", "agent")
    for path in ("checkpoint", "keys", "checkpoints", "status", "witnesses", "tile/0/000", "consistency?old_size=1"):
        problem(await nobody.get(f"/v1/log/{path}"), 403, "auth.not_permitted")
        assert (await world.api.client().get(f"/v1/log/{path}")).status_code == 401


# Witnesses ---------------------------------------------------------------------------------------------------------------


class Observer:
    """A witness on the command line, with its files."""

    def __init__(self, world: World, tenant: Tenant, auditor: httpx.AsyncClient, folder: Path) -> None:
        self.folder = folder
        (folder / "api.key").write_text(token_of(auditor))
        (folder / "api.key").chmod(0o600)
        self._session = ["--url", world.api.url, "--key-file", str(folder / "api.key"), "--json"]
        self._log_key = vkey_of(tenant).text

    async def look(self, state: str = "state.json") -> Result:
        """Looks once, in a thread: the server is in this process's loop."""
        options = [
            "--key",
            str(self.folder / "witness.key"),
            "--state",
            str(self.folder / state),
            "--name",
            "w.example",
        ]
        arguments = ["log", "witness", "--log-key", self._log_key, *options, *self._session]
        return await asyncio.to_thread(lambda: CliRunner().invoke(app, arguments))


@pytest.fixture
async def witness(world: World, tenant: Tenant, tmp_path: Path) -> Observer:
    """A witness that is known to the log."""
    await write(world, tenant, 3)
    await sequence(world)
    one = Observer(world, tenant, await tenant.as_user("auditor", "auditor"), tmp_path)
    unknown = await one.look()
    assert unknown.exit_code == 1
    assert "known witness" in unknown.stderr
    private = (tmp_path / "witness.key").read_text().strip()
    vkey = VerifierKey("w.example", 4, bytes.fromhex(public_of(private))).text
    assert (await tenant.owner.post("/v1/log/witnesses", json={"vkey": vkey})).status_code == 204
    assert (await tenant.owner.post("/v1/log/witnesses", json={"vkey": vkey})).status_code == 204
    assert [each["vkey"] for each in (await tenant.owner.get("/v1/log/witnesses")).json()["items"]] == [vkey]
    return one


async def test_a_witness_cosigns_what_follows_and_it_is_served(
    world: World, tenant: Tenant, witness: Observer, oracle: Oracle
) -> None:
    for _ in range(2):
        await write(world, tenant, 4)
        await sequence(world)
        for _ in range(2):
            done = await witness.look()
            assert done.exit_code == 0, done.output
        # the server writes its log beside it, for it runs in this process
        answer = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
        note = (await tenant.owner.get("/v1/log/checkpoint")).text
        opened = SignedCheckpoint.open(note, [vkey_of(tenant)])
        assert opened.checkpoint.size == answer["cosigned"]
        assert len(opened.cosigned_by([VerifierKey.parse(answer["witness"])])) == 1
        seed = bytes.fromhex((witness.folder / "witness.key").read_text())
        theirs = oracle.ask("verify_cosignature", message=note, name="w.example", seed=seed)
        assert theirs["text"] == opened.note.text
    key = answer["witness"]
    assert (await tenant.owner.post("/v1/log/witnesses/remove", json={"vkey": key})).status_code == 204
    assert (await witness.look()).exit_code == 1
    assert (await tenant.owner.get("/v1/log/checkpoint")).text == note, "what it has cosigned stays"


@pytest.mark.parametrize("kind", ["fork", "rollback"])
async def test_a_witness_refuses_a_fork_and_a_rollback(
    world: World, tenant: Tenant, witness: Observer, kind: str
) -> None:
    await write(world, tenant, 20)
    await sequence(world)
    assert (await witness.look()).exit_code == 0
    # what nobody can do but who owns the database: the log begins anew, and holds other records
    for statement in (
        "DELETE FROM log_cosignatures WHERE tenant_id = $1",
        "DELETE FROM log_checkpoints WHERE tenant_id = $1",
        "DELETE FROM log_tiles WHERE tenant_id = $1",
        "DELETE FROM log_keys WHERE tenant_id = $1",
        "DELETE FROM logs WHERE tenant_id = $1",
        "DELETE FROM decisions WHERE tenant_id = $1",
    ):
        await world.execute(statement, tenant.tenant_id)
    await write(world, tenant, 500 if kind == "fork" else 2)
    await sequence(world)
    for _ in range(2):
        done = await witness.look()
        assert done.exit_code == 1
        assert "does not follow" in done.stderr
    assert [path for path in witness.folder.iterdir() if "evidence" in path.name]
    assert "w.example" not in (await tenant.owner.get("/v1/log/checkpoint")).text
    assert (await witness.look("fresh.json")).exit_code == 0, "who has seen nothing before cannot tell"


async def test_a_cosignature_that_is_forged_or_of_another_log_is_not_taken(
    world: World, tenant: Tenant, other: Tenant, witness: Observer
) -> None:
    assert (await witness.look()).exit_code == 0
    note = (await tenant.owner.get("/v1/log/checkpoint")).text
    line = next(line for line in note.splitlines(keepends=True) if line.startswith("— w.example"))
    await write(world, tenant, 1)
    await sequence(world)
    newer = (await tenant.owner.get("/v1/log/checkpoint")).text
    for wrong in (newer + line, note.replace("\n\n", "x\n\n", 1), newer, "x"):
        problem(await tenant.owner.post("/v1/log/cosignatures", json={"checkpoint": wrong}), 422, "request.invalid")
    for wrong_key in (vkey_of(tenant).text, "w.example+00000000+BAAA", "x"):
        problem(await tenant.owner.post("/v1/log/witnesses", json={"vkey": wrong_key}), 422, "request.invalid")
    await write(world, other, 3)
    await sequence(world)
    assert (await other.owner.post("/v1/log/cosignatures", json={"checkpoint": note})).status_code in (404, 422)
    viewer = await tenant.as_user("viewer", "viewer")
    problem(await viewer.post("/v1/log/cosignatures", json={"checkpoint": note}), 403, "auth.not_permitted")


async def test_its_status_tells_what_is_signed_and_what_waits(world: World, tenant: Tenant, tmp_path: Path) -> None:
    auditor = await tenant.as_user("auditor", "auditor")
    await write(world, tenant, 2)
    await sequence(world)
    before = (await auditor.get("/v1/log/status")).json()
    assert (before["waiting"], before["lag_ms"], before["oldest_at"], before["witnesses"]) == (0, None, None, [])
    assert before["checkpoint_size"] == before["size"] > 0
    await write(world, tenant, 3)
    late = (await auditor.get("/v1/log/status")).json()
    assert (late["size"], late["waiting"]) == (before["size"], 3)
    assert late["lag_ms"] >= 0
    key = tmp_path / "api.key"
    key.write_text(token_of(auditor))
    key.chmod(0o600)
    arguments = ["log", "status", "--url", world.api.url, "--key-file", str(key)]
    shown = await asyncio.to_thread(lambda: CliRunner().invoke(app, arguments))
    assert shown.exit_code == 0, shown.stderr
    assert "waiting    3, the oldest for" in shown.stdout
    await sequence(world)
    after = (await auditor.get("/v1/log/status")).json()
    assert (after["size"], after["checkpoint_size"], after["waiting"]) == (before["size"] + 3, before["size"] + 3, 0)
    assert after["keys"] == 1
