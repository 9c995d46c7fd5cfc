"""Runtimes besides plain Python: data, shell and Node. Each is behind the same layers, with the same attacks at its start."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from bench.escape import SUITE, attempts, measure, try_attempt
from sandbox.environments import Environments, data_lock
from sandbox.errors import JobInvalid, LayerMissing, RuntimeMissing, SandboxLost
from sandbox.job import Because, Job, Limits
from sandbox.layers import Layer
from sandbox.native import host
from sandbox.service import Sandbox, Settings

LIMITS = Limits(wall_ms=120_000, cpu_s=30, memory_bytes=512 << 20)
LANGUAGES: tuple[Literal["shell", "node"], ...] = ("shell", "node")


@pytest.fixture(scope="module")
async def runtimes() -> AsyncIterator[Sandbox]:
    async with Sandbox(Settings(limits=LIMITS, idle_min=1, idle_max=1)) as started:
        yield started


@pytest.fixture
def data() -> None:
    """`make setup` builds it; who has not run that is told so, and the skip is counted."""
    if Environments().find(data_lock()) is None:
        pytest.skip("the runtime data is not built here: `make setup` builds it")


@pytest.fixture
def node() -> None:
    if shutil.which("node") is None:
        pytest.skip("Node is not installed here")


def data_job(code: str) -> Job:
    return Job(code, limits=LIMITS, runtime="data")


@pytest.mark.usefixtures("data")
async def test_data_is_there_and_plots(runtimes: Sandbox) -> None:
    code = """
import sys
assert {"numpy", "pandas", "matplotlib.pyplot"} <= set(sys.modules)
import matplotlib.pyplot as plt
import pandas as pd
table = pd.read_csv("sales.csv")
print(table.groupby("shop").amount.sum().to_dict(), table.amount.to_numpy().mean())
table.plot(x="shop", y="amount")
plt.title("sales")
plt.savefig("plot.png")
plt.savefig("plot.svg")
"""
    job = Job(code, limits=LIMITS, runtime="data", files={"sales.csv": b"shop,amount\na,1\nb,2\na,3\n"})
    result = await runtimes.submit(job)
    assert (result.exit_status, result.stderr) == (0, b"")
    assert result.stdout == b"{'a': 4, 'b': 2} 2.0\n"
    files = {file.name: file.content for file in result.files}
    assert set(files) == {"plot.png", "plot.svg"}
    png = files["plot.png"]
    assert isinstance(png, bytes)
    assert png.startswith(b"\x89PNG")
    assert result.receipt.runtime == "data"
    assert result.receipt.layers == tuple(layer.value for layer in Layer)


@pytest.mark.usefixtures("data")
async def test_threads_compute_in_the_data_runtime(runtimes: Sandbox) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
def work(n): return round(float(np.linalg.det(np.eye(200) * 1.0)), 6) + n
with ThreadPoolExecutor(4) as pool: print(sorted(pool.map(work, range(4))))
"""
    assert (await runtimes.submit(data_job(code))).stdout == b"[1.0, 2.0, 3.0, 4.0]\n"


@pytest.mark.usefixtures("data")
async def test_packages_cannot_be_changed_for_later_jobs(runtimes: Sandbox) -> None:
    code = """
import numpy, os
numpy.mean = None
for path in (numpy.__file__, os.path.dirname(numpy.__file__) + "/evil.py", "/packages/evil.py"):
    try: open(path, "w")
    except OSError as error: print(error.errno in (13, 30))
"""
    assert (await runtimes.submit(data_job(code))).stdout == b"True\nTrue\nTrue\n"
    assert (await runtimes.submit(data_job("import numpy; print(numpy.mean([1, 3]))"))).stdout == b"2.0\n"


@pytest.mark.usefixtures("data")
async def test_limits_and_the_filter_hold_in_the_data_runtime(runtimes: Sandbox) -> None:
    tight = Limits(wall_ms=30_000, memory_bytes=96 << 20)
    job = Job("import numpy; numpy.ones((20_000, 20_000)); print('still here')", limits=tight, runtime="data")
    result = await runtimes.submit(job)
    assert result.exit_status != 0
    assert b"still here" not in result.stdout
    forbidden = await runtimes.submit(data_job("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)"))
    assert forbidden.killed is not None
    assert forbidden.killed.because == Because.FORBIDDEN_CALL


@pytest.mark.usefixtures("data")
async def test_a_session_has_the_data_runtime(runtimes: Sandbox) -> None:
    async with runtimes.session(limits=LIMITS, runtime="data") as session:
        await session.run("import pandas as pd\ntable = pd.DataFrame({'a': [1, 2]})")
        assert (await session.run("int(table.a.sum())")).stdout == b"3\n"


async def test_plain_python_has_none_of_the_packages(runtimes: Sandbox) -> None:
    result = await runtimes.submit(Job("import numpy"))
    assert result.raised is not None
    assert result.raised.kind == "ModuleNotFoundError"
    assert result.receipt.runtime == "plain"


async def test_what_is_not_built_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with Sandbox(Settings(idle_min=0, environments=tmp_path)) as empty:
        with pytest.raises(RuntimeMissing) as raised:
            await empty.submit(Job("pass", runtime="data"))
        assert "holdfast sandbox build data" in raised.value.remedy
        with pytest.raises(RuntimeMissing):
            await empty.submit(Job("pass", packages="0" * 64))
        with pytest.raises(RuntimeMissing):
            await empty.submit(Job("pass", packages="../../etc"))


async def test_a_runtime_that_is_not_ready_in_time_is_refused_and_other_jobs_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = Job("echo fine", language="shell", limits=LIMITS)
    async with Sandbox(Settings(limits=LIMITS, idle_min=0)) as busy:
        with monkeypatch.context() as slow:
            slow.setattr(host, "_UP_S", 0.0)
            with pytest.raises(RuntimeMissing, match="not ready in time"):
                await busy.submit(job)
            assert (await busy.submit(Job("print(1)", limits=LIMITS))).stdout == b"1\n"
            with pytest.raises(SandboxLost, match="not ready in time"):
                await Sandbox(Settings(idle_min=0)).start()
        assert (await busy.submit(job)).stdout == b"fine\n"


async def test_shell_runs_the_usual_tools(runtimes: Sandbox) -> None:
    code = """
sort names.txt | uniq -c | awk '{ print $2, $1 }' > counts.txt
cat counts.txt; echo "$1"; id -u; pwd
exit 3
"""
    files = {"names.txt": b"b\na\nb\n"}
    result = await runtimes.submit(Job(code, language="shell", files=files, arguments=["x y"], limits=LIMITS))
    assert result.stdout == b"a 1\nb 2\nx y\n1000\n/job/work\n"
    assert (result.exit_status, result.killed, result.raised) == (3, None, None)
    assert [file.name for file in result.files] == ["counts.txt"]
    assert result.receipt.runtime == "shell"
    assert result.receipt.layers == tuple(layer.value for layer in Layer)


SHELL_ATTACKS = {
    "a file of the host": "cat /etc/shadow",
    "the host's processes": "ls /proc/1",
    "a listing of the root": "ls /",
    "the root": "echo x > /x",
    "its tools": "echo x > /usr/bin/cat",
    "a device": "dd if=/dev/vda count=1 of=stolen || dd if=/dev/sda count=1 of=stolen",
    "a program that it wrote": "cp /usr/bin/true mine && chmod 755 mine && ./mine",
    "a program through the loader": "cp /usr/bin/true mine && /lib64/ld-linux-x86-64.so.2 ./mine",
    "another root": "chroot /job/work",
    "more files at once": "ulimit -n 100000",
}


@pytest.mark.parametrize("attack", SHELL_ATTACKS)
async def test_a_shell_gets_no_further(runtimes: Sandbox, attack: str) -> None:
    result = await runtimes.submit(
        Job(f"( {SHELL_ATTACKS[attack]} ) && echo achieved", language="shell", limits=LIMITS)
    )
    assert b"achieved" not in result.stdout, result


async def test_a_shells_forbidden_call_is_named(runtimes: Sandbox) -> None:
    result = await runtimes.submit(Job("chroot .", language="shell", limits=LIMITS))
    assert result.killed is not None
    assert (result.killed.because, result.killed.detail) == (Because.FORBIDDEN_CALL, "chroot")


async def test_a_shell_is_limited_as_python_is(runtimes: Sandbox) -> None:
    for code, limits, because in (
        ("while :; do :; done", Limits(wall_ms=300), Because.TIME),
        ("yes", Limits(wall_ms=30_000, output_bytes=10_000), Because.OUTPUT),
    ):
        result = await runtimes.submit(Job(code, language="shell", limits=limits))
        assert result.killed is not None
        assert result.killed.because == because
    bomb = await runtimes.submit(Job("b() { b | b & b; }; b", language="shell", limits=LIMITS))
    assert Because.PIDS in bomb.exhausted or b"Cannot fork" in bomb.stderr, (
        bomb
    )  # by the cgroup, or each process's own limit
    full = await runtimes.submit(Job("cat /dev/zero > fill", language="shell", limits=LIMITS))
    assert full.exit_status != 0
    assert (await runtimes.submit(Job("echo fine", language="shell", limits=LIMITS))).stdout == b"fine\n"


@pytest.mark.usefixtures("node")
async def test_node_runs_and_leaves_files(runtimes: Sandbox) -> None:
    code = """
const fs = require("fs");
const rows = fs.readFileSync("in.json", "utf8");
fs.writeFileSync("out.json", JSON.stringify(JSON.parse(rows).map((n) => n * 2)));
setTimeout(() => console.log("later", process.argv.slice(2)), 5);
"""
    job = Job(code, language="node", files={"in.json": b"[1,2]"}, arguments=["a b"], limits=LIMITS)
    result = await runtimes.submit(job)
    assert (result.exit_status, result.stderr) == (0, b"")
    assert result.stdout == b"later [ 'a b' ]\n"
    assert [file.content for file in result.files] == [b"[2,4]"]
    assert result.receipt.runtime == "node"


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    "attack",
    [
        'require("fs").readFileSync("/etc/shadow")',
        'require("child_process").execFileSync("/bin/sh", ["-c", "true"])',
        'require("fs").copyFileSync("/usr/bin/node", "mine")',
        'require("fs").symlinkSync("/etc/passwd", "out")',
        'new Promise((_, no) => require("net").connect(80, "127.0.0.1").on("error", no))',
        'new Promise((_, no) => require("dgram").createSocket("udp4").on("error", no).send("x", 53, "127.0.0.1"))',
    ],
)
async def test_node_gets_no_further(runtimes: Sandbox, attack: str) -> None:
    code = f"(async () => {{ await ({attack}); console.log('achieved'); }})().catch(() => process.exit(9));"
    result = await runtimes.submit(Job(code, language="node", limits=LIMITS))
    assert b"achieved" not in result.stdout
    assert result.exit_status == 9, result


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("layer", [Layer.SECCOMP, Layer.LANDLOCK, Layer.ROOT, Layer.DESCRIPTORS])
async def test_a_language_without_a_layer_does_not_start(language: Literal["shell", "node"], layer: Layer) -> None:
    if language == "node" and shutil.which("node") is None:
        pytest.skip("Node is not installed here")
    with pytest.raises(LayerMissing) as raised:
        await Sandbox(Settings(idle_min=0), off=frozenset({layer}), within=language).start()
    assert raised.value.layer == layer


async def test_attempts_to_escape_fail_in_the_shells_place_as_well() -> None:
    async with Sandbox(Settings(idle_min=1), within="shell") as shell:
        for attempt in attempts(SUITE, quick=True):
            assert not (await try_attempt(attempt, shell)).escaped, attempt.name


async def test_a_bench_of_a_language_says_what_that_language_is_for(tmp_path: Path) -> None:
    (tmp_path / "any").mkdir()
    text = '"""Starts a shell."""\nimport subprocess\nraise SystemExit(subprocess.run(["/bin/sh", "-c", "exit 42"]).returncode)\n'
    (tmp_path / "any/shell.py").write_text(text)
    report = await measure(suite=str(tmp_path), language="shell")
    assert report.figures["escaped"].value == 1
    assert (await measure(suite=str(tmp_path))).figures["escaped"].value == 0


@pytest.mark.parametrize(
    "job",
    [
        Job("", language="perl"),  # type: ignore[arg-type]  # what is no language
        Job("", runtime="big"),  # type: ignore[arg-type]  # what is no runtime
        Job("", language="shell", runtime="data"),
        Job("", language="node", packages="0" * 64),
        Job("", runtime="data", packages="0" * 64),
        Job("", language="shell", name="../x"),
        Job("", language="shell", arguments=["a\0b"]),
    ],
    ids=str,
)
async def test_what_cannot_be_run_is_refused_before(sandbox: Sandbox, job: Job) -> None:
    with pytest.raises(JobInvalid):
        await sandbox.submit(job)
