"""Several servers under short names: which one a command takes, with which key, and what a broken file says."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli import profile_file
from cli.main import app
from cli.stack.data_folder import write_atomically

from .desk import Desk

KEY = "hf_abcdefgh_" + "x" * 43


def holdfast(*args: str, text: str = "") -> Result:
    return CliRunner().invoke(app, args, input=text, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def put(text: str, mode: int = 0o600) -> Path:
    profile_file.make_folder()
    write_atomically(profile_file.path(), text, mode)
    profile_file.path().chmod(mode)
    return profile_file.path()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    write_atomically(file, KEY)
    return file


def test_profiles_are_added_listed_taken_and_removed(key_file: Path) -> None:
    assert "* local" in " ".join(holdfast("profiles", "list").stdout.split())
    url = "https://staging.example:8443"
    done = holdfast("profiles", "add", "staging", "--url", url, "--key-file", str(key_file))
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(profile_file.path().stat().st_mode) == 0o600
    assert KEY not in profile_file.path().read_text()
    again = holdfast("profiles", "add", "staging", "--url", url)
    assert (again.exit_code, "--replace" in again.stderr) == (1, True)
    assert holdfast("profiles", "use", "staging").exit_code == 0
    assert holdfast("profiles", "use", "nowhere").exit_code == 1
    assert f"* staging {url} {key_file}" in " ".join(holdfast("profiles", "list").stdout.split())
    assert holdfast("profiles", "remove", "staging").exit_code == 0
    assert profile_file.read().current == "local"
    assert holdfast("profiles", "remove", "staging").exit_code == 1


def test_a_persons_own_comments_stay() -> None:
    put('# mine\n[profiles.a]\nurl = "http://a:1" # here\n')
    assert holdfast("profiles", "add", "b", "--url", "http://b:2").exit_code == 0
    text = profile_file.path().read_text()
    assert "# mine" in text
    assert "# here" in text
    assert set(profile_file.read().by_name) == {"a", "b"}


def test_a_key_from_standard_input_is_kept_in_a_file_of_its_own() -> None:
    done = holdfast("profiles", "add", "prod", "--url", "https://p", "--key-file", "-", text=KEY + "\n")
    assert done.exit_code == 0, done.output
    assert KEY not in done.output
    kept = profile_file.read().by_name["prod"].key_file
    assert kept is not None
    assert kept.read_text().strip() == KEY
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert KEY not in profile_file.path().read_text()
    assert holdfast("profiles", "remove", "prod").exit_code == 0
    assert not kept.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["local", "--url", "http://a"], "`local` is the stack on this machine"),
        (["Big Name", "--url", "http://a"], "is no name of a profile"),
        (["a", "--url", "a.example"], "is no address"),
        (["a", "--url", "ftp://a"], "is no address"),
        (["a", "--url", "http://"], "is no address"),
        (["a", "--url", "http://a:port"], "is no address"),
        (["a", "--url", "http://a", "--key-file", "/does/not/exist"], "cannot read the API key"),
    ],
)
def test_what_cannot_be_a_profile_is_refused(arguments: list[str], words: str) -> None:
    done = holdfast("profiles", "add", *arguments)
    assert (done.exit_code, words in done.stderr) == (1, True), done.output
    assert not profile_file.path().exists()


def test_a_key_that_others_can_read_is_refused(key_file: Path) -> None:
    key_file.chmod(0o644)
    done = holdfast("profiles", "add", "a", "--url", "http://a", "--key-file", str(key_file))
    assert (done.exit_code, "chmod" in done.stderr) == (1, True)
    key_file.chmod(0o600)
    assert holdfast("profiles", "add", "a", "--url", "http://a", "--key-file", str(key_file)).exit_code == 0
    key_file.chmod(0o640)
    done = holdfast("runs", "--profile", "a")
    assert (done.exit_code, "can be read by others" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('current = "a"\n[profiles.a\n', 2, "at line 2"),
        ('current = "b"\n[profiles.a]\nurl = "http://a"\n', 1, "no such profile"),
        (
            '[profiles.a]\nurl = "http://a"\n[profiles.b]\nurl = "http://b"\nkey = "hf_secret"\n',
            5,
            "`key` is not known",
        ),
        ('[profiles.a]\nurl = "http://a"\n\n[profiles.b]\nkey_file = "k"\n', 4, "has no `url`"),
        ('[profiles.a]\nurl = "http://a"\n\n[profiles.b]\nurl = "nothing"\n', 5, "is no address"),
        ('[profiles.a]\nurl = "http://a"\nkey_file = 5\n', 3, "`key_file` is no text"),
        ("colour = 1\n", 1, "`colour` is not known"),
        ("profiles = 1\n", 1, "`profiles` is no table"),
        ("[profiles]\na = 1\n", 2, "is no table"),
    ],
)
def test_a_broken_file_is_named_with_its_line(text: str, line: int, words: str) -> None:
    file = put(text)
    for command in (["profiles", "list"], ["runs"], ["profiles", "add", "c", "--url", "http://c"]):
        done = holdfast(*command)
        assert done.exit_code == 1
        assert str(file) in done.stderr
        assert f"line {line}" in done.stderr
        assert words in done.stderr
        assert "hf_secret" not in done.output
    assert file.read_text() == text


def test_a_file_that_others_can_change_is_not_believed() -> None:
    put('[profiles.a]\nurl = "http://a"\n', 0o622)
    done = holdfast("runs", "--profile", "a")
    assert (done.exit_code, "can be changed by others" in done.stderr) == (1, True)


async def test_the_precedence_is_what_the_reference_says(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good = ("--key-file", str(desk.key_file("owner")))
    nowhere = ("--url", "http://127.0.0.1:9")
    for name, arguments in (("good", (desk.stack.urls.api, *good)), ("bad", ("http://127.0.0.1:9", *good))):
        assert (await desk.bare("profiles", "add", name, "--url", *arguments)).exit_code == 0

    async def code(*arguments: str) -> int:
        return (await desk.bare("runs", *arguments)).exit_code

    # the key of the profile, though the environment has another
    monkeypatch.setenv("HOLDFAST_API_KEY", KEY)
    assert await code("--profile", "good") == 0
    assert await code("--profile", "bad") == 3
    # the option before the environment, the environment before the current profile
    assert (await desk.bare("profiles", "use", "bad")).exit_code == 0
    assert await code() == 3
    monkeypatch.setenv("HOLDFAST_PROFILE", "good")
    assert await code() == 0
    assert await code("--profile", "bad") == 3
    assert await code("--url", desk.stack.urls.api) == 8  # with the key of the environment: no profile's goes there
    assert await code("--url", desk.stack.urls.api, *good) == 0
    monkeypatch.setenv("HOLDFAST_URL", "http://127.0.0.1:9")
    assert await code(*good) == 3
    assert await code("--profile", "good") == 0
    assert await code("--data-dir", str(desk.data), *good) == 0
    monkeypatch.delenv("HOLDFAST_URL")
    monkeypatch.setenv("HOLDFAST_PROFILE", "local")
    monkeypatch.setenv("HOLDFAST_DATA_DIR", str(tmp_path))
    assert await code() == 3
    assert await code("--profile", "good", *nowhere) == 2
    assert await code("--profile", "good", "--data-dir", str(desk.data)) == 2
    assert await code("--profile", "nowhere") == 1


async def test_commands_to_be_copied_name_the_same_server(desk: Desk) -> None:
    key = str(desk.key_file("owner"))
    assert (await desk.bare("profiles", "add", "here", "--url", desk.stack.urls.api, "--key-file", key)).exit_code == 0
    run_id = await desk.start(
        {"tool": "payments.refund", "arguments": {"order_id": "P-1", "amount_usd_cents": 1, "reason": "x"}}
    )
    approval = await desk.asked(run_id)
    shown = (await desk.bare("show", run_id, "--profile", "here")).stdout
    assert f"holdfast approve {approval.approval_id} --profile here\n" in shown
    assert (await desk.holdfast("cancel", run_id)).exit_code == 0
