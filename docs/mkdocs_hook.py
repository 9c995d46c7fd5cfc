"""What the site does besides mkdocs: its order comes from the index page, and its diagrams are pictures drawn before.

Diagrams stand on pages as Mermaid, which code hosts draw by themselves. Drawing them here would load a program from elsewhere, so the
site shows `docs/diagrams/DIGEST.svg` in place of each, where DIGEST names the diagram's text.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

FOLDER: Final = Path(__file__).parent
INDEX: Final = "README.md"
DIAGRAMS: Final = "diagrams"
_SECTION: Final = re.compile(r"^## (.+)$")
_ENTRY: Final = re.compile(r"^(?:-|\d+\.) \[(.+)\]\(([^)#]+\.md)\)")
_DIAGRAM: Final = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OPENING: Final = re.compile(r"^(```[a-z]+) [^`\n]+$", re.MULTILINE)
_TITLE: Final = re.compile(r"^\s*accTitle: *(.+)$", re.MULTILINE)
HOW_TO_DRAW: Final = "`python -m docs.draw` draws it; docs/how-to/write-docs.md says what that needs"
Navigation = list[dict[str, Any]]  # mkdocs' own form: titles with pages or further lists


def navigation() -> Navigation:
    """Returns the site's navigation: the sections and links of the index, and the pages that an index of a folder lists."""
    sections: Navigation = [{"Documentation": INDEX}]
    for line in (FOLDER / INDEX).read_text(encoding="utf-8").splitlines():
        if section := _SECTION.match(line):
            sections.append({section[1]: []})
        elif entry := _ENTRY.match(line):
            title, page = entry.groups()
            (entries,) = sections[-1].values()
            entries.append({title: _listed(page) if posixpath.basename(page) == INDEX else page})
    return sections


def _listed(index: str) -> list[Any]:
    folder = posixpath.dirname(index)
    lines = (FOLDER / index).read_text(encoding="utf-8").splitlines()
    entries = [entry for line in lines if (entry := _ENTRY.match(line))]
    return [index, *({title: f"{folder}/{page}"} for title, page in (entry.groups() for entry in entries))]


def diagram_file(source: str) -> str:
    """Returns the name of a diagram's picture; it changes with the diagram's text."""
    return f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.svg"


def diagrams(markdown: str) -> list[str]:
    """Returns the texts of a page's diagrams."""
    return _DIAGRAM.findall(markdown)


def title_of(source: str) -> str:
    """Returns what a diagram shows, in words: its `accTitle`.

    Raises:
        PluginError: It has none.
    """
    title = _TITLE.search(source)
    if title is None:
        raise PluginError("a diagram needs a line `accTitle: …`, for those who do not see it")
    return title[1]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Gives the site its navigation."""
    config.nav = navigation()
    return config


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:  # Any: what else mkdocs gives to such a function
    """Puts pictures in the places of diagrams."""
    up = "../" * page.file.src_uri.count("/")

    def picture(block: re.Match[str]) -> str:
        title, name = title_of(block[1]), diagram_file(block[1])
        if not (FOLDER / DIAGRAMS / name).is_file():
            raise PluginError(f"{page.file.src_uri}: a diagram has no picture docs/{DIAGRAMS}/{name}; {HOW_TO_DRAW}")
        return f"![{title}]({up}{DIAGRAMS}/{name})"

    # what stands behind a block's language speaks to the tests, and would keep the block from being one
    return _OPENING.sub(r"\1", _DIAGRAM.sub(picture, markdown))
