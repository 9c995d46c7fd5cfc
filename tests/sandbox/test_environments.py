"""Packages for jobs: by a lock with digests, from wheels alone, whole or not at all, and never more than is allowed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sandbox.environments import Environments, check_lock, data_lock, digest_of
from sandbox.errors import EnvironmentFailed, LockInvalid
from sandbox.frames import Request
from sandbox.job import Job
from sandbox.service import Sandbox, Settings
from tests.sandbox.installed import require

ROOT = Path(__file__).resolve().parents[2]
Wheel = Callable[..., str]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of an index: what is built here is what these tests have made."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    return folder


@pytest.fixture
def wheel(index: Path) -> Wheel:
    """Makes a wheel of one module; returns its line of a lock."""

    def make(name: str, code: str, *, bulk: int = 0, more: Mapping[str, bytes] | None = None) -> str:
        files = {
            **(more or {}),
            f"{name}.py": code.encode() + b"\n#" + b"x" * bulk,
            f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
            f"{name}-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        digests = {
            path: base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
            for path, body in files.items()
        }
        record = "".join(f"{path},sha256={digests[path]},{len(body)}\n" for path, body in files.items())
        path = index / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for inner, body in files.items():
                archive.writestr(inner, body)
            archive.writestr(f"{name}-1.0.dist-info/RECORD", record + f"{name}-1.0.dist-info/RECORD,,\n")
        return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"

    return make


async def test_a_job_imports_the_packages_of_its_lock_and_no_others(tmp_path: Path, wheel: Wheel) -> None:
    environments = Environments(tmp_path / "kept")
    one = environments.build(wheel("greeter", "def greet(): return 'hello'"))
    other = environments.build(wheel("counter", "import os\nUID = os.getuid()"))
    async with Sandbox(Settings(idle_min=1, environments=tmp_path / "kept")) as sandbox:
        code = "import greeter; print(greeter.greet(), greeter.__file__)"
        result = await sandbox.submit(Job(code, packages=one.digest))
        assert result.stdout == b"hello /packages/greeter.py\n"
        assert result.receipt.runtime == f"packages-{one.digest[:16]}"
        # a package is imported in the job, behind every layer, and not in what jobs fork from
        assert (
            await sandbox.submit(Job("import counter; print(counter.UID)", packages=other.digest))
        ).stdout == b"1000\n"
        wrong = await sandbox.submit(Job("import counter", packages=one.digest))
        assert wrong.raised is not None
        assert wrong.raised.kind == "ModuleNotFoundError"
        changed = await sandbox.submit(Job("import greeter; open(greeter.__file__, 'w')", packages=one.digest))
        assert changed.raised is not None
        assert changed.raised.kind in ("PermissionError", "OSError")


FOREIGN = "def tool(*_, **__): return 'of the package'"


@pytest.mark.parametrize("backend", ["native", "bubblewrap"])
async def test_a_job_with_packages_asks_its_run_and_no_package_answers_instead(
    tmp_path: Path, wheel: Wheel, backend: str
) -> None:
    require(backend)
    lock = wheel("greeter", "import holdfast_guest\ndef greet(): return holdfast_guest.tool('greet')")
    built = Environments(tmp_path / "kept").build(lock)
    assert built.digest == digest_of(lock)
    # what no build lets through lies there all the same, and in the job's own folder, too
    (built.folder / "site/holdfast_guest.py").write_text(FOREIGN)
    code = """
import sys
import greeter, holdfast_guest
from holdfast_guest import tool
print(greeter.greet(), tool("a"), holdfast_guest.__file__)
print([path for path in sys.path if path == "/packages"])
"""
    files = {"holdfast_guest.py": FOREIGN.encode()}

    async def act(request: Request) -> str:
        return f"the run answers {request.name}"

    async with Sandbox(
        Settings(idle_min=0, environments=tmp_path / "kept", backend=backend, allow_old=True)
    ) as sandbox:
        result = await sandbox.submit(Job(code, packages=built.digest, files=files), act=act)
    assert result.stdout.decode().splitlines() == [
        "the run answers greet the run answers a /holdfast/holdfast_guest.py",
        "['/packages']",
    ], result.stderr


@pytest.mark.parametrize("name", ["holdfast_guest", "innocent"])
def test_a_package_with_a_module_by_the_guests_name_is_refused_and_nothing_is_left(
    tmp_path: Path, wheel: Wheel, name: str
) -> None:
    environments = Environments(tmp_path / "kept")
    more = {} if name == "holdfast_guest" else {"holdfast_guest/__init__.py": FOREIGN.encode()}
    with pytest.raises(EnvironmentFailed, match="holdfast_guest"):
        environments.build(wheel(name, FOREIGN, more=more))
    assert environments.list() == []
    assert not list((tmp_path / "kept").glob(".building-*"))


async def test_more_environments_than_are_kept_open_all_work(tmp_path: Path, wheel: Wheel) -> None:
    environments = Environments(tmp_path / "kept")
    made = [environments.build(wheel(f"module{number}", f"NUMBER = {number}")) for number in range(6)]
    async with Sandbox(Settings(idle_min=0, environments=tmp_path / "kept")) as sandbox:
        for number in (*range(6), 0):
            job = Job(f"import module{number} as m; print(m.NUMBER)", packages=made[number].digest)
            assert (await sandbox.submit(job)).stdout == f"{number}\n".encode()


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    "lock",
    [
        "",
        "numpy\n",
        "numpy>=1 --hash=sha256:" + "0" * 64,
        "numpy==1.0\n",
        "numpy==1.0 --hash=md5:" + "0" * 32,
        "-r other.txt\n",
        "--index-url https://example.com\n",
        "-e .\n",
        "./folder --hash=sha256:" + "0" * 64,
        "numpy @ https://example.com/numpy.whl --hash=sha256:" + "0" * 64,
        "numpy==1.0 --hash=sha256:" + "0" * 64 + " --no-binary=:all:",
        "numpy==1.0 ; sys_platform == 'x' @ https://example.com --hash=sha256:" + "0" * 64,
        "".join(f"a{number}==1 --hash=sha256:{'0' * 64}\n" for number in range(201)),
    ],
)
def test_what_is_no_lock_is_refused_before_anything_is_fetched(tmp_path: Path, lock: str) -> None:
    with pytest.raises(LockInvalid):
        Environments(tmp_path / "kept").build(lock, uv="/nonexistent")
    assert not (tmp_path / "kept").exists()


def test_the_lock_of_the_data_runtime_is_one() -> None:
    assert check_lock(data_lock()) >= 3


def test_another_file_than_the_locks_is_refused_and_nothing_is_left(tmp_path: Path, wheel: Wheel) -> None:
    line = wheel("greeter", "1")
    wheel("greeter", "2")
    environments = Environments(tmp_path / "kept")
    with pytest.raises(EnvironmentFailed, match=r"(?i)hash"):
        environments.build(line)
    assert environments.list() == []
    assert not list((tmp_path / "kept").glob(".building-*"))


def test_a_source_distribution_is_refused_and_its_setup_is_not_run(tmp_path: Path, index: Path) -> None:
    import tarfile

    source, ran = tmp_path / "evil-1.0", tmp_path / "ran"
    source.mkdir()
    # a build that needs nothing from an index, so that only the refusal keeps it from running
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]\n'
    )
    (source / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    with tarfile.open(index / "evil-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, "evil-1.0")
    digest = hashlib.sha256((index / "evil-1.0.tar.gz").read_bytes()).hexdigest()
    with pytest.raises(EnvironmentFailed):
        Environments(tmp_path / "kept").build(f"evil==1.0 --hash=sha256:{digest}\n")
    assert not ran.exists()


def test_one_that_is_too_large_is_refused_and_nothing_is_left(tmp_path: Path, wheel: Wheel) -> None:
    environments = Environments(tmp_path / "kept", bytes_max=1_000_000)
    with pytest.raises(EnvironmentFailed, match="1000000 bytes"):
        environments.build(wheel("bulky", "1", bulk=3_000_000))
    assert environments.list() == []
    assert not list((tmp_path / "kept").glob(".building-*"))


BUILD = """
import sys
from pathlib import Path
from sandbox.environments import Environments
print(Environments(Path(sys.argv[1])).build(open(sys.argv[2]).read(), on_step=lambda said: print(said, flush=True)).digest)
"""


def _builder(kept: Path, lock: Path, uv: Path | None = None) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    if uv is not None:
        environment["PATH"] = f"{uv}:{environment['PATH']}"
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(kept), str(lock)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_builds_of_one_lock_make_one_environment(tmp_path: Path, wheel: Wheel) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(wheel("greeter", "1"))
    previous = os.umask(0o077)  # whoever builds may keep what it makes to itself; jobs have other accounts
    builders = [_builder(tmp_path / "kept", lock) for _ in range(3)]
    os.umask(previous)
    said = [builder.communicate(timeout=120)[0].splitlines() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    assert sum(len(lines) - 1 for lines in said) == 1  # one built, the others waited and found it
    [built] = Environments(tmp_path / "kept").list()
    for path in (built.folder.parent, built.folder, *built.folder.rglob("*"), *built.folder.parent.glob(".*.lock")):
        assert path.stat().st_mode & (0o055 if path.is_dir() else 0o044) == (0o055 if path.is_dir() else 0o044), path


def test_a_build_that_is_killed_leaves_nothing_that_jobs_could_use(tmp_path: Path, wheel: Wheel) -> None:
    lock, slow = tmp_path / "lock.txt", tmp_path / "slow"
    lock.write_text(wheel("greeter", "1"))
    slow.mkdir()
    # half of it is there when it is killed
    (slow / "uv").write_text(
        "#!/bin/sh\nmkdir -p site && echo $$ > pid && echo broken > site/greeter.py && exec sleep 600\n"
    )
    (slow / "uv").chmod(0o755)
    builder = _builder(tmp_path / "kept", lock, slow)
    assert builder.stdout is not None
    assert "1 package" in builder.stdout.readline()
    while not (half := list((tmp_path / "kept").glob(".building-*/site/greeter.py"))):
        assert builder.poll() is None
    os.kill(builder.pid, signal.SIGKILL)
    builder.wait()
    builder.stdout.close()
    os.kill(int((half[0].parents[1] / "pid").read_text()), signal.SIGKILL)
    environments = Environments(tmp_path / "kept")
    assert environments.list() == []
    assert environments.find(lock.read_text()) is None
    environments.build(lock.read_text())
    site = environments.find(lock.read_text())
    assert site is not None
    assert "broken" not in (site / "greeter.py").read_text()
    assert not list((tmp_path / "kept").glob(".building-*"))


async def test_those_not_used_for_longest_go_first_and_none_that_is_in_use(tmp_path: Path, wheel: Wheel) -> None:
    environments = Environments(tmp_path / "kept", kept_max=2)
    first = environments.build(wheel("one", "1"))
    async with Sandbox(Settings(idle_min=0, environments=tmp_path / "kept")) as sandbox:
        await sandbox.submit(Job("import one", packages=first.digest))
        second = environments.build(wheel("two", "1"))
        third = environments.build(wheel("three", "1"))
        os.utime(first.folder / "about.json", (0, 0))
        fourth = environments.build(wheel("four", "1"))
        assert {each.digest for each in environments.list()} == {first.digest, fourth.digest}
        assert {second.digest, third.digest}.isdisjoint(each.digest for each in environments.list())
        assert not environments.remove(first.digest)
        assert (await sandbox.submit(Job("import one; print(1)", packages=first.digest))).stdout == b"1\n"
    assert environments.remove(first.digest)


def test_the_index_credentials_of_this_process_are_not_given_to_more_than_uv(tmp_path: Path, wheel: Wheel) -> None:
    """What uv is given of the environment are its own settings, no other secret."""
    seen, fake = tmp_path / "seen", tmp_path / "uv"
    fake.write_text(f"#!/bin/sh\nenv > {seen}\nexit 1\n")
    fake.chmod(0o755)
    os.environ["HOLDFAST_TEST_SECRET"] = "not for uv"
    try:
        with pytest.raises(EnvironmentFailed):
            Environments(tmp_path / "kept").build(wheel("greeter", "1"), uv=str(fake))
    finally:
        del os.environ["HOLDFAST_TEST_SECRET"]
    assert "UV_OFFLINE=1" in seen.read_text()
    assert "not for uv" not in seen.read_text()


def test_the_command_builds_lists_and_removes(tmp_path: Path, wheel: Wheel) -> None:
    from typer.testing import CliRunner

    from cli.main import app

    lock = tmp_path / "lock.txt"
    lock.write_text(wheel("greeter", "1"))
    runner, folder = CliRunner(), ["--folder", str(tmp_path / "kept")]
    empty = runner.invoke(app, ["sandbox", "list", *folder])
    assert "none is built" in empty.stdout
    built = runner.invoke(app, ["sandbox", "build", str(lock), "--json", *folder])
    assert built.exit_code == 0, built.output
    digest = digest_of(lock.read_text())
    [listed] = json.loads(runner.invoke(app, ["sandbox", "list", "--json", *folder]).stdout)
    assert listed["lock"] == digest
    assert runner.invoke(app, ["sandbox", "remove", digest, *folder]).stdout == f"removed {digest}\n"
    gone = runner.invoke(app, ["sandbox", "remove", digest, *folder])
    assert gone.exit_code == 1
    assert "resource.not_found" in gone.stderr
    wrong = runner.invoke(app, ["sandbox", "build", str(tmp_path / "nothing"), *folder])
    assert wrong.exit_code == 1
    assert "cannot read" in wrong.stderr


async def test_builds_do_not_stop_jobs(tmp_path: Path, wheel: Wheel) -> None:
    async with Sandbox(Settings(idle_min=0, environments=tmp_path / "kept")) as sandbox:
        environments = Environments(tmp_path / "kept")
        building = asyncio.create_task(asyncio.to_thread(environments.build, wheel("greeter", "1")))
        assert (await sandbox.submit(Job("print(1)"))).stdout == b"1\n"
        await building
