"""Tools from Python functions: their schema, and what one call may do to the executor (nothing)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from activities.tools.dispatch import run_tool
from activities.tools.invocation import ToolInvocation, ToolResult
from holdfast.errors import LeaseLost, RequestInvalid
from holdfast.tools.definition import OwnTool, PythonBinding
from holdfast.tools.functions import forms
from holdfast_verdict.canonical import JsonValue

from .live_lease import LiveLease
from .packages import install

MARKS = "external=True, idempotent=False, reversible=True"
SOURCE = f'''
    from __future__ import annotations

    import asyncio, enum, gc, os, signal, sys, time
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import dataclass
    from datetime import date, timedelta
    from decimal import Decimal
    from typing import Annotated, Literal
    from uuid import UUID

    from pydantic import BaseModel, Field
    from typing_extensions import TypedDict
    from sdk.tools import ToolCall, ToolRefused, tool


    class Colour(enum.Enum):
        RED = "red"
        BLUE = "blue"


    class Line(BaseModel):
        item: str = Field(max_length=20)
        pieces: int = 1


    @tool(name="demo.order", {MARKS}, credential="tool.demo", yields=("secret",), timeout_ms=9000)
    def order(call: ToolCall, lines: list[Line], price: Decimal, day: date, colour: Colour = Colour.RED,
              speed: Literal["slow", "fast"] = "slow", note: Annotated[str | None, Field(max_length=9)] = None) -> dict:
        """Orders things.

        Everything is delivered.

        Args:
            price: what it costs in all
        """
        call.begin()
        return {{"lines": [line.item for line in lines], "price": price, "day": day, "colour": colour, "speed": speed,
                "note": note, "key": call.idempotency_key, "tenant": call.tenant, "secret": call.credential["secret"]}}


    @tool(name="demo.pay", {MARKS})
    def pay(amount: Annotated[Decimal, Field(gt=0, le=100)]) -> str:
        """Pays."""
        return "paid"


    class Place(TypedDict):
        place: str


    @dataclass
    class Size:
        name: str
        size: Decimal


    @tool(name="demo.many", {MARKS})
    def many(json: UUID, model_config: Place | None, copy: list[Size], _hidden: dict[str, int],
             schema: timedelta = timedelta(days=1)) -> str:
        """Takes many things."""
        names = [type(one).__name__ for one in (json, copy[0], copy[0].size, _hidden, schema)]
        return " ".join([names[0], "Place" if model_config == {{"place": "Bern"}} else "?", *names[1:]])


    @tool(name="demo.wait", {MARKS})
    async def wait(seconds: int) -> str:
        """Waits."""
        await asyncio.sleep(seconds)
        return "waited"


    def _start_worker(ticks):
        """Starts a process that has cut itself loose, and leaves a tick behind for as long as it lives."""
        if pid := os.fork():
            os.waitpid(pid, 0)
            return
        os.setsid()
        if os.fork():
            os._exit(0)
        for tick in range(600):
            with open(ticks + ".new", "w") as file:
                file.write(f"{{os.getpid()}} {{tick}}")
            os.rename(ticks + ".new", ticks)
            time.sleep(0.05)
        os._exit(0)


    @tool(name="demo.do", {MARKS}, timeout_ms=60000)
    def do(call: ToolCall, what: str) -> object:
        """Does something odd."""
        early, _, how = what.partition("+") if what.startswith("early+") else ("", "", what)
        if early:
            call.begin()
        if how == "raise":
            raise ValueError("the password is hunter2")
        if how == "refuse":
            raise ToolRefused("not today", retryable=True)
        if how == "hang":
            open("hanging", "w").close()
            time.sleep(60)
        if how == "exit":
            sys.exit(0)
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "large":
            return "x" * 50_000_000
        if how == "print":
            print("{{}}\\n" * 10, flush=True)
            sys.stderr.write("y" * 200_000)
            return "printed"
        if how == "memory":
            return len(bytearray(8 * 1024 ** 3))
        if how == "odd":
            return object()
        if how == "twice":
            call.begin()
            return "once"
        if how.startswith("worker ") or how.startswith("leave "):
            ticks = how.partition(" ")[2]
            _start_worker(ticks)
            while not os.path.exists(ticks):
                time.sleep(0.01)
            time.sleep(60 if how.startswith("worker") else 0)
            return "left"
        if how.startswith("hinder "):
            guard, ticks = os.getppid(), how.partition(" ")[2]
            _start_worker(ticks)
            while not os.path.exists(ticks):
                time.sleep(0.01)
            if os.fork() == 0:
                os.setsid()
                time.sleep(4)
                os.kill(guard, signal.SIGCONT)
                os._exit(0)
            os.kill(guard, signal.SIGSTOP)
            return "left"
        if how.startswith("unguarded "):
            os.kill(os.getppid(), signal.SIGSTOP)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 60)
            time.sleep(3)
            open(how.partition(" ")[2], "w").close()
        if how == "fall through":
            if os.fork() == 0:
                return "child"
            time.sleep(0.3)
            return "parent"
        if how == "close":
            os.closerange(3, 100)
            return "closed"
        if how == "flood":
            for _ in range(50):
                print("z" * 1_000_000)
            return "printed 50 MB"
        if how == "kind of refuse":
            class NotToday(ToolRefused):
                pass
            raise NotToday("not today either")
        if how == "threads":
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda _: call.begin(), range(4)))
            return "once"
        if how == "environment":
            return {{"env": dict(os.environ), "cwd": os.getcwd(), "home": os.listdir("."), "stdin": sys.stdin.read(),
                    "gc": gc.isenabled()}}
        return how
'''
TOOLS = {
    "demo.order": "demo_tools:order",
    "demo.many": "demo_tools:many",
    "demo.pay": "demo_tools:pay",
    "demo.wait": "demo_tools:wait",
    "demo.do": "demo_tools:do",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with tools."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return install(tmp_path, "demo-tools", {"demo_tools": SOURCE}, TOOLS)


def tool(name: str) -> OwnTool:
    return OwnTool(name, 1, forms({"source": "python", "names": [name]}, Path())[name])


async def call(definition: OwnTool, arguments: dict[str, JsonValue], lease: LiveLease | None = None) -> ToolResult:
    normal = definition.validate(arguments)
    credential: dict[str, JsonValue] = {"secret": "s3cret"}
    return await run_tool(
        ToolInvocation(definition.name, definition, normal, credential, "acme", "the-key", lease or LiveLease())
    )


async def do(what: str, lease: LiveLease | None = None, *, timeout_ms: int = 60_000) -> ToolResult:
    known = tool("demo.do")
    return await call(
        replace(known, form=known.form.model_copy(update={"timeout_ms": timeout_ms})), {"what": what}, lease
    )


def hosts() -> list[int]:
    """The processes of calls that are left."""
    return [one.pid for one in psutil.Process().children(recursive=True) if _is_host(one)]


def _is_host(process: psutil.Process) -> bool:
    try:
        return "python_guard" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # ended meanwhile, or a zombie that other tests have left
        return False


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    folders = tmp_path_factory.mktemp("folders")
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    yield
    assert hosts() == []
    assert not list(folders.iterdir())


def test_a_definition_is_made_from_types_and_docstring(package: Path) -> None:
    form = tool("demo.order").form
    assert form.description == "Orders things.\n\nEverything is delivered."
    assert (form.external, form.idempotent, form.reversible) == (True, False, True)
    assert (form.credential, form.yields, form.timeout_ms) == ("tool.demo", ("secret",), 9000)
    assert form.binding == PythonBinding(source="python", function="demo_tools:order")
    properties: Any = form.parameters["properties"]
    assert form.parameters["required"] == ["lines", "price", "day"]
    assert properties["price"] == {"type": "string", "format": "decimal", "description": "what it costs in all"}
    assert properties["lines"]["items"]["properties"]["item"] == {
        "type": "string",
        "maxLength": 20,
        "x-holdfast-personal": True,
    }
    assert properties["colour"] == {"default": "red", "enum": ["red", "blue"], "type": "string"}
    assert "call" not in properties


async def test_a_function_gets_values_of_its_types_and_the_call(package: Path) -> None:
    lease = LiveLease()
    arguments: dict[str, JsonValue] = {"lines": [{"item": "tent"}], "price": "12.50", "day": "2026-01-31"}
    result = await call(tool("demo.order"), arguments, lease)
    assert result.ok, result.content
    assert json.loads(result.content) == {
        "lines": ["tent"],
        "price": "12.5",
        "day": "2026-01-31",
        "colour": "red",
        "speed": "slow",
        "note": None,
        "key": "the-key",
        "tenant": "acme",
        "secret": "s3cret",
    }
    assert (lease.begun, lease.checked) == (1, 1)


async def test_any_name_and_many_types_are_taken_and_nothing_beside_them(package: Path) -> None:
    definition = tool("demo.many")
    arguments: dict[str, JsonValue] = {
        "json": "01234567-89ab-cdef-0123-456789abcdef",
        "model_config": {"place": "Bern"},
        "copy": [{"name": "a", "size": "1.50"}],
        "_hidden": {"one": 1},
    }
    result = await call(definition, arguments)
    assert result.content == "UUID Place Size Decimal dict timedelta", result.content
    for inner in ({"place": "Bern", "more": 1}, {"more": 1}, {"place": 1}):
        with pytest.raises(RequestInvalid):
            definition.validate({**arguments, "model_config": inner})


async def test_a_coroutine_is_awaited_and_has_begun_when_it_is_entered(package: Path) -> None:
    lease = LiveLease()
    result = await call(tool("demo.wait"), {"seconds": 0}, lease)
    assert (result.content, lease.begun) == ("waited", 1)


@pytest.mark.parametrize(
    ("what", "code", "cost"),
    [
        ("raise", "tool.failed", "nothing"),
        ("early+raise", "tool.failed", "unknown"),
        ("refuse", "tool.refused", "nothing"),
        ("early+refuse", "tool.refused", "nothing"),
        ("kind of refuse", "tool.refused", "nothing"),
        ("close", "tool.died", "nothing"),
        ("early+close", "tool.died", "unknown"),
        ("exit", "tool.failed", "nothing"),
        ("early+exit", "tool.failed", "unknown"),
        ("die", "tool.died", "nothing"),
        ("early+die", "tool.died", "unknown"),
        ("memory", "tool.failed", "nothing"),
        ("early+odd", "tool.failed", "unknown"),
    ],
)
async def test_every_bad_end_is_an_honest_outcome(package: Path, what: str, code: str, cost: str) -> None:
    result = await do(what)
    assert (result.ok, result.error_code, result.cost) == (False, code, cost), result.content
    assert "hunter2" not in result.content


@pytest.mark.parametrize(("what", "cost"), [("hang", "nothing"), ("early+hang", "unknown")])
async def test_what_does_not_end_in_time_is_ended(package: Path, what: str, cost: str) -> None:
    for timeout_ms in (4_000, 15_000, 60_000):  # where it has not begun before, the machine is busy
        lease = LiveLease()
        result = await do(what, lease, timeout_ms=timeout_ms)
        assert (result.ok, result.error_code) == (False, "tool.timeout"), result.content
        assert lease.begun or result.cost == "nothing"
        if lease.begun or what == "hang":
            break
    assert result.cost == cost


async def test_what_is_too_large_is_cut_and_what_is_printed_is_not_an_answer(package: Path) -> None:
    large = await do("early+large")
    assert large.ok
    assert large.content.endswith(" … (cut)")
    assert len(large.content) < 200_100
    assert (await do("print")).content == "printed"
    assert (await do("flood")).content == "printed 50 MB"


@pytest.mark.parametrize("what", ["early+twice", "early+threads"])
async def test_a_call_begins_once_however_often_it_asks(package: Path, what: str) -> None:
    lease = LiveLease()
    assert (await do(what, lease)).content == "once"
    assert lease.begun == 1


async def test_what_is_forked_and_runs_on_answers_nothing(package: Path) -> None:
    assert (await do("early+fall through")).content == "parent"


async def test_an_argument_that_only_its_type_refuses_is_said_to_the_model(package: Path) -> None:
    lease = LiveLease()
    result = await call(tool("demo.pay"), {"amount": "100.01"}, lease)
    assert (result.ok, result.error_code, result.cost, lease.begun) == (False, "tool.arguments_refused", "nothing", 0)
    assert "`amount`: Input should be less than or equal to 100" in result.content


async def test_nothing_of_the_executors_is_there(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_EXECUTOR_DATABASE_URL", "postgresql://secret")
    seen = json.loads((await do("environment")).content)
    assert set(seen["env"]) <= {"PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE"}
    assert (seen["home"], seen["stdin"], seen["gc"]) == ([], "", True)
    assert seen["cwd"] == seen["env"]["HOME"] != str(Path.cwd())
    assert not Path(seen["cwd"]).exists()


def worker_in(ticks: Path) -> psutil.Process:
    """The process that a tool has started and cut loose."""
    pid, _ = ticks.read_text(encoding="utf-8").split()
    return psutil.Process(int(pid))


def has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)  # whoever should ask after it may be frozen
    except psutil.NoSuchProcess:
        return True


def is_gone(ticks: Path) -> bool:
    try:
        return has_ended(worker_in(ticks))
    except psutil.NoSuchProcess:
        return True


async def test_what_a_tool_starts_ends_with_it(package: Path, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    result = await do(f"early+leave {ticks}")
    assert result.content == "left"
    assert is_gone(ticks)


async def test_what_a_tool_starts_ends_with_it_also_when_its_guard_needs_long(package: Path, tmp_path: Path) -> None:
    """As on a machine with much to do: whoever has cut itself loose would outlive a guard that is not waited for."""
    ticks = tmp_path / "ticks"
    result = await do(f"early+hinder {ticks}")
    assert result.content == "left"
    assert is_gone(ticks)


async def test_without_its_lease_a_call_does_not_begin(package: Path) -> None:
    for lease in (LiveLease(lost_before_begin=True), LiveLease(lost_before_writing=True)):
        with pytest.raises(LeaseLost):
            await do("early+x", lease)


def ending_lease(after_begin_ms: int) -> LiveLease:
    """A lease that ends some time after the call has begun, however long it took to come so far."""
    lease = LiveLease()
    lease.at_begin = lambda: setattr(lease, "remaining_ms", after_begin_ms)
    return lease


async def test_a_call_ends_with_its_lease(package: Path, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    result = await do(f"early+worker {ticks}", ending_lease(2500))
    assert (result.ok, result.error_code, result.cost) == (False, "tool.timeout", "unknown")
    assert is_gone(ticks)


async def test_the_kernel_ends_a_call_with_its_lease_also_when_its_guard_is_stopped(
    package: Path, tmp_path: Path
) -> None:
    """Whatever the tool does with signals and alarms of its own."""
    late = tmp_path / "late"
    result = await do(f"early+unguarded {late}", ending_lease(1500))
    assert (result.ok, result.error_code, result.cost) == (False, "tool.timeout", "unknown")
    assert not late.exists()


async def test_a_call_whose_lease_is_over_before_it_starts_does_nothing(package: Path) -> None:
    lease = LiveLease(remaining_ms=0)
    result = await do("early+x", lease)
    assert (result.error_code, result.cost, lease.begun) == ("tool.timeout", "nothing", 0)


async def test_a_cancelled_call_leaves_nothing_running(package: Path) -> None:
    running = asyncio.create_task(do("early+hang"))
    while not hosts():
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert hosts() == []


@pytest.mark.timeout(600)  # a lease may have to be given three times, each longer
@pytest.mark.parametrize("early", ["", "early+"])
@pytest.mark.parametrize(
    ("blow", "leases_ms"), [(signal.SIGKILL, (170_000,)), (signal.SIGSTOP, (5_000, 20_000, 60_000))]
)
async def test_a_dead_or_frozen_executor_takes_its_calls_along(
    package: Path, tmp_path: Path, blow: signal.Signals, leases_ms: tuple[int, ...], early: str
) -> None:
    """A dead one at once, a frozen one when the lease ends: with all that they have started."""
    for lease_ms in leases_ms:
        if await is_taken_along(tmp_path, blow, lease_ms, early):
            return
    raise AssertionError("no lease lasted until the call was at work")


async def is_taken_along(tmp_path: Path, blow: signal.Signals, lease_ms: int, early: str) -> bool:
    """Says whether the lease lasted until the call was at work; if it did, all of it has ended, and in time."""
    ticks, family = tmp_path / f"ticks-{lease_ms}", list[psutil.Process]()
    script = tmp_path / "executor.py"
    script.write_text(
        "import asyncio, sys\n"
        f"sys.path[:0] = [{str(Path.cwd())!r}, {str(tmp_path)!r}]\n"
        "from tests.tools.live_lease import LiveLease\n"
        "from tests.tools.test_tool_python import do\n"
        f"asyncio.run(do('{early}worker {ticks}', LiveLease(remaining_ms={lease_ms})))\n",
        encoding="utf-8",
    )
    executor = await asyncio.create_subprocess_exec(
        sys.executable, str(script), env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        while not ticks.exists():
            if executor.returncode is not None:
                return False
            await asyncio.sleep(0.02)
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [*psutil.Process(executor.pid).children(recursive=True), worker_in(ticks)]
        executor.send_signal(blow)
        if blow == signal.SIGSTOP and (len({one.pid for one in family}) != 3 or any(map(has_ended, family))):
            return False
        assert len({one.pid for one in family}) == 3
        # its executor's word never comes
        deadline = time.monotonic() + 60 + (lease_ms / 1000 if blow == signal.SIGSTOP else 0)
        while not all(map(has_ended, family)):
            assert time.monotonic() < deadline, family
            await asyncio.sleep(0.02)
        while blow == signal.SIGKILL and list(tmp_path.glob("holdfast-tool-*")):
            assert time.monotonic() < deadline, "the guard tidies up where no executor is left to"
            await asyncio.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            executor.send_signal(signal.SIGKILL)
        await executor.wait()
    return True


async def test_only_what_is_registered_under_the_name_with_that_value_is_called(package: Path) -> None:
    honest = tool("demo.do")
    for function in ("os:system", "demo_tools:order", "subprocess:getoutput"):
        form = honest.form.model_copy(update={"binding": PythonBinding(source="python", function=function)})
        result = await call(replace(honest, form=form), {"what": "touch /tmp/owned"})
        assert (result.error_code, result.cost) == ("tool.not_installed", "nothing")
    result = await call(replace(honest, name="demo.nowhere"), {"what": "x"})
    assert (result.error_code, result.cost) == ("tool.not_installed", "nothing")


@pytest.mark.parametrize(
    ("mark", "better"),
    [
        ("external", False),
        ("idempotent", True),
        ("yields", ()),
    ],
)
async def test_a_function_is_in_nothing_worse_than_what_was_decided_on(
    package: Path, mark: str, better: object
) -> None:
    honest = tool("demo.wait")
    flattered = replace(honest, form=honest.form.model_copy(update={mark: better}))
    result = await call(flattered, {"seconds": 0})
    assert (result.error_code, result.cost) == ("tool.definition_mismatch", "nothing")
    stricter = honest.form.model_copy(update={"reversible": False, "yields": ("untrusted", "secret")})
    assert (await call(replace(honest, form=stricter), {"seconds": 0})).ok


async def test_new_code_is_picked_up_and_another_signature_is_refused(package: Path) -> None:
    old = tool("demo.wait")
    source = SOURCE.replace('return "waited"', 'return "waited anew"')
    install(package, "demo-tools", {"demo_tools": source}, TOOLS)
    assert (await call(old, {"seconds": 0})).content == "waited anew"
    install(package, "demo-tools", {"demo_tools": source.replace("seconds: int", "seconds: int = 1")}, TOOLS)
    result = await call(old, {"seconds": 0})
    assert (result.error_code, result.cost) == ("tool.definition_mismatch", "nothing")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def f(y: int, x: list[float]) -> str: ...", r"bad\.f: parameter `x`: .*use Decimal"),
        ("def f(y: int, x: type) -> str: ...", "bad.f: parameter `x`: its type cannot be taken"),
        ("class Other: pass\n@mark\ndef f(y: int, x: Other) -> str: ...", "parameter `x`: .*Other"),
        ("def f(x) -> str: ...", "no type"),
        ("def f(*x: int) -> str: ...", "no name"),
        ("def f(**x: int) -> str: ...", "no name"),
        ("def f(x: int, /) -> str: ...", "no name"),
        ("def f(x: 'Nowhere') -> str: ...", "cannot be resolved"),
        ("def f(x: object) -> str: ...", ""),
        ("class Node(BaseModel):\n    below: list['Node'] = []\n@mark\ndef f(x: Node) -> str: ...", "`x`: .*itself"),
        ("def f(x: int) -> str:\n    pass", "description"),
    ],
)
def test_a_function_that_cannot_be_a_tool_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    if body.endswith("..."):
        body = body.replace(" ...", '\n    """Does."""')
    mark = "" if "@mark" in body else "@mark\n"
    head = (
        "from pydantic import BaseModel\nfrom sdk.tools import tool\n"
        "mark = tool(name='bad.f', external=False, idempotent=True, reversible=True)\n"
    )
    module = f"bad_{abs(hash(body))}"
    install(tmp_path, "bad", {}, {"bad.f": f"{module}:f"})
    (tmp_path / f"{module}.py").write_text(f"{head}{mark}{body}\n", encoding="utf-8")
    if said:
        with pytest.raises(RequestInvalid, match=said):
            tool("bad.f")
    else:
        assert tool("bad.f").form.parameters["properties"] == {"x": {"x-holdfast-personal": True}}


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"source": "python"}, "either names or distribution"),
        ({"source": "python", "names": ["no.where"]}, "no installed package has the tool"),
        ({"source": "python", "distribution": "nowhere"}, "is not installed"),
        ({"source": "python", "names": ["demo.do"], "more": 1}, "more"),
    ],
)
def test_a_wrong_file_says_where(package: Path, file: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestInvalid, match=said):
        forms(file, Path())


def test_all_tools_of_a_distribution(package: Path) -> None:
    assert set(forms({"source": "python", "distribution": "demo-tools"}, Path())) == set(TOOLS)
