"""What a job may ask of its run, and what cuts it off: from inside, and by peers that no job could be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.errors import NotPermitted
from sandbox.frames import LENGTH, Request
from sandbox.job import Job, Limits
from sandbox.service import Sandbox, Settings
from sandbox.supervisor import Bounds, Door, Peer, Supervisor

ROOT = Path(__file__).resolve().parents[2]
BOUNDS = Bounds(frame_bytes=4_096, reply_bytes=4_096, depth=8, requests=3, frame_ms=300)


def fence_with(text: str) -> str:
    """Returns the one example of the sandbox's page in which a text stands."""
    parts = (ROOT / "docs/explanation/sandbox.md").read_text(encoding="utf-8").split("```python\n")[1:]
    (found,) = [part.split("```")[0] for part in parts if text in part.split("```")[0]]
    return found


async def answer(request: Request) -> object:
    """Adds, repeats, or refuses."""
    if request.name == "forbidden":
        raise NotPermitted("not this one")
    return {"number": request.number, "kind": request.kind, "name": request.name, "with": dict(request.arguments)}


async def run(sandbox: Sandbox, code: str, limits: Limits | None = None) -> dict[str, object]:
    """Runs code that prints JSON; returns it."""
    result = await sandbox.submit(Job(code, limits=limits or Limits(wall_ms=120_000)), act=answer)
    assert result.exit_status == 0, result.stderr.decode()
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found | {"calls": result.calls, "cut_off": result.cut_off}


async def test_a_job_asks_and_is_answered(sandbox: Sandbox) -> None:
    code = """
import json
from holdfast_guest import tool, emit, cite
said = [tool("search", query="é", limit=3), emit("progress", [1, None]), cite("page:7", line=2)]
print(json.dumps({"said": said}))
"""
    assert await run(sandbox, code) == {
        "said": [
            {"number": 1, "kind": "tool", "name": "search", "with": {"query": "é", "limit": 3}},
            None,
            {"number": 3, "kind": "cite", "name": "page:7", "with": {"line": 2}},
        ],
        "calls": 3,
        "cut_off": "",
    }


async def test_a_refusal_is_an_exception_with_its_code(sandbox: Sandbox) -> None:
    code = """
import json
from holdfast_guest import tool, Refused
try:
    tool("forbidden")
except Refused as error:
    print(json.dumps({"code": error.code, "message": error.message, "next": tool("a")["number"]}))
"""
    found = await run(sandbox, code)
    assert (found["code"], found["message"], found["next"]) == ("auth.not_permitted", "not this one", 2)


async def test_what_the_page_shows_is_what_a_job_can_do(sandbox: Sandbox) -> None:
    code = fence_with("from holdfast_guest import")
    asked = []

    async def act(request: Request) -> object:
        asked.append((request.kind, request.name, dict(request.arguments)))
        if request.name == "refund":
            raise NotPermitted("not this one")
        return ["o-1", "o-2"]

    result = await sandbox.submit(Job(code), act=act)
    assert (result.stdout, result.stderr) == (b"auth.not_permitted not this one\n", b"")
    assert asked == [
        ("tool", "orders_of", {"customer": "c-7"}),
        ("emit", "progress", {"data": {"done": 2}}),
        ("cite", "orders/c-7", {"rows": 2}),
        ("tool", "refund", {"order": "o-1", "amount": "12.00"}),
    ]


async def test_threads_and_forks_are_answered_each_with_its_own(sandbox: Sandbox) -> None:
    code = """
import json, os, threading
from holdfast_guest import tool
wrong = []
def ask(who):
    for n in range(20):
        got = tool(f"{who}", n=n)
        if (got["name"], got["with"]) != (f"{who}", {"n": n}):
            wrong.append(got)
children = []
for who in range(3):
    pid = os.fork()
    if pid == 0:
        ask(f"child {who}")
        os._exit(len(wrong))
    children.append(pid)
threads = [threading.Thread(target=ask, args=(f"thread {who}",)) for who in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps({"wrong": wrong, "children": [os.waitpid(pid, 0)[1] for pid in children]}))
"""
    assert await run(sandbox, code) == {"wrong": [], "children": [0, 0, 0], "calls": 120, "cut_off": ""}


async def test_without_an_owner_there_is_no_connection(sandbox: Sandbox) -> None:
    code = """
import os, socket
from holdfast_guest import tool, Refused
for fd in range(3, 256):
    try:
        os.fstat(fd)
    except OSError:
        continue
    raise SystemExit(f"{fd} is open")
try:
    tool("a")
except Refused as error:
    print(error.code)
"""
    result = await sandbox.submit(Job(code))
    assert (result.stdout, result.stderr) == (b"supervisor.absent\n", b"")


async def test_with_an_owner_there_is_that_connection_and_no_way_to_another(sandbox: Sandbox) -> None:
    code = """
import json, os, socket
def opened(fd):
    try:
        return bool(os.fstat(fd))
    except OSError:
        return False
try:
    socket.socket(socket.AF_UNIX)
    made = "a socket"
except PermissionError:
    made = "nothing"
print(json.dumps({"made": made, "open": sum(opened(fd) for fd in range(3, 256)), "tmp": os.listdir("/job/tmp")}))
"""
    found = await run(sandbox, code)
    assert (found["made"], found["open"], found["tmp"]) == ("nothing", 1, [])


async def test_what_cannot_be_said_in_a_request_is_an_exception_inside(sandbox: Sandbox) -> None:
    code = """
import json
from holdfast_guest import tool, Refused
found = []
for bad in ({1, 2}, float("nan"), "x" * 300_000):
    try:
        tool("a", bad=bad)
    except Exception as error:
        found.append(getattr(error, "code", type(error).__name__))
print(json.dumps({"found": found, "next": tool("b")["number"]}))
"""
    found = await run(sandbox, code)
    assert (found["found"], found["next"]) == (["TypeError", "ValueError", "request.too_large"], 1)


async def test_a_request_that_a_signal_interrupts_never_gets_the_answer_to_another(sandbox: Sandbox) -> None:
    code = """
import json, os, signal, time
from holdfast_guest import tool, Lost
class Late(Exception): pass
def late(*_): raise Late
signal.signal(signal.SIGUSR1, late)
asker = os.getpid()
if os.fork() == 0:
    while not os.path.exists("/job/tmp/.turn") or not os.stat("/job/tmp/.turn").st_size:
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(asker, signal.SIGUSR1)
    os._exit(0)
try:
    tool("slow")
except Late:
    pass
try:
    tool("next")
except Lost as error:
    print(json.dumps({"next": error.code}), flush=True)
"""
    said = asyncio.Event()

    async def act(request: Request) -> object:
        with contextlib.suppress(TimeoutError):  # as long as it takes, and if nothing is ever said
            await asyncio.wait_for(said.wait(), 20)
        return request.name

    result = await sandbox.submit(Job(code, limits=Limits(wall_ms=60_000)), act=act, on_output=lambda *_: said.set())
    assert json.loads(result.stdout) == {"next": "supervisor.lost"}, result.stderr


async def test_what_an_owner_began_is_done_to_its_end_when_the_job_is_killed() -> None:
    done = []
    async with Sandbox(Settings(idle_min=0, idle_max=0)) as own:

        async def act(request: Request) -> None:
            [job] = psutil.Process(own.zygote_pid).children()
            job.kill()
            await asyncio.to_thread(psutil.wait_procs, [job], 60)
            await asyncio.sleep(0.5)  # it is known to be dead
            done.append(request.name)

        code = "from holdfast_guest import tool\ntool('first')\ntool('second')"
        result = await own.submit(Job(code, limits=Limits(wall_ms=60_000)), act=act)
    assert result.killed is not None
    assert (done, result.calls) == (["first"], 1)


async def test_what_an_owner_fails_with_ends_the_job_and_is_raised(sandbox: Sandbox) -> None:
    async def act(request: Request) -> None:
        raise LookupError(request.name)

    code = "from holdfast_guest import tool\ntry:\n    tool('a')\nfinally:\n    import time; time.sleep(60)"
    with pytest.raises(LookupError, match="a"):
        await sandbox.submit(Job(code, limits=Limits(wall_ms=120_000)), act=act)


async def test_a_cancelled_job_cancels_what_is_done_for_it(sandbox: Sandbox) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def act(_: Request) -> None:
        began.set()
        try:
            await asyncio.sleep(600)
        finally:
            cancelled.set()

    job = Job("from holdfast_guest import tool\ntool('a')", limits=Limits(wall_ms=600_000))
    task = asyncio.create_task(sandbox.submit(job, act=act))
    await asyncio.wait_for(began.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


async def test_a_reply_that_is_too_large_is_a_refusal() -> None:
    async def act(_: Request) -> str:
        return "x" * 5_000

    async with peer(act=act) as at:
        at.send(request(at.token))
        assert (await at.reply())["refused"]["code"] == "request.too_large"
        at.send(request(at.token))
        assert (await at.reply())["refused"]["code"] == "request.too_large"


# What no job can be made to do is done by a peer that the test is itself.


def request(token: str, **change: object) -> bytes:
    """Returns a request's frame."""
    return frame(json.dumps({"token": token, "kind": "tool", "name": "a", "arguments": {}, **change}).encode())


def frame(body: bytes) -> bytes:
    """Returns a frame."""
    return LENGTH.pack(len(body)) + body


@dataclass
class At:
    """A peer, and the supervisor that it talks to."""

    link: socket.socket
    supervisor: Supervisor
    failed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def token(self) -> str:
        """The token that is right."""
        return self.supervisor.token

    def send(self, data: bytes) -> None:
        """Sends."""
        self.link.sendall(data)

    async def reply(self) -> dict[str, dict[str, str]]:
        """Returns a reply; nothing if it was cut off."""
        async with asyncio.timeout(60):
            head = await self._exactly(LENGTH.size)
            found = json.loads(await self._exactly(LENGTH.unpack(head)[0])) if head else {}
        assert isinstance(found, dict)
        return found

    async def _exactly(self, size: int) -> bytes:
        loop, found = asyncio.get_running_loop(), b""
        self.link.setblocking(False)
        while len(found) < size:
            try:
                part = await loop.sock_recv(self.link, size - len(found))
            except ConnectionResetError:  # it was closed with something of ours unread
                return b""
            if not part:
                return b""
            found += part
        return found


@asynccontextmanager
async def peer(
    act: Callable[[Request], object] | None = None, bounds: Bounds = BOUNDS, *, checked: bool = True
) -> AsyncIterator[At]:
    """A supervisor, and a peer of it that was let in."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    failed = asyncio.Event()
    supervisor = Supervisor(ours, act or answer, failed.set, bounds, checked=checked)  # type: ignore[arg-type]  # of either kind
    supervisor.begin()
    with theirs:
        yield At(theirs, supervisor, failed)
    await supervisor.end()


DEEP = b'{"token": "%s", "kind": "tool", "name": "a", "arguments": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}"
VERY_DEEP = b"[" * 4_000
REFUSED: dict[str, Callable[[str], bytes]] = {
    "it sent a request without the token of its run": lambda _: request("of another"),
    "it sent a request without the token of its run ": lambda _: request(""),
    "it sent a request that is larger than one may be": lambda _: LENGTH.pack(2**32 - 1) + b"x",
    "it sent what is no request: it is nested too deeply": lambda token: frame(DEEP % token.encode()),
    "it sent what is no request: it is no JSON, or nested too deeply": lambda _: frame(VERY_DEEP),
    "it sent what is no request: it is no JSON, or nested too deeply ": lambda _: frame(b"\xff\xfe"),
    "it sent what is no request: it is no JSON, or nested too deeply  ": lambda _: frame(b""),
    "it sent what is no request: a key stands twice in an object": lambda token: frame(
        request(token)[4:].replace(b'{"token"', b'{"name": "b", "token"')
    ),
    "it sent what is no request: NaN is no JSON": lambda token: request(token, arguments={"a": float("nan")}),
    "it sent what is no request: a text has a NUL or half a character": lambda token: request(token, name="\ud800"),
    "it sent what is no request: a text has a NUL or half a character ": lambda token: request(
        token, arguments={"a": ["\0"]}
    ),
    "it sent what is no request: the kind of request is not known": lambda token: request(token, kind="execute"),
    "it sent what is no request: the name is too long, or has control characters": lambda token: request(
        token, name="a\nb"
    ),
    "it sent what is no request: a request has token, kind, name and arguments, and nothing else": lambda token: (
        request(token, tenant="another")
    ),
    "it sent what is no request: the arguments are not such as go with the request": lambda token: request(
        token, kind="emit"
    ),
}


@pytest.mark.parametrize("why", list(REFUSED))
async def test_who_sends_what_is_no_request_is_cut_off(why: str) -> None:
    async with peer() as at:
        at.send(REFUSED[why](at.token))
        assert await at.reply() == {}
    assert at.supervisor.cut_off == why.strip()
    assert at.supervisor.calls == 0


async def test_without_its_checks_the_supervisor_takes_a_forged_token_and_too_many_requests() -> None:
    """So that the tests above can fail."""
    async with peer(checked=False) as at:
        for number in range(1, 6):
            at.send(request("of another"))
            assert (await at.reply())["value"]["number"] == number  # type: ignore[comparison-overlap]  # JSON


async def test_half_a_request_and_then_silence_is_cut_off() -> None:
    async with peer() as at:
        at.send(request(at.token)[:-1])
        assert await at.reply() == {}
    assert at.supervisor.cut_off == "it sent half a request, and then nothing"


async def test_who_trickles_is_cut_off_as_well() -> None:
    async with peer() as at:
        for byte in request(at.token):
            try:
                at.send(bytes([byte]))
            except BrokenPipeError:
                break
            await asyncio.sleep(0.05)
        assert await at.reply() == {}
    assert at.supervisor.cut_off == "it sent half a request, and then nothing"


async def test_who_does_not_take_replies_is_cut_off() -> None:
    async def act(_: Request) -> str:
        return "x" * 4_000

    async with peer(act, Bounds(frame_ms=300, requests=100_000)) as at:
        at.link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        at.link.setblocking(False)
        async with asyncio.timeout(60):
            while not at.supervisor.cut_off:
                try:
                    at.send(request(at.token) * 10)
                except (BlockingIOError, BrokenPipeError):
                    await asyncio.sleep(0.01)
    assert at.supervisor.cut_off == "it did not take a reply"


async def test_a_flood_of_requests_is_cut_off() -> None:
    async with peer() as at:
        at.send(request(at.token) * 20)
        assert [("value" in await at.reply()) for _ in range(4)] == [True, True, True, False]
    assert at.supervisor.cut_off == "it made more requests than it may"
    assert at.supervisor.calls == 3


async def test_descriptors_are_not_taken() -> None:
    async with peer() as at:
        before = len(list(Path("/proc/self/fd").iterdir()))
        read, write = os.pipe()
        socket.send_fds(at.link, [request(at.token)], [read, write])
        os.close(read)
        os.close(write)
        assert await at.reply() == {}
        assert len(list(Path("/proc/self/fd").iterdir())) == before - 1  # the supervisor's own end is closed
    assert at.supervisor.cut_off == "it sent descriptors"
    assert at.supervisor.calls == 0


async def test_requests_that_come_after_the_end_are_not_acted_upon() -> None:
    began, go = asyncio.Event(), asyncio.Event()

    async def act(_: Request) -> None:
        began.set()
        await go.wait()

    async with peer(act) as at:
        at.send(request(at.token) * 3)
        await began.wait()
        ending = asyncio.create_task(at.supervisor.end())
        await asyncio.sleep(0)
        go.set()
        await ending
        assert at.supervisor.calls == 1


async def test_a_request_that_lies_there_unread_at_the_end_is_not_acted_upon() -> None:
    async with peer() as at:
        at.send(request(at.token))
        assert "value" in await at.reply()
        at.send(request(at.token))  # nothing runs between this and the end
        await at.supervisor.end()
        assert at.supervisor.calls == 1


KNOCK = """
import os, socket, sys
if int(sys.argv[2]):
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """A door in a folder, which everybody may walk to."""
    (tmp_path / "tmp").mkdir()
    for folder in (tmp_path / "tmp", tmp_path, *tmp_path.parents):
        if Path(tempfile.gettempdir()) in folder.parents and folder.stat().st_uid == os.getuid():
            folder.chmod(0o755)
    opened = Door(os.open(tmp_path, os.O_RDONLY), None)
    (tmp_path / "tmp/door").chmod(0o777)
    opened.path = str(tmp_path / "tmp/door")
    return opened


@pytest.mark.parametrize(("uid", "other_pid"), [(65_534, 0), (0, 1)])
async def test_another_uid_or_process_is_not_let_in(door: Door, uid: int, other_pid: int) -> None:
    knocking = subprocess.Popen(
        [str(Path(sys.executable).resolve()), "-c", KNOCK, door.path, str(uid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert knocking.stdout is not None
    assert int(await asyncio.to_thread(knocking.stdout.readline)) == knocking.pid
    assert door.admit(Peer(knocking.pid + other_pid, 0).__eq__) is None
    assert door.admit(Peer(knocking.pid, uid).__eq__) is None  # it was closed, not left waiting
    knocking.communicate()
    door.close()


async def test_whom_it_is_for_is_let_in_and_without_the_check_anybody_is(door: Door) -> None:
    for expected, checked in ((65_534, True), (0, False)):
        knocking = subprocess.Popen(
            [str(Path(sys.executable).resolve()), "-c", KNOCK, door.path, "65534"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert knocking.stdout is not None
        await asyncio.to_thread(knocking.stdout.readline)
        link = door.admit(Peer(knocking.pid, expected).__eq__, checked=checked)
        assert link is not None
        link.close()
        knocking.communicate()
    door.close()


async def test_a_job_that_was_cut_off_hurts_nobody_else() -> None:
    async with Sandbox(Settings(idle_min=1, bounds=Bounds(requests=2))) as own:
        flood = "from holdfast_guest import tool\nfor _ in range(9): tool('a')"
        first, second = await asyncio.gather(
            own.submit(Job(flood), act=answer),
            own.submit(Job("from holdfast_guest import tool\nprint(tool('a')['number'])"), act=answer),
        )
    assert first.cut_off == "it made more requests than it may"
    assert first.raised is not None
    assert first.raised.kind == "Lost"
    assert (second.stdout, second.cut_off) == (b"1\n", "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
PARTS = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(frame),
    JSON.map(lambda value: frame(json.dumps(value).encode())),
    st.fixed_dictionaries(
        {}, optional={"token": JSON, "kind": st.sampled_from(["tool", "emit", "cite"]) | JSON, "name": JSON, "arguments": JSON}
    ),
    st.integers(0, 2**32 - 1).map(LENGTH.pack),
)  # fmt: skip


def _merged(token: str, change: dict[str, object]) -> bytes:
    usual: dict[str, object] = {"token": token, "kind": "tool", "name": "a", "arguments": {}}
    return json.dumps(usual | change).encode()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(parts=st.lists(PARTS, max_size=4), good_first=st.booleans())
async def test_whatever_is_sent_nothing_crashes_or_hangs_and_the_next_honest_request_is_served(
    parts: list[bytes | dict[str, object]], good_first: bool
) -> None:
    async with peer(bounds=Bounds(frame_bytes=4_096, depth=8, requests=3, frame_ms=50)) as at:
        if good_first:
            at.send(request(at.token))
            assert "value" in await at.reply()
        for part in parts:
            try:
                at.send(part if isinstance(part, bytes) else frame(_merged(at.token, part)))
            except (BrokenPipeError, ConnectionResetError):
                break
        at.link.shutdown(socket.SHUT_WR)
        while await at.reply():
            pass
        assert not at.failed.is_set()
    async with peer() as at:
        at.send(request(at.token))
        assert "value" in await at.reply()
