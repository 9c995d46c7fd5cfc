"""Tutorials are done from their first to their last block, on a fresh stack; and a page that is wrong is noticed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from .pages import PAGES, ROOT
from .tutorial import MARK, Reader, StepFailed, expected, missing

TUTORIALS: Final = [page for page in PAGES if MARK in page.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder whose path is short, for sockets lie in it, and which every account may enter."""
    folder = Path(tempfile.mkdtemp(prefix="hf-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(page: Path, home: Path) -> None:
    with Reader(home) as reader:
        reader.follow(page)
        print(f"{page.name}: {sum(reader.took_s.values()):.0f} s without reading")
    assert not list((home / "tmp").iterdir()), "something was left behind"


def test_every_tutorial_is_tried() -> None:
    left = set((ROOT / "docs" / "tutorial").glob("*.md")) - set(TUTORIALS)
    assert not left, f"put {MARK} under the heading of {', '.join(page.name for page in left)}"


def followed(folder: Path, text: str) -> Reader:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    (folder / "reader").mkdir()
    with Reader(folder / "reader") as reader:
        reader.follow(page)
    return reader


def test_variables_files_and_the_folder_stay_for_the_next_block(tmp_path: Path) -> None:
    reader = followed(
        tmp_path,
        "```toml file=mine/a.toml\nanswer = 42\n```\n\n"
        "```bash\ncd mine\nNAME=world\n```\n\n"
        "```bash\ncat a.toml\necho hello $NAME 17\n```\n\n```text\nanswer = 41\nhello … 99\n```\n",
    )
    assert (reader.folder / "mine" / "a.toml").read_text(encoding="utf-8") == "answer = 42\n"


def test_an_id_is_taken_from_what_was_printed(tmp_path: Path) -> None:
    followed(
        tmp_path,
        "```bash capture=RUN\necho run 0199f3a0-0000-7000-8000-00000000000a is there\n```\n\n"
        '```bash\n[ "$RUN" = 0199f3a0-0000-7000-8000-00000000000a ]\n```\n',
    )


def test_what_was_printed_in_the_background_can_be_exported(tmp_path: Path) -> None:
    followed(
        tmp_path,
        "```bash background until=ready\necho '  export MINE=7'; read line; echo $line; echo ready; sleep 100\n```\n\n"
        "```bash as-printed\nexport MINE=1\n```\n\n```bash\necho it is $MINE.\n```\n\n```text\nit is 5.\n```\n",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```bash\nfalse\necho not reached\n```\n", "ended with 1"),
        ("```bash\nholdfast explain budget.nothing\n```\n", "ended with 1"),
        ("```bash\necho one\n```\n\n```text\ntwo\n```\n", "two"),
        ("```bash\necho one; echo two\n```\n\n```text\ntwo\none\n```\n", "one"),
        ("```bash\necho $UNKNOWN_VARIABLE\n```\n", "ended with 1"),
        ("```bash capture=RUN\necho nothing\n```\n", "no id"),
        ("```bash as-printed\nexport A=1\n```\n", "export"),
        ("```bash background\necho one\n```\n\n```text\ntwo\n```\n", "ended"),
        ("```text file=../../outside\nx\n```\n", "outside"),
        ("```bash\nuv pip install x\n```\n", "cannot do"),
    ],
)
def test_a_page_that_is_wrong_is_noticed(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=said):
        followed(tmp_path, text)


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        ("held $0.01, spent", "12 s held $0.0142325, spent it", True),
        ("run 0199 is running", "run 01a0 is  running", True),
        ("run 0199 is running", "run 01a0 is waiting", False),
        ("“I will … at it”", "“I will look closely at it”", True),
        ("a … z", "a z", True),
    ],
)
def test_what_may_differ_and_what_may_not(shown: str, printed: str, fits: bool) -> None:
    assert len(expected(shown)) == 1
    assert (missing(shown, printed) == "") == fits
