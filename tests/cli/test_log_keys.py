"""`holdfast log rotate-key`: a new key beside the old, the end of the overlap, and a key that is lost."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from holdfast.errors import ConfigurationInvalid
from holdfast.transparency.keys import FileKeys, KeyLines, new_key, public_of


def rotate(path: Path, *options: str, code: int = 0) -> dict[str, list[str]]:
    done = CliRunner().invoke(app, ["log", "rotate-key", "--file", str(path), "--json", *options])
    assert done.exit_code == code, done.output
    found: dict[str, list[str]] = json.loads(done.stdout) if code == 0 else {}
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "log.key"
    path.write_text(new_key() + "\n")
    path.chmod(0o600)
    return path


def test_the_new_key_signs_beside_the_old_one_until_the_overlap_ends(file: Path) -> None:
    old = public_of(file.read_text().strip())
    source = FileKeys(file)
    assert [signer.public_key.hex() for signer in source.read().signers] == [old]
    both = rotate(file)
    new, _ = both["sign"]
    assert (both["sign"], both["retired"]) == ([new, old], [])
    assert [signer.public_key.hex() for signer in source.read().signers] == [new, old], "read again without a restart"
    done = rotate(file, "--finish")
    assert (done["sign"], done["retired"]) == ([new], [old])
    assert {key.hex() for key in source.read().retired} == {old}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    rotate(file, "--finish", code=1)


def test_a_key_that_others_know_signs_no_more_at_once(file: Path) -> None:
    old = public_of(file.read_text().strip())
    done = rotate(file, "--retire", old)
    assert done["retired"] == [old]
    assert done["sign"] != [old]


def test_a_lost_key_is_replaced(tmp_path: Path) -> None:
    lost = public_of(new_key())
    done = rotate(tmp_path / "log.key", "--retire", lost)
    assert done["retired"] == [lost]
    assert len(done["sign"]) == 1


@pytest.mark.parametrize("options", [("--finish", "--retire", "0" * 64), ("--retire", "no key")])
def test_what_makes_no_sense_changes_nothing(file: Path, options: tuple[str, ...]) -> None:
    before = file.read_text()
    rotate(file, *options, code=1)
    assert file.read_text() == before


def test_a_file_with_too_many_keys_or_none_is_refused() -> None:
    for text in ("", "x", "\n".join(new_key() for _ in range(5)), "0" * 64 + "\n" + "0" * 64):
        with pytest.raises(ConfigurationInvalid):
            KeyLines.parse(text, "here")
    key = new_key()
    with pytest.raises(ConfigurationInvalid, match="signs and is retired"):
        KeyLines.parse(f"{key}\nretired {public_of(key)}", "here")
