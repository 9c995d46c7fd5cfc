"""What a job may, what ends it, and what its result says."""

from __future__ import annotations

import asyncio
import os
import time
from itertools import pairwise
from pathlib import Path

import pytest

from sandbox.errors import JobInvalid
from sandbox.job import Because, Job, Limits, Printed, printable
from sandbox.native import watch
from sandbox.service import Sandbox

ORDINARY = """
import asyncio, csv, decimal, io, json, os, re, statistics, sys, tempfile, threading, xml.etree.ElementTree, sqlite3, zipfile
async def wait():
    await asyncio.sleep(0.001)
    return 7
assert asyncio.run(wait()) == 7
found = []
thread = threading.Thread(target=lambda: found.append(1))
thread.start(); thread.join()
with tempfile.TemporaryFile() as file:
    file.write(b"x")
pid = os.fork()
if pid == 0:
    os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
base = sqlite3.connect("books.sqlite")
base.execute("create table t (a)"); base.execute("insert into t values (1)"); base.commit()
rows = list(csv.DictReader(open("in/sales.csv")))
total = sum(decimal.Decimal(row["amount"]) for row in rows)
os.mkdir("out")
with open("out/report.json", "w") as file:
    json.dump({"total": str(total)}, file)
print("total", total, sys.argv[1:])
print("told", file=sys.stderr)
"""


async def test_ordinary_code_works(sandbox: Sandbox) -> None:
    heard: list[tuple[str, bytes]] = []
    limits = Limits(wall_ms=120_000)
    job = Job(ORDINARY, arguments=("a", "b"), files={"in/sales.csv": b"amount\n1.10\n2.20\n"}, limits=limits)
    result = await sandbox.submit(job, on_output=lambda stream, part: heard.append((stream, part)))
    assert result.stderr == b"told\n"
    assert result.stdout == b"total 3.30 ['a', 'b']\n"
    assert (result.exit_status, result.killed, result.raised, result.exhausted) == (0, None, None, ())
    assert {file.name for file in result.files} == {"books.sqlite", "out/report.json"}
    report = next(file for file in result.files if file.name == "out/report.json")
    assert report.content == b'{"total": "3.30"}'
    assert b"".join(part for stream, part in heard if stream == "stdout") == result.stdout
    assert result.memory_peak_bytes > 0
    assert result.cpu_ms > 0


async def test_outputs_go_into_a_folder_if_one_is_named(sandbox: Sandbox, tmp_path: Path) -> None:
    result = await sandbox.submit(Job("import os; os.mkdir('a'); open('a/b', 'w').write('c')"), outputs=tmp_path)
    assert [file.content for file in result.files] == [tmp_path / "a/b"]
    assert (tmp_path / "a/b").read_text() == "c"


async def test_an_input_that_was_not_changed_is_no_output(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"1")
    result = await sandbox.submit(Job("open('b', 'w').write('2')", files={"a": tmp_path / "given", "b": b"1"}))
    assert [(file.name, file.content) for file in result.files] == [("b", b"2")]


async def test_an_exception_comes_with_the_line_of_the_code(sandbox: Sandbox) -> None:
    result = await sandbox.submit(Job("def f():\n    raise ValueError('no')\n\nf()", name="report.py"))
    assert result.raised is not None
    assert (result.raised.kind, result.raised.message, result.raised.line) == ("ValueError", "no", 2)
    assert 'File "report.py", line 4' in result.raised.traceback
    assert "runner.py" not in result.raised.traceback
    assert result.exit_status == 1
    assert result.stderr.decode() == result.raised.traceback


async def test_code_that_is_no_python_is_told_so(sandbox: Sandbox) -> None:
    result = await sandbox.submit(Job("a = 1\nb = ="))
    assert result.raised is not None
    assert (result.raised.kind, result.raised.line) == ("SyntaxError", 2)


@pytest.mark.parametrize(
    ("code", "status"), [("raise SystemExit", 0), ("exit(42)", 42), ("import sys; sys.exit('no')", 1)]
)
async def test_a_job_ends_with_its_own_status(sandbox: Sandbox, code: str, status: int) -> None:
    assert (await sandbox.submit(Job("import os\nfrom sys import exit\n" + code))).exit_status == status


ENDED = {
    Because.TIME: ("import time; time.sleep(60)", Limits(wall_ms=100)),
    # it steps back behind whatever else there is, and may get to compute late
    Because.CPU: ("while True: pass", Limits(wall_ms=150_000, cpu_s=1)),
    Because.OUTPUT: ("while True: print('x' * 1000)", Limits(output_bytes=10_000)),
    Because.FORBIDDEN_CALL: ("import ctypes; ctypes.CDLL(None).unshare(0x10000000)", Limits()),
    Because.SIGNAL: ("import ctypes; ctypes.string_at(0)", Limits()),
}


@pytest.mark.parametrize("because", list(ENDED))
async def test_why_a_job_was_ended_stands_in_its_result(sandbox: Sandbox, because: Because) -> None:
    code, limits = ENDED[because]
    result = await sandbox.submit(Job(code, limits=limits))
    assert result.killed is not None, result
    assert result.killed.because == because
    assert result.exit_status > 128
    assert len(result.stdout) + len(result.stderr) <= limits.output_bytes


async def test_a_forbidden_call_is_named(sandbox: Sandbox) -> None:
    result = await sandbox.submit(Job(ENDED[Because.FORBIDDEN_CALL][0]))
    assert result.killed is not None
    assert result.killed.sentence == "It made a system call that no job may make: unshare."


async def test_memory_is_counted_over_all_processes_of_a_job(sandbox: Sandbox) -> None:
    code = """
import os, sys, time
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        held = b"1" * (40 << 20)
        time.sleep(20)
        os._exit(0)
    children.append(pid)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
"""
    result = await sandbox.submit(Job(code, limits=Limits(memory_bytes=100 << 20, wall_ms=15_000)))
    assert Because.MEMORY in result.exhausted
    assert result.memory_peak_bytes <= 100 << 20


async def test_one_process_that_wants_too_much_gets_an_exception(sandbox: Sandbox) -> None:
    result = await sandbox.submit(Job("x = bytearray(1 << 30)", limits=Limits(memory_bytes=64 << 20)))
    assert result.raised is not None
    assert result.raised.kind == "MemoryError"


async def test_a_full_folder_is_told(sandbox: Sandbox) -> None:
    code = "for i in range(4):\n    open(f'f{i}', 'wb').write(b'1' * (2 << 20))"
    result = await sandbox.submit(Job(code, limits=Limits(disk_bytes=3 << 20)))
    assert result.raised is not None
    assert result.raised.kind == "OSError"
    assert result.exhausted == (Because.DISK,)


async def test_too_many_processes_are_refused_and_told(sandbox: Sandbox) -> None:
    code = """
import os, time
try:
    for _ in range(40):
        if os.fork() == 0:
            time.sleep(30)
except BlockingIOError:
    print("no more")
"""
    result = await sandbox.submit(Job(code, limits=Limits(pids=10)))
    assert result.stdout == b"no more\n"
    assert result.exit_status == 0
    assert result.exhausted == (Because.PIDS,)


async def test_what_a_job_started_ends_with_it(sandbox: Sandbox) -> None:
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
    result = await asyncio.wait_for(sandbox.submit(Job(code)), 60)
    assert result.exit_status == 0


async def test_a_cancelled_job_ends(sandbox: Sandbox) -> None:
    said = asyncio.Event()
    job = Job("import time; print('here', flush=True); time.sleep(600)", limits=Limits(wall_ms=600_000))
    task = asyncio.create_task(sandbox.submit(job, on_output=lambda *_: said.set()))
    await asyncio.wait_for(said.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await sandbox.submit(Job("print(1)"))).stdout == b"1\n"


async def test_many_at_once_keep_to_themselves(sandbox: Sandbox) -> None:
    code = """
import os, sys, time
open("mine", "w").write(sys.argv[1])
time.sleep(0.05)
print(os.listdir(), open("mine").read(), os.getpid())
"""
    limits = Limits(wall_ms=120_000)
    results = await asyncio.gather(*(sandbox.submit(Job(code, arguments=(str(i),), limits=limits)) for i in range(24)))
    assert [result.stdout for result in results] == [f"['mine'] {i} 1\n".encode() for i in range(24)]


async def test_random_numbers_differ_between_jobs(sandbox: Sandbox) -> None:
    code = "import random, uuid, secrets; print(random.random(), uuid.uuid4(), secrets.token_hex())"
    results = [await sandbox.submit(Job(code)) for _ in range(2)]
    assert not set(results[0].stdout.split()) & set(results[1].stdout.split())


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a//b", "", ".", "a/../../b", "a\nb", "a" * 600, "\udcff/x"])
async def test_no_file_is_laid_outside_of_the_folder(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(JobInvalid):
        await sandbox.submit(Job("pass", files={name: b""}))


async def test_a_file_cannot_be_a_folder_as_well(sandbox: Sandbox) -> None:
    with pytest.raises(JobInvalid, match="cannot be laid"):
        await sandbox.submit(Job("pass", files={"a": b"", "a/b": b""}))


@pytest.mark.parametrize("limits", [Limits(wall_ms=0), Limits(pids=-1)])
async def test_limits_must_be_positive(sandbox: Sandbox, limits: Limits) -> None:
    with pytest.raises(JobInvalid):
        await sandbox.submit(Job("pass", limits=limits))


async def test_output_files_are_bounded(sandbox: Sandbox) -> None:
    code = "for i in range(20):\n    open(f'{i:02}', 'wb').write(b'1' * 1000)"
    by_number = await sandbox.submit(Job(code, limits=Limits(collected_files=5)))
    assert len(by_number.files) == 5
    assert set(by_number.refused.values()) == {"too many output files"}
    by_size = await sandbox.submit(Job(code, limits=Limits(collected_bytes=3_500)))
    assert len(by_size.files) == 3
    assert set(by_size.refused.values()) == {"output files are too large"}


async def test_a_name_that_could_do_harm_is_not_collected(sandbox: Sandbox) -> None:
    code = "for name in (b'a\\nb', b'\\xff', b'\\x1b[31m', b'ok'):\n    open(name, 'w').close()"
    result = await sandbox.submit(Job(code))
    assert [file.name for file in result.files] == ["ok"]
    assert len(result.refused) == 3
    assert all(name.isprintable() for name in result.refused)


def test_what_was_printed_can_be_shown_without_being_obeyed() -> None:
    assert printable(b"a\x1b[2Jb\r\n\xe2\x80\xaec\tok\xff") == "a\\x1b[2Jb\\x0d\n\\x202ec\tok\ufffd"


def test_what_is_printed_live_is_shown_as_it_is_at_the_end() -> None:
    whole = "é€\U0001f600\x1b[2J".encode() + b"\xff!"
    printed = Printed()
    assert "".join(printed.take("stdout", bytes([byte])) for byte in whole) == printable(whole)
    assert printed.take("stderr", b"\xc3") + printed.take("stdout", b"a") + printed.take("stderr", b"\xa9") == "a\u00e9"


async def test_why_is_said_in_sentences(sandbox: Sandbox) -> None:
    code = "import time\ntry:\n    open('a', 'wb').write(bytes(4 << 20))\nfinally:\n    time.sleep(60)"
    # so long that it has written before, on whatever machine
    result = await sandbox.submit(Job(code, limits=Limits(disk_bytes=3 << 20, wall_ms=8_000)))
    assert result.why == "It took longer than it may. It wrote more to its folder than it may."
    assert (await sandbox.submit(Job("pass"))).why == ""


async def test_a_forged_report_is_text_at_most(sandbox: Sandbox) -> None:
    code = "import ctypes, json, sys\nclass Odd(Exception):\n    def __str__(self): return 'x' * 100000\nraise Odd"
    result = await sandbox.submit(Job(code))
    assert result.raised is not None
    assert len(result.raised.message) <= 16_000


async def test_nothing_of_the_hosts_environment_is_there(sandbox: Sandbox) -> None:
    os.environ["HOLDFAST_TEST_SECRET"] = "s3cret"
    try:
        result = await sandbox.submit(Job("import os; print(sorted(os.environ))"))
    finally:
        del os.environ["HOLDFAST_TEST_SECRET"]
    assert eval(result.stdout) == ["HOME", "LANG", "PATH", "TMPDIR", "TZ"]


async def test_who_floods_is_read_in_small_parts_with_a_pause_after_each(sandbox: Sandbox) -> None:
    """What a neighbour needs of this side is not taken by a job that prints as fast as it can."""
    heard: list[tuple[float, int]] = []
    limits = Limits(wall_ms=120_000, cpu_s=60, output_bytes=2 << 20)
    job = Job("while True: print('x' * 1000)", limits=limits)
    result = await sandbox.submit(job, on_output=lambda _, part: heard.append((time.monotonic(), len(part))))
    assert result.killed is not None
    assert (result.killed.because, len(result.stdout)) == (Because.OUTPUT, limits.output_bytes)
    taken, paused = 0, []
    for (at, size), (following, _) in pairwise(heard):
        taken += size
        if taken > watch.AT_ONCE:
            paused.append(following - at)
    # what was still in the pipe when it was killed is taken at once
    assert len(paused) > 10
    assert all(pause > watch.PAUSE_S / 2 for pause in paused[:-2]), paused


async def test_who_prints_little_waits_for_nothing_and_all_of_much_arrives(sandbox: Sandbox) -> None:
    limits = Limits(wall_ms=120_000, cpu_s=60)
    code = "import sys\nfor n in range(900): print('y' * 999)\nprint('z' * 99_999, file=sys.stderr)"
    result = await sandbox.submit(Job(code, limits=limits))
    assert (result.exit_status, result.killed) == (0, None)
    assert (len(result.stdout), len(result.stderr)) == (900_000, 100_000)
