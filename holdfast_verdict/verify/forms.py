"""Forms of values in a bundle: what a value has to be, and how canonical JSON writes it.

Each form is said twice: as a question about a value that was read, and as a regular expression of the bytes that write it. The
expression may match less than the form allows (text without escapes, numbers that are not huge), and never more. So a line that an
expression matches as a whole has its form *and* is canonical; one that it does not match is looked at value by value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
_HEX32: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_AMOUNT: Final = re.compile(r"0|-?[1-9][0-9]{0,18}").fullmatch

_NEVER: Final = "(?!)"


class Form(NamedTuple):
    """A form.

    Attributes:
        holds: Says whether a value that was read has it.
        written: Matches bytes that write such a value canonically.
    """

    holds: Callable[[object], bool]
    written: str


def or_null(form: Form) -> Form:
    """Returns the form of what may also be null."""
    holds = form.holds
    return Form(lambda value: value is None or holds(value), f"(?:null|{form.written})")


def list_of(form: Form) -> Form:
    """Returns the form of a list of such values."""
    holds = form.holds
    written = rf"\[(?:{form.written}(?:,{form.written})*+)?+\]"
    return Form(lambda value: type(value) is list and all(holds(member) for member in value), written)


def members(**forms: Form) -> Form:
    """Returns the form of an object with exactly these members."""
    written = ",".join(f'"{name}":{form.written}' for name, form in sorted(forms.items()))
    return Form(
        lambda value: (
            type(value) is dict
            and value.keys() == forms.keys()
            and all(form.holds(value[name]) for name, form in forms.items())
        ),
        rf"\{{{written}\}}",
    )


def constant(text: str) -> Form:
    """Returns the form of one text."""
    return Form(lambda value: value == text, re.escape(f'"{text}"'))


TEXT: Final = Form(lambda value: type(value) is str, r'"[ !#-\[\]-~]*+"')
LONG_TEXT: Final = Form(TEXT.holds, _NEVER)
"""Text that is JSON itself, and so full of escapes."""
NUMBER: Final = Form(lambda value: type(value) is int, "(?:0|-?[1-9][0-9]{0,14}+)")
COUNT: Final = Form(lambda value: type(value) is int and value >= 0, "(?:0|[1-9][0-9]{0,14}+)")
FLAG: Final = Form(lambda value: type(value) is bool, "(?:true|false)")
UUID: Final = Form(
    lambda value: type(value) is str and _UUID(value) is not None, '"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"'
)
HASH: Final = Form(lambda value: type(value) is str and _HEX32(value) is not None, '"[0-9a-f]{64}"')
AMOUNT: Final = Form(lambda value: type(value) is str and _AMOUNT(value) is not None, '"(?:0|-?[1-9][0-9]{0,18}+)"')
ANYTHING: Final = Form(lambda _: True, _NEVER)


def matcher(form: Form) -> Callable[[bytes], object] | None:
    """Returns what matches bytes that write a form canonically; None if there is no expression of it."""
    return None if _NEVER in form.written else re.compile(form.written.encode()).fullmatch
