"""Values: a copy of what was given, in plain types, that nobody can change while it is decided."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from itertools import islice
from typing import Final, Union

from holdfast_verdict.actions.numbers import exact_number
from holdfast_verdict.actions.paths import may_step_upwards
from holdfast_verdict.actions.refused import ActionRefused, FormRefused, Place, shown, words_of
from holdfast_verdict.actions.texts import normal_text, without_invisible

Plain = Union[None, bool, int, str, Decimal, list["Plain"], dict[str, "Plain"]]  # noqa: UP007 (quoted names cannot be parts of a `|`)
"""JSON with whole numbers as `int` and fractions as `Decimal`."""

ARGUMENTS_BYTES_MAX: Final = 65_536
DEPTH_MAX: Final = 60


def _whole_steps(text: str) -> str:
    """Accepts a text unless readers that drop tabs, line ends and what cannot be seen find a step upwards that is hidden so.

    The readers of URLs do: a tab between two dots leaves a step. Text with spaces is no path or URL.

    Raises:
        FormRefused: There is such a step.
    """
    seen = without_invisible(text)
    if seen == text or any(map(str.isspace, seen)) or may_step_upwards(text) or not may_step_upwards(seen):
        return text
    raise FormRefused("text.invisible", "hides a step upwards (..) behind what readers drop", "leave it out")


def copy_of(value: object, place: Place) -> Plain:
    """Returns a copy of a value with its numbers and texts in their one form.

    Raises:
        ActionRefused: It is not JSON, or over a bound.
    """
    return _Copy().of(value, place, 0)


class _Copy:
    """One copy; counts what it has taken, so that no value costs more than the largest that is allowed."""

    def __init__(self) -> None:
        self._left = ARGUMENTS_BYTES_MAX

    def of(self, value: object, place: Place, depth: int) -> Plain:
        if depth > DEPTH_MAX:
            raise ActionRefused(
                "json.depth", words_of(place), f"is nested deeper than {DEPTH_MAX}", "send flatter arguments"
            )
        self._take(1, place)
        if value is None or isinstance(value, bool):
            return value
        try:
            if isinstance(value, str):
                self._take(len(value), place)
                return _whole_steps(normal_text(str.__str__(value)))
            if isinstance(value, int):
                return exact_number(int.__add__(value, 0))
            if isinstance(value, float | Decimal):
                return exact_number(value)
        except FormRefused as refused:
            raise ActionRefused(refused.code, words_of(place), refused.message, refused.remedy) from None
        if isinstance(value, list | tuple):
            return [self.of(member, (place, index), depth + 1) for index, member in enumerate(value)]
        if isinstance(value, Mapping):
            return {
                self._key(key, place): self.of(member, (place, str(key)), depth + 1)
                for key, member in self._items(value, place)
            }
        raise ActionRefused(
            "json.type", words_of(place), f"is a {type(value).__name__}, which JSON does not have", "send plain JSON"
        )

    def _take(self, size: int, place: Place) -> None:
        self._left -= size
        if self._left < 0:
            raise ActionRefused(
                "json.size", words_of(place), f"the arguments are over {ARGUMENTS_BYTES_MAX} bytes", "send less"
            )

    def _items(self, value: Mapping[object, object], place: Place) -> list[tuple[object, object]]:
        try:
            return list(islice(value.items(), self._left + 1))
        except Exception as error:  # noqa: BLE001 (a caller's own mapping may raise anything, and this must not)
            raise ActionRefused(
                "json.type", words_of(place), f"cannot be read: {type(error).__name__}", "send plain JSON"
            ) from None

    def _key(self, key: object, place: Place) -> str:
        if not isinstance(key, str):
            raise ActionRefused(
                "json.key_name", words_of(place), f"has a key that is a {type(key).__name__}", "write keys as text"
            )
        key = str.__str__(key)
        self._take(len(key), place)
        if refusal := refusal_of_key(key):
            raise ActionRefused(
                "json.key_name", words_of(place), f"has the key {shown(key)}, which {refusal}", "rename it"
            )
        return key


def refusal_of_key(key: str) -> str:
    """Says why nothing can be called so in canonical arguments, or nothing if it can."""
    if not key.isascii() or not key.isprintable():
        return "is not printable ASCII"
    return "starts with $ as Holdfast's own do" if key.startswith("$") else ""
