"""A project folder: what is new in it comes to the server, what is wrong in it changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cli.project.files import ProjectInvalid, read_project
from holdfast_verdict import format_policy
from tests.stack.places import ROOT
from tests.tools.packages import install

from .desk import Desk, until

Change = dict[str, str | int]


async def applied(desk: Desk, folder: Path, *options: str) -> dict[tuple[str, str], Change]:
    answer = await desk.answer("apply", str(folder), *options)
    return {(item["kind"], item["name"]): item for item in answer["items"]}


async def test_an_agent_is_made_applied_and_runs(desk: Desk, tmp_path: Path) -> None:
    made = await desk.bare("new", "agent", "greeter", "--folder", str(tmp_path))
    assert made.exit_code == 0, made.output
    assert "holdfast apply" in made.stdout
    would = await desk.holdfast("apply", str(tmp_path), "--check")
    assert "would be version 1" in would.stdout
    assert "greeter" not in [agent.name for agent in await asyncio.to_thread(desk.owner.agents)]
    first = await desk.holdfast("apply", str(tmp_path))
    assert first.exit_code == 0, first.output
    assert "2 of 2 changed; 2 cases decide as they say" in first.stdout
    assert {item["change"] for item in (await applied(desk, tmp_path)).values()} == {"unchanged"}
    assert await desk.ended(await desk.start({"say": "hello"}, agent="greeter")) == "succeeded"


async def test_what_changes_is_a_new_version_and_running_runs_keep_theirs(desk: Desk, tmp_path: Path) -> None:
    await desk.bare("new", "agent", "keeper", "--starter", "support", "--folder", str(tmp_path))
    await applied(desk, tmp_path)
    refund = {"order_id": "A-1", "amount_usd_cents": 5001, "reason": "broken"}
    run_id = await desk.start({"tool": "payments.refund", "arguments": refund}, {"say": "bye"}, agent="keeper")
    approval = await desk.asked(run_id)
    agent = tmp_path / "agents" / "keeper.toml"
    agent.write_text(agent.read_text(encoding="utf-8").replace('tools = ["mail.list"', 'tools = ["http.request"'))
    changes = await applied(desk, tmp_path)
    assert changes["agent", "keeper"]["change"] == "changed"
    assert changes["agent", "keeper"]["version"] == 2
    assert changes["role", "keeper"]["change"] == "unchanged"
    await asyncio.to_thread(desk.alice.decide, approval.approval_id, "denied")
    assert await desk.ended(run_id) == "succeeded"
    assert (await asyncio.to_thread(desk.owner.run, run_id)).agent_version == 1


async def test_fallbacks_and_a_bound_come_from_the_file_and_are_the_same_when_applied_again(
    desk: Desk, tmp_path: Path
) -> None:
    await desk.bare("new", "agent", "routed", "--folder", str(tmp_path))
    await applied(desk, tmp_path)
    agent = tmp_path / "agents" / "routed.toml"
    text = agent.read_text(encoding="utf-8")
    agent.write_text(
        text + '\n[[model.fallbacks]]\nwire = "openai"\nname = "gpt-4.1"\n',
        encoding="utf-8",
    )
    (tmp_path / "roles" / "routed.toml").write_text("max_tokens_default = 700\n", encoding="utf-8")
    assert {item["change"] for item in (await applied(desk, tmp_path)).values()} == {"changed"}
    assert {item["change"] for item in (await applied(desk, tmp_path)).values()} == {"unchanged"}
    assert (await asyncio.to_thread(desk.owner.role, "routed")).max_tokens_default == 700
    agent.write_text(agent.read_text(encoding="utf-8").replace("gpt-4.1", "nobody-knows-this"), encoding="utf-8")
    await applied(desk, tmp_path)
    refused = await desk.holdfast("estimate", "hello", "--agent", "routed")
    assert (refused.exit_code, "price.unknown" in refused.stdout) == (9, True)


async def test_a_mistake_anywhere_changes_nothing_and_all_are_named(desk: Desk, tmp_path: Path) -> None:
    await desk.bare("new", "agent", "careful", "--folder", str(tmp_path))
    (tmp_path / "agents" / "broken.toml").write_text("role = ", encoding="utf-8")
    (tmp_path / "agents" / "odd.toml").write_text(
        'role = "careful"\nspeed = 3\n[model]\nwire = "smoke"\nname = "x"\n[limits]\nrun_cap_usd = 0.5\n',
        encoding="utf-8",
    )
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "odd.toml").write_text('source = "magic"\n', encoding="utf-8")
    refused = await desk.holdfast("apply", str(tmp_path))
    assert refused.exit_code == 1
    for part in (
        "broken.toml",
        "odd.toml: speed",
        "model.wire",
        "limits.run_cap_usd",
        "tools/odd.toml: source",
    ):
        assert part in refused.stderr, refused.stderr
    assert "careful" not in [agent.name for agent in await asyncio.to_thread(desk.owner.agents)]


async def test_rules_that_do_not_decide_as_their_cases_say_are_not_put(desk: Desk, tmp_path: Path) -> None:
    await desk.bare("new", "agent", "sloppy", "--starter", "support", "--folder", str(tmp_path))
    role = tmp_path / "roles" / "sloppy.policy"
    text = role.read_text(encoding="utf-8")
    role.write_text(text.replace("when not args.to", "when args.to"), encoding="utf-8")
    refused = await desk.holdfast("apply", str(tmp_path))
    assert refused.exit_code == 1
    assert "roles/sloppy.policy: 2 of 7 cases failed" in refused.stderr
    assert "mail.outside_domain" in refused.stderr
    assert "sloppy" not in [stored.name for stored in await asyncio.to_thread(desk.owner.roles)]


async def test_what_is_named_must_exist(desk: Desk, tmp_path: Path) -> None:
    await desk.bare("new", "agent", "lonely", "--folder", str(tmp_path))
    agent = tmp_path / "agents" / "lonely.toml"
    agent.write_text(
        agent.read_text(encoding="utf-8").replace("tools = []", 'tools = ["crm.none"]').replace('"lonely"', '"nobody"'),
        encoding="utf-8",
    )
    refused = await desk.holdfast("apply", str(tmp_path))
    assert refused.exit_code == 1
    assert "there is no tool 'crm.none'" in refused.stderr
    assert "there is no role 'nobody'" in refused.stderr


async def test_a_role_with_a_table_is_refused_and_the_command_that_is_named_makes_it_a_text(
    desk: Desk, tmp_path: Path
) -> None:
    (tmp_path / "roles").mkdir()
    role = tmp_path / "roles" / "tabled.toml"
    table = """
max_tokens_default = 700
[[rules]]
rule_id = "tabled-thinks"
effect = "permit"
kind = "llm.call"
[[rules]]
rule_id = "small"
effect = "permit"
kind = "tool.call"
tool = "payments.refund"
conditions = [{ path = "args.amount_usd_cents", operator = "<=", value = 500 }]
[[cases]]
arguments = { model = "claude-sonnet-4-5" }
verdict = "allow"
[[cases]]
tool = "payments.refund"
arguments = { order_id = "A-1", amount_usd_cents = 501, reason = "a \\"dent\\"" }
principal = { user = "ada" }
verdict = "deny"
code = "policy.not_permitted"
"""
    role.write_text(table, encoding="utf-8")
    refused = await desk.holdfast("apply", str(tmp_path))
    assert refused.exit_code == 1
    assert "roles/tabled.toml: rules and cases: " in refused.stderr
    assert "holdfast policy translate roles/tabled.toml --write" in refused.stderr
    assert "tabled" not in [stored.name for stored in await asyncio.to_thread(desk.owner.roles)]
    done = await desk.bare("policy", "translate", str(role), "--write")
    assert done.exit_code == 0, done.output
    assert "leave max_tokens_default in it" in done.stdout
    assert role.read_text(encoding="utf-8") == table, "what a person wrote is not rewritten"
    again = await desk.bare("policy", "translate", str(role), "--write")
    assert again.exit_code == 2
    assert "nothing was written" in again.stderr
    role.write_text("max_tokens_default = 700\n", encoding="utf-8")
    applied_ = await desk.holdfast("apply", str(tmp_path))
    assert "2 cases decide as they say" in applied_.stdout, applied_.output
    stored = await asyncio.to_thread(desk.owner.role, "tabled")
    assert stored.policy == (tmp_path / "roles" / "tabled.policy").read_text(encoding="utf-8")
    assert stored.max_tokens_default == 700
    assert (await applied(desk, tmp_path))["role", "tabled"]["change"] == "unchanged"
    cases = tmp_path / "roles" / "tabled.cases.toml"
    cases.write_text(cases.read_text(encoding="utf-8").replace("501", "500"), encoding="utf-8")
    wrong = await desk.holdfast("apply", str(tmp_path))
    assert "1 of 2 cases failed" in wrong.stderr


async def test_the_text_of_a_role_speaks_of_that_role_alone(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "roles").mkdir()
    role = tmp_path / "roles" / "alone.policy"
    for more in ("forbid external", "role other {\n  permit tools\n}", 'label web.fetch yields "x"'):
        role.write_text(f"role alone {{\n  permit llm.call\n}}\n{more}\n", encoding="utf-8")
        refused = await desk.holdfast("apply", str(tmp_path))
        assert refused.exit_code == 1
        assert "roles/alone.policy" in refused.stderr
    assert "alone" not in [stored.name for stored in await asyncio.to_thread(desk.owner.roles)]


@pytest.mark.parametrize("name", ["run", "2nd-line", "any"])
async def test_an_agent_may_be_called_like_a_word_of_the_language(desk: Desk, tmp_path: Path, name: str) -> None:
    await desk.bare("new", "agent", name, "--starter", "support", "--folder", str(tmp_path))
    done = await desk.holdfast("apply", str(tmp_path), "--check")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("starter", ["plain", "support", "data-analysis", "coding"])
async def test_every_starter_applies_as_it_is(desk: Desk, tmp_path: Path, starter: str) -> None:
    made = await desk.answer_bare("new", "agent", f"from-{starter}", "--starter", starter, "--folder", str(tmp_path))
    assert made["files"]
    assert made["next"]
    written = (tmp_path / "roles" / f"from-{starter}.policy").read_text(encoding="utf-8")
    assert format_policy(written) == written
    done = await desk.holdfast("apply", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "cases decide as they say" in done.stdout


@pytest.mark.parametrize(
    ("source", "tools"), [("sql", {"notes.find"}), ("openapi", {"notes.find", "notes.find_write"})]
)
async def test_every_kind_of_tool_applies_as_it_is_made(
    desk: Desk, tmp_path: Path, source: str, tools: set[str]
) -> None:
    made = await desk.answer_bare("new", "tool", "notes.find", "--source", source, "--folder", str(tmp_path))
    assert made["next"]
    changes = await applied(desk, tmp_path)
    assert {name for kind, name in changes if kind == "tool"} == tools


async def installed(package: Path, into: Path) -> None:
    """Installs a package of tools as its author would, where the executors look."""
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    command = ["pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(into), str(package)]
    process = await asyncio.create_subprocess_exec(uv, *command, cwd=ROOT, stderr=subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_a_tool_of_ones_own_is_made_tested_refused_permitted_and_run(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.bare("new", "agent", "clerk", "--folder", str(tmp_path))
    made = await desk.answer_bare("new", "tool", "shop.stock", "--folder", str(tmp_path))
    package = tmp_path / "tools" / "shop_stock"
    tests = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(package),
        cwd=package,
        stdout=subprocess.PIPE,
    )
    said, _ = await tests.communicate()
    assert tests.returncode == 0, said.decode()
    assert "2 passed" in said.decode()
    assert "tools/shop_stock/pyproject.toml" in made["files"]

    early = await desk.holdfast("apply", str(tmp_path))
    assert "no installed package has the tool 'shop.stock'" in early.stderr
    await installed(package, desk.packages)
    monkeypatch.syspath_prepend(str(desk.packages))
    agent = tmp_path / "agents" / "clerk.toml"
    agent.write_text(
        agent.read_text(encoding="utf-8").replace("tools = []", 'tools = ["shop.stock"]'), encoding="utf-8"
    )
    changes = await applied(desk, tmp_path)
    assert changes["tool", "shop.stock"]["change"] == "new"

    async def decided(item: str) -> tuple[str, str]:
        run_id = await desk.start({"tool": "shop.stock", "arguments": {"item": item}}, {"say": "done"}, agent="clerk")
        assert await desk.ended(run_id) == "succeeded"
        decisions = await asyncio.to_thread(desk.owner.decisions, run_id=run_id, kind="tool.call")
        [decision] = [one for one in decisions if one.tool == "shop.stock"]
        results = [
            event for event in await asyncio.to_thread(list, desk.owner.events(run_id)) if event.type == "tool.result"
        ]
        return ", ".join(decision.reason_codes), json.dumps([event.data for event in results])

    code, _ = await decided("tent")
    assert code == "policy.not_permitted"
    role = tmp_path / "roles" / "clerk.policy"
    text = role.read_text(encoding="utf-8")
    role.write_text(text.replace("permit llm.call", "permit llm.call, shop.stock"), encoding="utf-8")
    with (tmp_path / "roles" / "clerk.cases.toml").open("a", encoding="utf-8") as cases:
        cases.write('\n[[case]]\nname = "stock"\naction = "shop.stock"\nargs = { item = "tent" }\nexpect = "allow"\n')
    await applied(desk, tmp_path)
    code, result = await decided("tent")
    assert code == "policy.permitted"
    assert '\\"pieces\\":3' in result, result
    _, result = await decided("spaceship")
    assert "there is no item" in result

    # new code is there at the next call, without a restart of anything
    module = package / "shop_stock_tool.py"
    module.write_text(module.read_text(encoding="utf-8").replace('"tent": 3', '"tent": 4'), encoding="utf-8")
    await installed(package, desk.packages)
    _, result = await decided("tent")
    assert '\\"pieces\\":4' in result, result


async def test_nothing_that_is_there_is_overwritten(desk: Desk, tmp_path: Path) -> None:
    await desk.bare("new", "agent", "twice", "--folder", str(tmp_path))
    (tmp_path / "agents" / "twice.toml").write_text("mine", encoding="utf-8")
    (tmp_path / "roles" / "twice.policy").unlink()
    again = await desk.bare("new", "agent", "twice", "--folder", str(tmp_path))
    assert again.exit_code == 1
    assert "is there already; nothing was written" in again.stderr
    assert (tmp_path / "agents" / "twice.toml").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "roles" / "twice.policy").exists()
    for command in (("agent", "No Name"), ("tool", "undotted"), ("tool", "mail.send")):
        assert (await desk.bare("new", *command, "--folder", str(tmp_path))).exit_code == 1


async def test_a_folder_without_a_project_says_what_to_do(desk: Desk, tmp_path: Path) -> None:
    refused = await desk.holdfast("apply", str(tmp_path))
    assert refused.exit_code == 1
    assert "holdfast new agent" in refused.stderr


def test_instructions_may_stand_in_a_file_of_the_project_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "a.toml").write_text(
        'role = "r"\ninstructions_file = "a.md"\n[model]\nwire = "openai"\nname = "gpt-4.1-mini"\n', encoding="utf-8"
    )
    (tmp_path / "agents" / "a.md").write_text("Be kind.", encoding="utf-8")
    assert read_project(tmp_path).agents["a"].definition.instructions == "Be kind."
    (tmp_path / "agents" / "a.md").unlink()
    with pytest.raises(ProjectInvalid, match="instructions_file"):
        read_project(tmp_path)
    (tmp_path / "agents" / "a.md").symlink_to("/etc/hostname")
    with pytest.raises(ProjectInvalid, match="outside the project"):
        read_project(tmp_path)


async def test_a_watched_folder_is_applied_whenever_it_changes(desk: Desk, tmp_path: Path) -> None:
    await desk.bare("new", "agent", "watched", "--folder", str(tmp_path))
    agent = tmp_path / "agents" / "watched.toml"

    def version(expected: int) -> Callable[[], Awaitable[bool]]:
        async def is_there() -> bool:
            stored = {one.name: one.version for one in await asyncio.to_thread(desk.owner.agents)}
            return stored.get("watched", 0) == expected

        return is_there

    command = [
        "apply",
        str(tmp_path),
        "--watch",
        "--data-dir",
        str(desk.data),
        "--key-file",
        str(desk.key_file("owner")),
    ]
    watching = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", *command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        await until(version(1), what="the first version")
        text = agent.read_text(encoding="utf-8")
        agent.write_text("role = ", encoding="utf-8")  # half a file, as an editor may leave it for a moment
        assert watching.stderr is not None
        assert b"wrong in" in await asyncio.wait_for(watching.stderr.readline(), 60)
        agent.write_text(text.replace("max_steps = 30", "max_steps = 31"), encoding="utf-8")
        await until(version(2), what="the second version")
    finally:
        watching.send_signal(2)
        stdout, _ = await watching.communicate()
    assert watching.returncode == 0
    assert "no longer watching" in stdout.decode()


NOTE = """
from sdk.tools import tool

@tool(name="notes.add", external=False, idempotent=True, reversible=True)
def add(text: str) -> str:
    '''Adds a note.'''
    return text
"""


async def test_what_could_not_be_applied_is_tried_again_with_the_code_as_it_is_by_then(
    desk: Desk, tmp_path: Path
) -> None:
    """Nothing but the code of a tool changes here: it is installed later, and then takes something else."""
    code = tmp_path / "tools" / "code"
    code.mkdir(parents=True)
    (tmp_path / "tools" / "notes.toml").write_text('source = "python"\nnames = ["notes.add"]\n', encoding="utf-8")
    (code / "notes_code.py").write_text(NOTE, encoding="utf-8")
    options = ["--data-dir", str(desk.data), "--key-file", str(desk.key_file("owner"))]
    watching = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", "apply", str(tmp_path), "--watch", *options, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": f"{tmp_path / 'later'}:{code}"},
    )  # fmt: skip

    async def arguments() -> list[str]:
        stored = {one.name: one for one in await asyncio.to_thread(desk.owner.tools)}
        return sorted(stored["notes.add"].definition["parameters"]["properties"]) if "notes.add" in stored else []

    async def takes(*names: str) -> bool:
        return await arguments() == sorted(names)

    try:
        assert watching.stderr is not None
        assert b"notes.toml" in b"".join([await watching.stderr.readline() for _ in range(2)])
        (tmp_path / "later").mkdir()
        install(tmp_path / "later", "notes", {}, {"notes.add": "notes_code:add"})  # outside of what is watched
        await until(lambda: takes("text"), what="the tool")
        (code / "notes_code.py").write_text(
            NOTE.replace("text: str", "text: str, urgent: bool = False"), encoding="utf-8"
        )
        await until(lambda: takes("text", "urgent"), what="its new definition")
    finally:
        watching.send_signal(2)
        await watching.communicate()
    assert watching.returncode == 0


async def test_a_policy_goes_along_with_the_agents_that_it_speaks_of(desk: Desk, tmp_path: Path) -> None:
    for folder in ("agents", "policies", "roles"):
        (tmp_path / folder).mkdir()
    agent = 'role = "lector"\ntools = ["mail.list"]\n[model]\nwire = "anthropic"\nname = "claude-sonnet-4-5"\n'
    (tmp_path / "agents" / "lector.toml").write_text(agent)
    policy = tmp_path / "policies" / "all.policy"
    policy.write_text("role lector {\n  permit llm.call\n  permit mail.list\n}\n")
    cases = tmp_path / "policies" / "all.cases.toml"
    case = '[[case]]\nname = "no mail leaves"\nrole = "lector"\naction = "mail.list"\nexpect = "{}"\n'
    cases.write_text(case.format("deny"))
    before = await desk.answer("policy", "show")
    wrong = await desk.holdfast("apply", str(tmp_path))
    assert wrong.exit_code == 1
    assert "policies/all.policy" in wrong.stderr
    assert "no mail leaves" in wrong.stderr
    assert await desk.answer("policy", "show") == before
    cases.write_text(case.format("allow"))
    role = tmp_path / "roles" / "other.policy"
    role.write_text("role other {\n  permit llm.call\n}\n")
    wrong = await desk.holdfast("apply", str(tmp_path))
    assert "roles/other.policy: says what the role may do" in wrong.stderr
    role.unlink()
    try:
        changes = await applied(desk, tmp_path)
        assert {key: item["change"] for key, item in changes.items()} == {
            ("policy", "all"): "changed",
            ("agent", "lector"): "new",
        }
        assert {item["change"] for item in (await applied(desk, tmp_path)).values()} == {"unchanged"}
        shown = await desk.answer("policy", "show")
        assert (shown["source"], shown["active"], shown["origin"]) == (policy.read_text(), True, "written")
    finally:
        await desk.answer("policy", "rollback", str(before["version"]))


async def test_what_a_server_has_is_listed_and_shown(desk: Desk) -> None:
    for noun in ("agents", "roles", "tools"):
        listed = await desk.answer(noun)
        done = await desk.holdfast(noun)
        assert done.exit_code == 0
        for one in listed:
            assert one["name"] in done.stdout
            shown = await desk.holdfast(noun, one["name"])
            assert f"version {one['version']}" in shown.stdout
        missing = await desk.holdfast(noun, "no.such" if noun == "tools" else "none-such")
        assert missing.exit_code == 1
        assert "resource.not_found" in missing.stderr
    assert json.loads((await desk.holdfast("roles", "helper", "--json")).stdout)["name"] == "helper"
