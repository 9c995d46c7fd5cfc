"""What all kinds of tools' files share: how a wrong one is explained, and reading a file beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from holdfast.errors import RequestInvalid

FILE_BYTES_MAX: Final = 4_000_000
# For what people meet most; pydantic's own words are for programmers.
_WORDS: Final = {
    "extra_forbidden": "is not known here",
    "missing": "is missing",
    "string_type": 'is text in quotes: "…"',
}


def explain(error: ValidationError) -> str:
    """Returns what is wrong in a file, each problem with its place."""
    return "; ".join(problems(error))


def problems(error: ValidationError) -> list[str]:
    """Returns each problem with its place."""
    found = []
    for problem in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"])
        message = _WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        found.append(f"{where}: {message}" if where else message)
    return found


def read_beside(folder: Path, name: str, where: str) -> str:
    """Reads a text file that a project's file names.

    Args:
        folder: The folder of the file that names it.
        name: Relative to that folder; it must stay inside the project, also by way of links.
        where: How messages call the place that names it.

    Raises:
        RequestInvalid: It is outside, not there, too large, or no text.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve().parent):
        raise RequestInvalid(f"{where}: {name} is outside the project")
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise RequestInvalid(f"{where}: {name} is over {FILE_BYTES_MAX} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestInvalid(f"{where}: {error}") from None
