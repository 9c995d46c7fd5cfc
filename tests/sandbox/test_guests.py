"""What a shell's and Node's programs ask their run by: the same requests as Python's, the same refusals, and no other way in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator

import pytest

from holdfast.errors import NotPermitted
from sandbox.backends import KINDS
from sandbox.frames import Request
from sandbox.job import Job, Limits, Result
from sandbox.service import Sandbox, Settings
from tests.sandbox.installed import require

LIMITS = Limits(wall_ms=120_000, cpu_s=60)


@pytest.fixture(scope="module", params=[*KINDS])
async def guests(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """A sandbox of each backend whose jobs may be programs."""
    require(request.param)
    async with Sandbox(Settings(backend=request.param, allow_old=True, idle_min=1, idle_max=1)) as started:
        yield started


@pytest.fixture
def node() -> None:
    if shutil.which("node") is None:
        pytest.skip("Node is not installed here")


class Owner:
    """Answers what a job asks, refuses `forbidden`, answers `slow` when something was printed, and keeps what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, object]]] = []
        self.printed = asyncio.Event()

    def hear(self, *_: object) -> None:
        """Hears that something was printed."""
        self.printed.set()

    async def act(self, request: Request) -> object:
        self.heard.append((request.kind, request.name, dict(request.arguments)))
        if request.name == "forbidden":
            raise NotPermitted("not this\none")
        if request.name == "slow":
            with contextlib.suppress(TimeoutError):  # nothing may ever be printed
                await asyncio.wait_for(self.printed.wait(), 30)
        if request.name == "words":
            return "only\nwords"
        return {"n": request.number} if request.kind == "tool" else None


async def shell(guests: Sandbox, code: str, owner: Owner | None = None) -> Result:
    return await guests.submit(Job(code, language="shell", limits=LIMITS), act=owner.act if owner is not None else None)


async def javascript(guests: Sandbox, code: str, owner: Owner | None = None) -> Result:
    return await guests.submit(Job(code, language="node", limits=LIMITS), act=owner.act if owner is not None else None)


async def test_a_script_asks_and_is_answered(guests: Sandbox) -> None:
    owner = Owner()
    code = """
exec 3> out 4> /dev/null 5> /dev/null 6> /dev/null 7> /dev/null 8> /dev/null 9> /dev/null
holdfast-guest tool search query='é = "x"' limit:=3 deep:='{"a": [null, 1.5]}'
echo '{"order_id": "A-1", "n": 2}' | holdfast-guest tool refund --json -
holdfast-guest tool words
holdfast-guest emit progress 'half way'
holdfast-guest emit progress --json '[1, null]'
holdfast-guest cite page:7 line:=2
echo done >&3
"""
    result = await shell(guests, code, owner)
    assert (result.exit_status, result.stderr, result.cut_off) == (0, b"", "")
    assert result.stdout == b'{"n": 1}\n{"n": 2}\nonly\nwords\n'
    assert owner.heard == [
        ("tool", "search", {"query": 'é = "x"', "limit": 3, "deep": {"a": [None, 1.5]}}),
        ("tool", "refund", {"order_id": "A-1", "n": 2}),
        ("tool", "words", {}),
        ("emit", "progress", {"data": "half way"}),
        ("emit", "progress", {"data": [1, None]}),
        ("cite", "page:7", {"line": 2}),
    ]
    assert (result.calls, {file.name: file.content for file in result.files}) == (6, {"out": b"done\n"})


async def test_a_script_loops_and_reads_the_code_of_a_refusal(guests: Sandbox) -> None:
    owner = Owner()
    code = """
for name in a forbidden b; do
    if said=$(holdfast-guest tool "$name" 2>&1); then echo "$name: $said"; else echo "$name: $? ${said%%:*} (${said#*: })"; fi
done
"""
    result = await shell(guests, code, owner)
    assert result.stdout.splitlines() == [
        b'a: {"n": 1}',
        b"forbidden: 1 auth.not_permitted (not this one)",
        b'b: {"n": 3}',
    ]


async def test_a_script_that_ends_at_errors_ends_at_a_refusal(guests: Sandbox) -> None:
    result = await shell(guests, "set -e\nholdfast-guest tool forbidden\necho still here", Owner())
    assert (result.exit_status, result.stdout) == (1, b"")
    assert result.stderr == b"auth.not_permitted: not this one\n"


async def test_what_runs_at_once_in_a_script_is_answered_each_with_its_own(guests: Sandbox) -> None:
    owner = Owner()
    code = "for n in 1 2 3 4; do holdfast-guest tool a n:=$n > out.$n & done; wait; cat out.*"
    result = await shell(guests, code, owner)
    assert sorted(json.loads(line)["n"] for line in result.stdout.splitlines()) == [1, 2, 3, 4]
    asked = {str(number): arguments["n"] for number, (_, _, arguments) in enumerate(owner.heard, start=1)}
    answers = {file.name[-1]: file.content for file in result.files}
    assert {str(json.loads(bytes(said))["n"]): int(name) for name, said in answers.items()} == asked


@pytest.mark.parametrize(
    "wrong",
    [
        "tool",
        "do something",
        "tool a b",
        "tool a =b",
        "tool a b=1 b=2",
        "tool a b:=x",
        "tool a b:=NaN",
        "tool a --json '[1]'",
        "tool a b=1 --json '{}'",
        "emit a",
        "emit a b --json 1",
        "tool a --js '{}'",
    ],
)
async def test_what_is_said_wrongly_is_never_asked(guests: Sandbox, wrong: str) -> None:
    owner = Owner()
    result = await shell(guests, f"holdfast-guest {wrong}", owner)
    assert (result.exit_status, result.stdout, owner.heard) == (2, b"", [])
    assert b"usage: holdfast-guest" in result.stderr


async def test_a_script_is_told_how(guests: Sandbox) -> None:
    result = await shell(guests, "holdfast-guest --help && holdfast-guest tool --help")
    assert result.exit_status == 0
    assert b"KEY:=JSON" in result.stdout


async def test_without_an_owner_each_request_is_refused(guests: Sandbox) -> None:
    result = await shell(guests, "holdfast-guest tool a; echo $? $HOLDFAST_GUEST")
    assert result.stdout == b"1\n"
    assert result.stderr.startswith(b"supervisor.absent: ")


SHELL_TAMPERS = {
    "another token": ('HOLDFAST_GUEST="${HOLDFAST_GUEST%%:*}:forged" holdfast-guest tool a', 3, "without the token"),
    "a deep object": (
        'deep=$(printf "%040d" 0 | tr 0 "[")$(printf "%040d" 0 | tr 0 "]"); holdfast-guest tool a b:="$deep"',
        3,
        "nested too deeply",
    ),
    "a name that is none": ('holdfast-guest tool "$(printf "a\\nb")"', 3, "control characters"),
    "a very deep object": ("head -c 100000 /dev/zero | tr '\\0' '[' | holdfast-guest tool a --json -", 2, ""),
    "a large object": (
        "{ printf '{\"a\": \"'; head -c 300000 /dev/zero | tr '\\0' x; printf '\"}'; } | holdfast-guest tool a --json -",
        1,
        "",
    ),
    "another descriptor": ('HOLDFAST_GUEST="0:${HOLDFAST_GUEST#*:}" holdfast-guest tool a', 3, ""),
    "no descriptor": ('HOLDFAST_GUEST="x:${HOLDFAST_GUEST#*:}" holdfast-guest tool a', 1, ""),
    "a kind of its own": ("holdfast-guest execute a", 2, ""),
}


@pytest.mark.parametrize("what", SHELL_TAMPERS)
async def test_a_script_gets_nothing_through_that_is_no_request_of_its_own(guests: Sandbox, what: str) -> None:
    code, status, why = SHELL_TAMPERS[what]
    owner = Owner()
    result = await shell(guests, f"{code}\nstatus=$?\nholdfast-guest tool honest\nexit $status", owner)
    assert result.exit_status == status, result.stderr
    assert why in result.cut_off
    assert bool(result.cut_off) == bool(why)
    lost = status == 3  # whoever asked otherwise than its run takes it gets no second try
    assert owner.heard == ([] if lost else [("tool", "honest", {})])


async def test_a_script_whose_request_is_ended_never_gets_the_answer_to_another(guests: Sandbox) -> None:
    owner = Owner()
    code = "timeout -s KILL 1 holdfast-guest tool slow; holdfast-guest tool next; echo $?"
    while ("tool", "slow", {}) not in owner.heard:  # on a busy machine it may be ended before it has asked
        owner.printed.clear()
        job = Job(code, language="shell", limits=LIMITS)
        result = await guests.submit(job, act=owner.act, on_output=owner.hear)
    assert result.stdout.endswith(b"3\n")
    assert b"supervisor.lost" in result.stderr
    assert ("tool", "next", {}) not in owner.heard[owner.heard.index(("tool", "slow", {})) :]


async def test_a_forked_process_that_is_ended_never_leaves_its_answer_to_another(guests: Sandbox) -> None:
    owner = Owner()
    code = """
import os, signal, time
from holdfast_guest import Lost, emit, tool
pid = os.fork()
if pid == 0:
    tool("slow")
while not os.path.exists("/job/tmp/.turn") or not os.stat("/job/tmp/.turn").st_size:
    time.sleep(0.01)
time.sleep(0.5)
os.kill(pid, signal.SIGKILL)
os.wait()
try:
    print(tool("next"))
except Lost as error:
    print(error.code)
"""
    result = await guests.submit(Job(code, limits=LIMITS), act=owner.act, on_output=owner.hear)
    assert result.stdout == b"supervisor.lost\n", result.stderr


JAVASCRIPT = """
const said = [await tool("search", { query: "é", limit: 3, no: undefined }), await emit("progress", [1, null])];
console.log(JSON.stringify([...said, await cite("page:7", { line: 2 })]));
for (const name of ["a", "forbidden", "b"]) {
  try {
    console.log(name, (await tool(name)).n);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    console.log(name, error.code, JSON.stringify(error.message));
  }
}
"""
FORMS = {
    "require": 'const { tool, emit, cite, Refused } = require("holdfast_guest");\n(async () => {\n%s\n})();',
    "import": 'import { tool, emit, cite, Refused } from "holdfast_guest";\n%s',
    "require and await": 'const { tool, emit, cite, Refused } = require("holdfast_guest");\n%s',
}


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("form", FORMS)
async def test_node_asks_and_is_answered(guests: Sandbox, form: str) -> None:
    owner = Owner()
    result = await javascript(guests, FORMS[form] % JAVASCRIPT, owner)
    assert (result.exit_status, result.stderr, result.cut_off) == (0, b"", "")
    lines = result.stdout.decode().splitlines()
    assert json.loads(lines[0]) == [{"n": 1}, None, None]
    assert lines[1:] == ["a 4", 'forbidden auth.not_permitted "not this\\none"', "b 6"]
    assert owner.heard[:3] == [
        ("tool", "search", {"query": "é", "limit": 3}),
        ("emit", "progress", {"data": [1, None]}),
        ("cite", "page:7", {"line": 2}),
    ]


@pytest.mark.usefixtures("node")
async def test_what_runs_at_once_in_node_is_answered_each_with_its_own(guests: Sandbox) -> None:
    owner = Owner()
    code = """
const { tool } = require("holdfast_guest");
const numbers = Array.from({ length: 50 }, (_, n) => n + 1);
console.log((await Promise.all(numbers.map((n) => tool("a", { n })))).every((answer, n) => answer.n === n + 1));
tool("last"); // nobody waits for it: the program does
"""
    result = await javascript(guests, code, owner)
    assert (result.stdout, result.exit_status, len(owner.heard)) == (b"true\n", 0, 51), result.stderr


@pytest.mark.usefixtures("node")
async def test_a_refusal_that_nobody_catches_ends_node(guests: Sandbox) -> None:
    result = await javascript(guests, 'require("holdfast_guest").tool("forbidden")', Owner())
    assert result.exit_status == 1
    assert b"auth.not_permitted" in result.stderr


@pytest.mark.usefixtures("node")
async def test_node_without_an_owner_is_refused_and_other_programs_are_as_they_were(guests: Sandbox) -> None:
    code = 'require("holdfast_guest").tool("a").catch((error) => console.log(error.code, process.env.HOLDFAST_GUEST))'
    assert (await javascript(guests, code)).stdout == b"supervisor.absent undefined\n"
    code = 'const fs = require("fs");\nconsole.log(typeof module, this === module.exports, typeof fs.readFileSync)'
    assert (await javascript(guests, code)).stdout == b"object true function\n"


OWN_DOOR = """
const [fd, token] = process.env.HOLDFAST_GUEST.split(/:(.*)/s);
const fs = require("fs");
const send = (body, size = Buffer.byteLength(body)) => {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(size);
  fs.writeSync(Number(fd), Buffer.concat([head, Buffer.from(body)]));
};
const { tool } = require("holdfast_guest");
const deep = (n) => (n === 0 ? 1 : [deep(n - 1)]);
"""
THREAD = """
const asks = 'require("holdfast_guest").tool("a").catch((error) => console.log(error.code))';
await new Promise((done) => new Worker(asks, { eval: true }).on("exit", done))
"""
NODE_TAMPERS = {
    "another token": (
        'send(JSON.stringify({ token: "forged", kind: "tool", name: "a", arguments: {} }))',
        "without the token",
    ),
    "a large frame": ('send("x", 2 ** 32 - 1)', "larger than one may be"),
    "a deep object": ('await tool("a", { b: deep(40) }).catch(() => 0)', "nested too deeply"),
    "a deep frame": ('send("[".repeat(4000))', "nested too deeply"),
    "a kind of its own": (
        'send(JSON.stringify({ token, kind: "execute", name: "a", arguments: {} }))',
        "the kind of request is not known",
    ),
    "half a character": ('await tool("a", { b: "\\ud800" }).catch(() => 0)', "half a character"),
    "a large object": ('await tool("a", { b: "x".repeat(300_000) }).catch((e) => console.log(e.code))', ""),
    "no number": ('await tool("a", { b: NaN }).catch((e) => console.log(e.name))', ""),
    "no object": ('await tool("a", [1]).catch((e) => console.log(e.name))', ""),
    "no name": ("await tool(7).catch((e) => console.log(e.name))", ""),
    "a thread": (f"const {{ Worker }} = require('worker_threads');\n{THREAD}", ""),
}


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("what", NODE_TAMPERS)
async def test_node_gets_nothing_through_that_is_no_request_of_its_own(guests: Sandbox, what: str) -> None:
    code, why = NODE_TAMPERS[what]
    owner = Owner()
    last = 'await tool("honest").then(() => console.log("answered"), (error) => console.log(error.name, error.code));'
    result = await javascript(guests, f"{OWN_DOOR}{code};\n{last}", owner)
    assert result.exit_status == 0, result.stderr
    assert why in result.cut_off
    assert bool(result.cut_off) == bool(why)
    if why:
        assert result.stdout.endswith(b"Lost supervisor.lost\n")
        assert owner.heard == []
    else:
        assert result.stdout.endswith(b"answered\n")
        assert len(result.stdout.splitlines()) == 2
        assert owner.heard == [("tool", "honest", {})]
