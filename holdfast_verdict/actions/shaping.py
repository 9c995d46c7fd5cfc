"""Arguments brought to their one form along a closed schema: formats, defaults, the branches of unions, nothing unknown."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, cast

from jsonschema_rs import Draft202012Validator, ValidationError, ValidationErrorKind

from holdfast_verdict.actions.formats import FORMATS
from holdfast_verdict.actions.headers import HEADERS, normalise_headers
from holdfast_verdict.actions.numbers import plain_text
from holdfast_verdict.actions.refused import ActionRefused, FormRefused, Place, shown, words_of
from holdfast_verdict.actions.schemas import FORM, types_of, validator
from holdfast_verdict.actions.values import DEPTH_MAX, Plain, copy_of

_MESSAGE_LENGTH_MAX: Final = 200


class Shape:
    """A closed schema, ready to bring arguments to their form."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self._definitions: Mapping[str, Any] = schema["$defs"]
        self._validator = validator(schema)
        self._branches: dict[int, Draft202012Validator] = {}

    def of(self, arguments: Plain) -> dict[str, Plain]:
        """Returns arguments in their one form.

        Raises:
            ActionRefused: They are not what the schema describes.
        """
        shaped = _Walk(self).shaped(self.schema, arguments, (None, "args"))
        try:
            self._validator.validate(shaped)
        except ValidationError as error:
            raise _explained(error) from None
        return cast("dict[str, Plain]", shaped)

    def resolved(self, schema: Any) -> Any:
        """Returns what a closed schema refers to."""
        while isinstance(schema, dict) and "$ref" in schema:
            schema = self._definitions[schema["$ref"].rpartition("/")[2]]
        return schema

    def fits(self, branch: Any, value: Plain) -> bool:
        """Says whether a value is what one branch of a union describes."""
        if isinstance(branch, bool):
            return branch
        check = self._branches.get(id(branch))
        if check is None:
            check = self._branches[id(branch)] = validator({**branch, "$defs": self._definitions})
        return bool(check.is_valid(value))


class _Walk:
    """One way through arguments; what a branch made of a value is kept, so that no union is tried twice on it."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._filling = 0
        # the value is kept beside what was made of it, so that no other gets its id
        self._tried: dict[tuple[int, int], tuple[Plain, Plain | ActionRefused]] = {}

    def shaped(self, schema: Any, value: Plain, place: Place) -> Plain:
        schema = self._shape.resolved(schema)
        if not isinstance(schema, dict):
            return value
        for word in ("anyOf", "oneOf"):
            branches = schema.get(word)
            if branches and any(isinstance(branch, dict) and _gives_form(branch) for branch in branches):
                value = self._chosen(branches, value, place)
        if isinstance(value, dict):
            return self._object(schema, value, place)
        if isinstance(value, list):
            first = schema.get("prefixItems", ())
            rest = schema.get("items", True)
            return [
                self.shaped(first[index] if index < len(first) else rest, member, (place, index))
                for index, member in enumerate(value)
            ]
        return _scalar(schema, value, place)

    def _object(self, schema: Mapping[str, Any], value: dict[str, Plain], place: Place) -> Plain:
        named = schema.get("properties", {})
        rest = schema.get("additionalProperties", True)
        if schema.get(FORM) == HEADERS:
            value = _headers(value, place)
        shaped: dict[str, Plain] = {}
        for name, member in value.items():
            if name not in named and rest is False:
                known = _cut(", ".join(named) or "nothing")
                raise ActionRefused(
                    "schema.unknown_field", words_of(place), f"{shown(name)} is not known here", f"it takes: {known}"
                )
            shaped[name] = self.shaped(named.get(name, rest), member, (place, name))
        for name, inner in named.items():
            if name not in shaped and isinstance(inner, dict) and "default" in inner:
                shaped[name] = self._default(inner, (place, name))
        return shaped

    def _default(self, schema: Mapping[str, Any], place: Place) -> Plain:
        if self._filling > DEPTH_MAX:
            raise ActionRefused("json.depth", words_of(place), "has a default that holds itself", "give it")
        self._filling += 1
        try:
            return self.shaped(schema, copy_of(schema["default"], place), place)
        finally:
            self._filling -= 1

    def _chosen(self, branches: list[Any], value: Plain, place: Place) -> Plain:
        """Returns what the first branch makes of a value that describes it; the value itself if none does."""
        possible = [each for each in branches if self._is_of_type(each, _kind_of(value))]
        if len(possible) > 1 and isinstance(value, dict):
            possible = [each for each in possible if self._names_fit(each, value)]
        if len(possible) == 1:
            return self._tried_on(possible[0], value, place)
        refusals = []
        for branch in possible:
            try:
                made = self._tried_on(branch, value, place)
            except ActionRefused as refused:
                refusals.append(refused)
                continue
            if self._shape.fits(branch, made):
                return made
        if refusals:
            raise refusals[0]
        return value

    def _tried_on(self, branch: Any, value: Plain, place: Place) -> Plain:
        if not isinstance(value, dict | list):
            return self.shaped(branch, value, place)
        key = (id(branch), id(value))
        if key not in self._tried:
            try:
                self._tried[key] = (value, self.shaped(branch, value, place))
            except ActionRefused as refused:
                self._tried[key] = (value, refused)
        made = self._tried[key][1]
        if isinstance(made, ActionRefused):
            raise made
        return made

    def _is_of_type(self, branch: Any, kind: str) -> bool:
        branch = self._shape.resolved(branch)
        return kind in types_of(branch) if isinstance(branch, dict) else bool(branch)

    def _names_fit(self, branch: Any, value: dict[str, Plain]) -> bool:
        """Says whether an object has the fields of a branch, and what is constant in it: a look that costs little."""
        branch = self._shape.resolved(branch)
        if not isinstance(branch, dict):
            return bool(branch)
        named = branch.get("properties", {})
        if branch.get("additionalProperties", True) is False and not value.keys() <= named.keys():
            return False
        for name in value.keys() & named.keys():
            known = self._shape.resolved(named[name])
            if isinstance(known, dict) and "const" in known and value[name] != known["const"]:
                return False
        return True


def _gives_form(branch: Mapping[str, Any]) -> bool:
    return any(
        word in branch for word in ("$ref", "type", "properties", "items", "anyOf", "oneOf", "enum", "const", FORM)
    )


def _kind_of(value: Plain) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | Decimal):
        return "integer" if isinstance(value, int) else "number"
    return "array" if isinstance(value, list) else "object"


def _scalar(schema: Mapping[str, Any], value: Plain, place: Place) -> Plain:
    form = schema.get(FORM)
    if form == "decimal" and isinstance(value, int | Decimal) and not isinstance(value, bool):
        if "number" in types_of(schema):
            return value
        value = plain_text(Decimal(value))
    if isinstance(value, Decimal) and "number" not in types_of(schema) and "integer" in types_of(schema):
        raise ActionRefused(
            "number.fraction",
            words_of(place),
            f"{plain_text(value)} is not a whole number",
            "write one without a fraction",
        )
    bring = FORMATS.get(form or "")
    if bring is None or not isinstance(value, str):
        return value
    try:
        return bring(value)
    except FormRefused as refused:
        raise ActionRefused(refused.code, words_of(place), refused.message, refused.remedy) from None


def _headers(value: dict[str, Plain], place: Place) -> dict[str, Plain]:
    try:
        return normalise_headers(value)
    except FormRefused as refused:
        raise ActionRefused(refused.code, words_of(place), refused.message, refused.remedy) from None


def _cut(message: str) -> str:
    """Returns a message without what cannot be seen, and without more than can be read."""
    seen = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in message[:_MESSAGE_LENGTH_MAX])
    return seen if len(message) <= _MESSAGE_LENGTH_MAX else seen + " …"


def _explained(error: ValidationError) -> ActionRefused:
    place: Place = (None, "args")
    for part in error.instance_path:
        place = (place, part)
    where, message = words_of(place), _cut(error.message)
    if isinstance(error.kind, ValidationErrorKind.Required):
        return ActionRefused("schema.missing_field", where, message, "give it")
    return ActionRefused("schema.mismatch", where, message, "correct the arguments and call again")
