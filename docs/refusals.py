"""What actions are refused for, and how formats bring text to one form: tables from the code and from the tests' corpus."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from holdfast_verdict.actions.codes import CODES
from holdfast_verdict.actions.formats import FORMATS

REFUSAL_HEADINGS: Final[Sequence[str]] = ("code", "such as", "what is so", "what to write")
FORMAT_HEADINGS: Final[Sequence[str]] = ("format", "what becomes of the text")

_CORPUS: Final = Path(__file__).parent.parent / "tests" / "verdict" / "tricks"
_SHOWN_MAX: Final = 44


def refusals() -> Iterator[Sequence[str]]:
    """Yields a row for each code, with the first trick of the corpus that is refused with it."""
    examples = dict(_examples())
    for code, (cause, remedy) in CODES.items():
        yield (f"`{code}`", examples.get(code, "–"), cause, remedy)


def formats() -> Iterator[Sequence[str]]:
    """Yields a row for each way in which text is brought to one form, with the formats that mean it."""
    named: dict[str, list[str]] = {}
    for name, normalise in FORMATS.items():
        words = (inspect.getdoc(normalise) or "Accepts an IP address of that version.").partition("\n")[0]
        named.setdefault(words, []).append(f"`{name}`")
    yield from ((", ".join(names), words) for words, names in named.items())
    yield ("`headers` (of an object)", "Brings the names of headers to lower case and checks their values.")


def _examples() -> Iterator[tuple[str, str]]:
    """Yields code and example; of several examples of one code the last counts, so the corpus is read backwards."""
    for path in sorted(_CORPUS.glob("*.toml"), reverse=True):
        for row in reversed(tomllib.loads(path.read_text(encoding="utf-8"))["trick"]):
            text = row.get("given", row.get("raw", ""))
            if "refused" in row and text and not text.startswith(("REPEAT", "NEST", "SIZE", "MARKS")):
                yield row["refused"], _shown(text)


def _shown(text: str) -> str:
    seen = "".join(each if each.isascii() and each.isprintable() else ascii(each)[1:-1] for each in text)
    cut = seen if len(seen) <= _SHOWN_MAX else seen[:_SHOWN_MAX] + "…"
    return f"`` {cut} ``" if "`" in cut else f"`{cut}`"
