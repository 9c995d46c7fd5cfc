"""`holdfast-verify FILE`, as an auditor runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest

from holdfast_verdict.verify.command import main
from holdfast_verdict.verify.lines import Line, write
from tests.verify.record_golden import FOLDER
from tests.verify.sealing import TestLog

RUN = FOLDER / "policy-1-run.jsonl"


@pytest.fixture
def altered(golden: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "altered.jsonl"
    file.write_bytes(golden.replace(b"G-1", b"G-9"))
    return file


def test_it_runs_on_a_machine_that_never_saw_a_server() -> None:
    """Without any of our other rooms: what it imports is the pure library alone."""
    code = (
        "import sys; from holdfast_verdict.verify.command import main; code = main(sys.argv[1:]);"
        "ours = {'holdfast', 'api', 'cli', 'sdk', 'workers', 'activities', 'workflows', 'sandbox'};"
        "loaded = {name.split('.')[0] for name in sys.modules} & ours; sys.exit(9 if loaded else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(RUN)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "All of it holds" in done.stdout
    assert "with the consent given for approval" in done.stdout


def test_it_tells_what_is_wrong_and_ends_with_one(altered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(altered)]) == 1
    said = capsys.readouterr().out
    assert "It does NOT hold" in said
    assert re.search(r"^WRONG  decision [0-9a-f-]{36} \(line \d+\): ", said, re.MULTILINE)
    assert "THIS RECORD DOES NOT HOLD" in said or "audit.record" in said


def test_json_says_the_same(altered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(altered), "--json"]) == 1
    report = orjson.loads(capsys.readouterr().out)
    assert report["holds"] is False
    assert {"code", "subject", "wrong", "means", "line"} == report["findings"][0].keys()
    assert main([str(RUN), "--json"]) == 0
    report = orjson.loads(capsys.readouterr().out)
    assert report["holds"] is True
    assert report["key_source"] == "bundle"
    assert report["verdicts"] == {"allow": 10, "needs_approval": 3, "deny": 2}
    assert len(report["story"][0]["told"]) == report["records"]


def test_keys_may_be_given_as_text_and_as_a_file(
    log: TestLog, content: list[Line], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, key, seen = tmp_path / "bundle", tmp_path / "key", tmp_path / "seen"
    bundle.write_bytes(log.bundle(content, since=(3,)))
    key.write_text(f"{log.key.text}\n", encoding="utf-8")
    seen.write_text(log.note(log.before), encoding="utf-8")
    for given in (str(key), log.key.text):
        assert main([str(bundle), "--key", given, "--since", str(seen), "--quiet"]) == 0
        said = capsys.readouterr().out
        assert "The key that you trust has signed" in said
        assert "nothing of its past was changed" in said
    assert main([str(bundle), "--key", TestLog(log.origin, seed=b"x").key.text, "--quiet"]) == 1
    assert "by none of the keys given" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given", [["nowhere.jsonl"], [str(RUN), "--key", "a+b+c"], [str(RUN), "--since", "nowhere"], [str(FOLDER)]]
)
def test_what_cannot_be_looked_at_ends_with_two(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("text", [b"", b"\n", b"{}\n", b"hello", b"\x00" * 100, b"[" * 100_000, b'{"type":"header"}\n'])
def test_what_is_no_bundle_does_not_hold(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(text)
    assert main([str(file)]) == 1


def test_a_later_version_of_the_bundle_is_not_read_as_this_one(
    golden: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = golden.splitlines()
    header = orjson.loads(lines[0])
    file = tmp_path / "file"
    file.write_bytes(b"\n".join([write({**header, "v": 2}), *lines[1:]]) + b"\n")
    assert main([str(file)]) == 1
    assert "version 2" in capsys.readouterr().out


class _Page(HTMLParser):
    """What a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [
            value for name, value in attributes if name in ("src", "href", "action", "background", "srcset", "style")
        ]
        assert not any(name.startswith("on") for name, _ in attributes)


def test_the_page_stands_by_itself_and_shows_markup_as_text(content: list[Line], log: TestLog, tmp_path: Path) -> None:
    record = next(line for line in content if line["type"] == "record")
    record["message"] = '<script>alert("x")</script><img src=http://tracker.example/>'
    bundle, file = tmp_path / "bundle", tmp_path / "page.html"
    bundle.write_bytes(log.bundle(content))
    assert main([str(bundle), "--html", str(file), "--quiet"]) == 0
    text = file.read_text(encoding="utf-8")
    parser = _Page()
    parser.feed(text)
    assert not parser.tags & {"script", "img", "link", "iframe", "object", "form"}
    assert not parser.links
    assert "url(" not in text
    assert "&lt;script&gt;" in text
    assert "This audit bundle holds" in text


def test_terminal_controls_in_a_bundle_do_not_reach_the_terminal(
    content: list[Line], log: TestLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = next(line for line in content if line["type"] == "record")
    record["message"] = "\x1b[2J\x1b]0;all is well\x07\u202eesrever"
    bundle = tmp_path / "bundle"
    bundle.write_bytes(log.bundle(content))
    assert main([str(bundle)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\u202e" not in said
