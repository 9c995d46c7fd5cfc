"""What is released can be installed alone, has all that it needs in it and nothing else, and works."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tarfile
from collections.abc import Mapping
from email.parser import Parser
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from holdfast_verdict.canonical import digest
from holdfast_verdict.decide import Condition, Facts, Rule, decide, policy_hash, rule_to_json
from holdfast_verdict.record import part_a, part_b, record_hash
from tests.sdk.scripted_server import answer, problem, scripted

from .distributions import ROOMS_OF, ROOT, Distribution, Environment, uv

NAMES = sorted(ROOMS_OF)
_IMPORT_ALL = """
import importlib, pkgutil, sys
count = 0
for room in sys.argv[2:]:
    package = importlib.import_module(room)
    assert package.__file__.startswith(sys.prefix), package.__file__
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        if not module.name.endswith("__main__") and not (module.name + ".").startswith(sys.argv[1]):
            importlib.import_module(module.name)
            count += 1
print(count)
"""
_OF_THE_EXTRA = "holdfast_verdict.check."
"""Needs z3, which comes with the extra `check`; the server has it."""


def tracked(room: str) -> set[str]:
    """Returns a room's files that belong into its wheel: all but what builds it and what a reader of the sources sees."""
    done = subprocess.run(["git", "ls-files", room], cwd=ROOT, capture_output=True, text=True, check=True)
    build_files = {f"{room}/{name}" for name in ("pyproject.toml", "README.md", "LICENSE")}
    return set(done.stdout.split()) - build_files


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_has_every_file_of_its_rooms_and_no_other(name: str, built: dict[str, Distribution]) -> None:
    files = {file for file in built[name].files if ".dist-info/" not in file}
    expected = {file for room in ROOMS_OF[name] for file in tracked(room) if (ROOT / file).exists()}
    assert files == expected, (
        "git knows other files than were packed: is one not added, or does pyproject.toml leave it out?"
    )
    assert any(file.endswith(".sql") for file in files) == (name == "holdfast")


@pytest.mark.parametrize("name", NAMES)
def test_a_source_archive_has_the_same_sources(name: str, built: dict[str, Distribution]) -> None:
    with tarfile.open(built[name].sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    single = len(ROOMS_OF[name]) == 1
    expected = {file for room in ROOMS_OF[name] for file in tracked(room) if (ROOT / file).exists()}
    assert {file.partition("/")[2] if single else file for file in expected} <= names
    assert not [file for file in names if file.startswith(("tests/", "bench/", "demo/", "docs/"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_says_what_it_is_and_brings_its_licence(name: str, built: dict[str, Distribution]) -> None:
    about = Parser().parsestr(built[name].read("/METADATA"))
    assert (about["Name"], about["License-Expression"]) == (name, "MIT")
    assert about["Requires-Python"] == ">=3.11"
    assert about["Summary"]
    assert about.get_payload()
    assert built[name].read("/licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_three_have_one_version(built: dict[str, Distribution]) -> None:
    assert len({Parser().parsestr(one.read("/METADATA"))["Version"] for one in built.values()}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_what_is_needed_is_there_and_fits(name: str, request: pytest.FixtureRequest) -> None:
    environment: Environment = request.getfixturevalue(
        {"holdfast": "server", "holdfast-verify": "verify", "holdfast-sdk": "client"}[name]
    )
    assert "compatible" in uv("pip", "check", "--python", str(environment.folder))
    rooms = [*ROOMS_OF[name], *(ROOMS_OF["holdfast-verify"] if name == "holdfast" else ())]
    left_out = _OF_THE_EXTRA if name == "holdfast-verify" else "nothing."
    modules = {
        file
        for room in rooms
        for file in tracked(room)
        if file.endswith(".py") and "__main__" not in file and not file.replace("/", ".").startswith(left_out)
    }
    imported = int(environment.python(_IMPORT_ALL, left_out, *rooms))
    assert imported >= len([file for file in modules if "/migrations/" not in file]) - len(rooms)


def test_the_commands_are_there_and_say_what_is_missing(server: Environment) -> None:
    assert "no agent action runs without a hold" in " ".join(server.run("holdfast", "--help").stdout.split()).lower()
    explained = server.run("holdfast", "explain", "stack.part_missing", "--json").stdout
    assert json.loads(explained)["places"] == ["command"]
    refused = server.run("holdfast", "up", "--data-dir", str(server.folder / "data"), check=False)
    assert refused.returncode == 1
    assert "to do:" in refused.stderr, "without the embedded parts it has to say how to get them"


async def test_the_installed_server_brings_its_migrations(
    server: Environment, postgres_urls: Mapping[str, str]
) -> None:
    name = f"packed_{uuid4().hex}"
    superuser = await asyncpg.connect(postgres_urls["postgres"])
    await superuser.execute(f"CREATE DATABASE {name} OWNER holdfast_owner TEMPLATE template0")
    try:
        url = make_url(postgres_urls["holdfast_owner"]).set(database=name).render_as_string(hide_password=False)
        await asyncio.to_thread(
            server.run, "python", "-m", "holdfast.database.migrate", variables={"HOLDFAST_OWNER_DATABASE_URL": url}
        )
        inside = await asyncpg.connect(
            make_url(postgres_urls["postgres"]).set(database=name).render_as_string(hide_password=False)
        )
        try:
            assert (
                await inside.fetchval("SELECT count(*) FROM pg_class WHERE relname IN ('holds', 'decisions', 'caps')")
                == 3
            )
        finally:
            await inside.close()
    finally:
        await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await superuser.close()


FORBIDDEN = Rule("big", "forbid", "tool.call", "payments.refund", (Condition("args.amount_usd_cents", ">", 5_000),))
PERMITTED = Rule("refunds", "permit", "tool.call", "payments.refund")
_VERIFY = """
import json, sys
from holdfast_verdict.canonical import digest
from holdfast_verdict.decide import Facts, decide, policy_hash, rule_from_json
from holdfast_verdict.record import record_hash
given = json.loads(sys.argv[1])
a, b = bytes.fromhex(given["a"]), bytes.fromhex(given["b"])
read = json.loads(a)
rules = tuple(rule_from_json(row) for row in given["rules"])
facts = Facts(read["facts"]["principal"], rules, policy_hash(rules).hex(), read["facts"]["known"])
again = decide(facts, read["action"])
print(json.dumps({
    "hash": record_hash(a, b).hex() == given["hash"],
    "policy": facts.policy_hash == read["policy_hash"],
    "action": digest(read["action"]).hex() == read["action_digest"],
    "verdict": [again.verdict, again.code] == [read["evaluated"]["verdict"], read["evaluated"]["code"]],
}))
"""


@pytest.mark.parametrize("cents", [4_900, 5_100])
def test_the_deciding_core_alone_decides_and_verifies_a_record(verify: Environment, cents: int) -> None:
    rules = (FORBIDDEN, PERMITTED)
    facts = Facts({"tenant": "acme", "role": "support"}, rules, policy_hash(rules).hex(), known=True)
    action = {"kind": "tool.call", "tool": "payments.refund", "args": {"order_id": "A-1", "amount_usd_cents": cents}}
    verdict = decide(facts, action)  # type: ignore[arg-type]  # a JSON object, which mypy does not see
    assert verdict.verdict == ("allow" if cents < 5_000 else "deny")
    a = part_a(
        subject={"tenant": "acme"},
        action=action,  # type: ignore[arg-type]  # as above
        action_digest=digest(action),
        facts=facts,
        verdict=verdict,
        prices=None,
    )
    b = part_b(
        decision_id=UUID(int=7), time_ms=1, verdict=verdict.verdict, reason_codes=(verdict.code,), hold_id=None, legs=[]
    )
    given = {
        "a": a.hex(),
        "b": b.hex(),
        "hash": record_hash(a, b).hex(),
        "rules": [rule_to_json(rule) for rule in rules],
    }

    def verified(**changed: object) -> dict[str, bool]:
        found: dict[str, bool] = json.loads(verify.python(_VERIFY, json.dumps({**given, **changed})))
        return found

    assert all(verified().values())
    forged = a.replace(str(cents).encode(), b"1")
    assert not verified(a=forged.hex())["hash"]
    assert not verified(a=forged.hex())["action"]
    assert not verified(rules=[rule_to_json(PERMITTED)])["policy"]


def test_the_deciding_core_brings_nothing_of_the_server(verify: Environment) -> None:
    packages = json.loads(uv("pip", "list", "--format", "json", "--python", str(verify.folder)).splitlines()[0])
    assert {one["name"] for one in packages} <= {
        "holdfast-verify", "orjson", "cryptography", "cffi", "pycparser", "ada-url", "idna", "jsonschema-rs", "lark",
    }  # fmt: skip


def test_the_client_alone_makes_requests(client: Environment) -> None:
    code = "import sys, sdk; print(sdk.Holdfast(sys.argv[1], 'hf_k').me().tenant)"
    me = {"tenant": "acme", "project": "p", "user": "u", "user_id": "u", "key_id": "k", "roles": []}
    with scripted(answer(me), problem(402, "budget.insufficient")) as server:
        assert client.python(code, server.url).strip() == "acme"
        refused = client.run("python", "-I", "-c", code, server.url, check=False)
        assert "budget.insufficient" in refused.stderr
    packages = json.loads(uv("pip", "list", "--format", "json", "--python", str(client.folder)).splitlines()[0])
    assert not {one["name"] for one in packages} & {"holdfast", "pydantic", "sqlalchemy", "fastapi", "temporalio"}
