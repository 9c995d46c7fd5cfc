"""Makes the files of a new agent or tool from the starters that are shipped; what is there is never overwritten."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from holdfast.errors import Conflict, RequestInvalid
from holdfast.policies.tables import name_text
from holdfast.tools.versions import check_name

_AGENT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_COMMENT: Final = re.compile(r"^# next: (.+)$", re.MULTILINE)


def agent(folder: Path, name: str, starter: str) -> dict[str, object]:
    """Makes an agent with its role, and the tools that its starter has.

    Raises:
        RequestInvalid: The name cannot be one.
        Conflict: A file is there already; nothing was written.
    """
    if _AGENT_NAME.fullmatch(name) is None:
        raise RequestInvalid(f"{name!r} is no name of an agent", remedy="use lower-case letters, digits and -")
    return _make(folder, f"agent-{starter}", {"NAME": name, "ROLE": name_text(name)})


def tool(folder: Path, name: str, source: str) -> dict[str, object]:
    """Makes a tool.

    Raises:
        RequestInvalid: The name cannot be one.
        Conflict: A file is there already; nothing was written.
    """
    check_name(name)
    words = {
        "NAME": name,
        "NOUN": name.partition(".")[0],
        "VERB": name.rpartition(".")[2],
        "SNAKE": name.replace(".", "_"),
        "DASHED": name.replace(".", "-").replace("_", "-"),
    }
    return _make(folder, f"tool-{source}", words)


def lines(made: Mapping[str, object]) -> list[str]:
    """Returns what was made, and what to do next, for people."""
    files, following = made["files"], made["next"]
    assert isinstance(files, list)
    assert isinstance(following, list)
    return [
        f"made in {made['folder']}:",
        *(f"  {name}" for name in files),
        "next:",
        *(f"  {step}" for step in following),
    ]


def _make(folder: Path, starter: str, words: Mapping[str, str]) -> dict[str, object]:
    folder = folder.expanduser().absolute()
    root = resources.files("cli.project") / "starters" / starter
    contents = {_filled(path, words): _filled(text, words) for path, text in _templates(root).items()}
    following = _COMMENT.findall(contents.pop("NEXT", ""))
    if there := [path for path in contents if (folder / path).exists()]:
        raise Conflict(f"{folder / there[0]} is there already; nothing was written", remedy="choose another name")
    for path, text in contents.items():
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise RequestInvalid(f"cannot write {target}: {error.strerror}") from None
    return {"folder": str(folder), "files": sorted(contents), "next": following}


def _templates(root: Traversable, below: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in root.iterdir():
        path = f"{below}{entry.name}"
        if entry.is_dir():
            found |= _templates(entry, f"{path}/")
        else:
            found[path.removesuffix(".template")] = entry.read_text(encoding="utf-8")
    return found


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"__{word}__", value)
    return text
