"""Where Temporal's program is looked for, in which order, and what is said when it is nowhere. All with real programs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.stack.errors import PartMissing
from cli.stack.temporal_program import CLI_VERSION, MODULE, SERVER_VERSION, TemporalProgram
from tests.stack.places import lives, until

Made = Callable[..., TemporalProgram]


def write_program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def temporal(path: Path, version: str = SERVER_VERSION) -> Path:
    return write_program(path, f'echo "temporal version 9.9.9 (Server {version}, UI 1.0.0)"')


def go(folder: Path, version: str = SERVER_VERSION) -> None:
    """A `go` that installs a program which says it has that version, and notes how it was called."""
    write_program(
        folder / "go",
        f"""echo "$CGO_ENABLED $GOTOOLCHAIN $*" >> {folder}/calls
printf '#!/bin/sh\\necho "temporal version 0.0.0-DEV (Server {version}, UI 1)"\\n' > "$GOBIN/temporal"
chmod +x "$GOBIN/temporal" """,
    )


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    # a proxy that refuses stands for a machine without internet
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    def make(lines: list[str] | None = None, **environ: str) -> TemporalProgram:
        say = lines.append if lines is not None else lambda _: None
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        return TemporalProgram(environ={"PATH": path, **environ}, cache=tmp_path / "cache", say=say)

    return make


async def test_the_given_program_comes_first(tmp_path: Path, search: Made) -> None:
    given = temporal(tmp_path / "given")
    temporal(search().cached)
    assert await search(HOLDFAST_TEMPORAL=str(given)).find() == given


async def test_a_given_program_of_another_version_is_used_and_told(tmp_path: Path, search: Made) -> None:
    lines: list[str] = []
    given = temporal(tmp_path / "given", "1.30.0")
    assert await search(lines, HOLDFAST_TEMPORAL=str(given)).find() == given
    assert lines == [f"{given} has Temporal server 1.30.0; Holdfast is tested with {SERVER_VERSION}"]


@pytest.mark.parametrize("script", [None, "echo something else", "exit 1"])
async def test_a_given_program_that_is_none_is_an_error(tmp_path: Path, search: Made, script: str | None) -> None:
    temporal(search().cached)
    given = tmp_path / "given"
    if script is not None:
        write_program(given, script)
    with pytest.raises(PartMissing, match=f"HOLDFAST_TEMPORAL names {given}, which is not a Temporal program"):
        await search(HOLDFAST_TEMPORAL=str(given)).find()


async def test_then_the_cache(tmp_path: Path, search: Made) -> None:
    go(tmp_path / "bin")
    temporal(search().cached)
    assert await search().find() == search().cached
    assert not (tmp_path / "bin" / "calls").exists()


async def test_then_a_build_that_is_kept(tmp_path: Path, search: Made) -> None:
    go(tmp_path / "bin")
    temporal(search().cached, "1.0.0")  # left by another version of Holdfast
    lines: list[str] = []
    assert await search(lines).find() == search().cached
    assert (tmp_path / "bin" / "calls").read_text() == f"0 local install -trimpath -ldflags -s -w {MODULE}\n"
    assert "takes about five minutes" in lines[0]
    assert await search().find() == search().cached
    assert len((tmp_path / "bin" / "calls").read_text().splitlines()) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


async def test_two_searches_at_once_build_once(tmp_path: Path, search: Made) -> None:
    go(tmp_path / "bin")
    found = await asyncio.gather(search().find(), asyncio.to_thread(lambda: asyncio.run(search().find())))
    assert set(found) == {search().cached}
    assert len((tmp_path / "bin" / "calls").read_text().splitlines()) == 1


async def test_a_build_of_another_version_is_not_kept(tmp_path: Path, search: Made) -> None:
    go(tmp_path / "bin", "1.30.0")
    with pytest.raises(PartMissing, match=f"gave Temporal server 1.30.0, not {SERVER_VERSION}"):
        await search().find()
    assert not search().cached.exists()


async def test_a_build_that_fails_shows_its_last_line(tmp_path: Path, search: Made) -> None:
    write_program(tmp_path / "bin" / "go", "echo downloading; echo no such host >&2; exit 1")
    with pytest.raises(PartMissing, match=r"failed \(no such host\)"):
        await search().find()


async def test_a_build_ends_with_the_search(tmp_path: Path, search: Made) -> None:
    write_program(
        tmp_path / "bin" / "go", f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 600"
    )
    searching = asyncio.create_task(search().find())
    await until((tmp_path / "pid").exists)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    assert not lives(int((tmp_path / "pid").read_text()))


async def test_when_it_is_nowhere_it_says_what_to_do(search: Made) -> None:
    with pytest.raises(PartMissing) as caught:
        await search(PATH="/nonexistent").find()
    assert caught.value.message == (
        f"Temporal's program (CLI {CLI_VERSION}) is not here: temporal.download cannot be reached; Go is not installed"
    )
    for word in ("HOLDFAST_TEMPORAL", "internet", "Go", str(search().cached)):
        assert word in caught.value.remedy
