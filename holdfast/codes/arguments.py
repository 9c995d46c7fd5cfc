"""Codes with which an action is refused before anything is decided, because its arguments have no canonical form."""

from __future__ import annotations

from typing import Final

from holdfast.codes.entry import Code, Place
from holdfast_verdict.actions.codes import CODES as REFUSALS

CODES: Final = (
    Code(
        "catalogue.invalid",
        (Place.COMMAND,),
        "An entry of a catalogue of actions is not of the documented form, or its schema cannot be taken.",
        "The sentence names the action, the place and what to write instead.",
    ),
    *(Code(code, (Place.DECISION,), cause, remedy) for code, (cause, remedy) in REFUSALS.items()),
)
