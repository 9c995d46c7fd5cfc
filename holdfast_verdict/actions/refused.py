"""What is said when an action has no canonical form, or a catalogue cannot be taken."""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = "action.unknown"
MALFORMED: Final = "action.malformed"
_SHOWN_MAX: Final = 80
_PLACE_LENGTH_MAX: Final = 200


class FormRefused(ValueError):
    """A text is not of its format, or two readers could read it differently.

    Attributes:
        code: Stable code.
        message: What is wrong.
        remedy: What to write instead.
    """

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}")
        self.code = code
        self.message = message
        self.remedy = remedy


class ActionRefused(ValueError):
    """An action has no canonical form, so nothing was decided and nothing may be executed.

    Attributes:
        code: Stable code of what is wrong; `holdfast_verdict.actions.codes.CODES` says what each means.
        path: Where, such as `args.to[1]`.
        message: What is wrong, in words that a model can act on.
        remedy: What to write instead.
    """

    def __init__(self, code: str, path: str, message: str, remedy: str) -> None:
        super().__init__(f"{path}: {message}; {remedy}")
        self.code = code
        self.path = path
        self.message = message
        self.remedy = remedy

    @property
    def verdict_code(self) -> str:
        """The code of the deny that this refusal is."""
        return UNKNOWN if self.code == UNKNOWN else MALFORMED


class CatalogueInvalid(ValueError):
    """A catalogue's entry cannot be taken.

    Attributes:
        code: Always `catalogue.invalid`.
        action: Name of the action type.
        path: Where in its entry, such as `parameters.properties.to`.
        message: What is wrong.
        remedy: What to write instead, or empty.
    """

    code: Final = "catalogue.invalid"

    def __init__(self, action: str, path: str, message: str, remedy: str = "") -> None:
        where = f"{action}: {path}" if path else action
        super().__init__(f"{where}: {message}; {remedy}" if remedy else f"{where}: {message}")
        self.action = action
        self.path = path
        self.message = message
        self.remedy = remedy


Place = tuple["Place | None", str | int]
"""Where a value stands: the place it stands in, and its name or number there. Put into words only when it is said."""


def words_of(place: Place) -> str:
    """Returns a place as messages name it, such as `args.to[1]`."""
    words: list[str] = []
    rest: Place | None = place
    while rest is not None:
        rest, word = rest
        words.append(f"[{word}]" if isinstance(word, int) else f".{word}")
    text = "".join(reversed(words)).removeprefix(".")
    return text if len(text) <= _PLACE_LENGTH_MAX else text[:_PLACE_LENGTH_MAX] + "…"


def shown(text: str) -> str:
    """Returns a text as messages quote it: escaped, and cut where it is long."""
    return ascii(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…")
