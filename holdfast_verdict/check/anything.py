"""Stands for a catalogue where there is none: every call is an action, with its arguments as they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from holdfast_verdict.actions.action import TOOL_KIND, CanonicalAction
from holdfast_verdict.actions.json_text import parse_json
from holdfast_verdict.actions.kinds import KINDS
from holdfast_verdict.actions.refused import ActionRefused, FormRefused
from holdfast_verdict.actions.values import Plain, copy_of


class Anything:
    """Takes every action, external, with any arguments."""

    def action(self, name: str, arguments: Mapping[str, object] | str | bytes, /) -> CanonicalAction:
        """Returns an action in its canonical form.

        Raises:
            ActionRefused: The arguments are no JSON object.
        """
        read: object = arguments
        if isinstance(arguments, str | bytes):
            try:
                read = parse_json(arguments)
            except FormRefused as refused:
                raise ActionRefused(refused.code, "args", refused.message, refused.remedy) from None
        copied = copy_of(read, (None, "args"))
        if not isinstance(copied, dict):
            raise ActionRefused("json.type", "args", "are not an object", 'send {"name": value, …}')
        kind = name if name in KINDS else TOOL_KIND
        return CanonicalAction.of(
            name, kind, cast("Mapping[str, Plain]", copied), external=True, yields={}, parameters={}
        )


ANYTHING: Final = Anything()
