"""Typed functions as tools: the JSON Schema of their parameters, and calling them with arguments of that schema.

Imported by the process that runs a tool, too, so it brings along no more than pydantic.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, PydanticSchemaGenerationError, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from holdfast.errors import RequestInvalid

GROUP: Final = "holdfast.tools"
"""Entry points of tools, each by the tool's name."""

_MARKS: Final = "__holdfast_tool__"  # where the client's decorator keeps what it was told
_CALL: Final = "holdfast_tool_call"  # what marks its type of a call

_DEPTH_MAX = 20
_Kind = inspect.Parameter


class _Schema(GenerateJsonSchema):
    """pydantic's, less floats: a Decimal is a string of the format `decimal`."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """See `GenerateJsonSchema`."""
        return {"type": "string", "format": "decimal"}

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        """See `GenerateJsonSchema`."""
        raise PydanticInvalidForJsonSchema("a float has no canonical form; use Decimal, or int in a smaller unit")


@dataclass(frozen=True, slots=True)
class Marks:
    """What a tool's author said of it; see `sdk/tools.py`, whose form this is."""

    name: str
    external: bool
    idempotent: bool
    reversible: bool
    yields: tuple[str, ...]
    credential: str | None
    timeout_ms: int


@dataclass(frozen=True)
class Signature:
    """A function marked as a tool.

    Attributes:
        function: The function.
        marks: What its author said of it.
    """

    function: Callable[..., Any]  # any signature: it is what this class is about
    marks: Marks

    @classmethod
    def of(cls, function: object) -> Signature:
        """Reads a function.

        Raises:
            RequestInvalid: It is no function, or not marked with `@tool`.
        """
        marks = getattr(function, _MARKS, None)
        if not callable(function) or marks is None:
            raise RequestInvalid(
                f"{getattr(function, '__qualname__', function)!r} is no tool", remedy="mark the function with @tool(…)"
            )
        return cls(function, Marks(**{field.name: getattr(marks, field.name) for field in fields(Marks)}))

    @cached_property
    def _hints(self) -> Mapping[str, Any]:  # whatever annotations are
        try:
            return typing.get_type_hints(self.function, include_extras=True)
        except (NameError, TypeError) as error:
            raise RequestInvalid(f"{self.marks.name}: an annotation cannot be resolved: {error}") from None

    @cached_property
    def _all(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.function).parameters.values())

    @property
    def call_type(self) -> type[Any] | None:  # the client's, of whatever version the tool was written with
        """The type of the first parameter if it is that of a call, which is no argument, else None."""
        hint = self._hints.get(self._all[0].name) if self._all else None
        return hint if isinstance(hint, type) and getattr(hint, _CALL, False) else None

    @cached_property
    def model(self) -> type[BaseModel]:
        """The parameters as a form.

        Raises:
            RequestInvalid: A parameter cannot be one of a tool.
        """
        wanted: dict[str, Any] = {}  # pydantic's own form of fields
        for parameter in self._all[0 if self.call_type is None else 1 :]:
            where = f"{self.marks.name}: parameter `{parameter.name}`"
            if parameter.kind in (_Kind.VAR_POSITIONAL, _Kind.VAR_KEYWORD, _Kind.POSITIONAL_ONLY):
                raise RequestInvalid(f"{where} has no name in a call", remedy="give each argument a parameter")
            if parameter.name not in self._hints:
                raise RequestInvalid(f"{where} has no type", remedy="annotate it")
            default = ... if parameter.default is _Kind.empty else parameter.default
            wanted[parameter.name] = (self._hints[parameter.name], default)
        try:
            return create_model("Arguments", __config__=ConfigDict(extra="forbid"), **wanted)
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError, NameError) as error:
            raise RequestInvalid(f"{self.marks.name}: a parameter's type cannot be taken: {_first(error)}") from None

    def schema(self) -> dict[str, Any]:  # JSON Schema
        """Returns the JSON Schema of the parameters.

        Raises:
            RequestInvalid: A type has none that is taken here.
        """
        try:
            schema = self.model.model_json_schema(schema_generator=_Schema)
        except (PydanticInvalidForJsonSchema, PydanticUserError) as error:
            raise RequestInvalid(f"{self.marks.name}: {_first(error)}") from None
        definitions = schema.pop("$defs", {})
        inlined = _inlined(schema, definitions, self.marks.name, 0)
        return {
            "type": "object",
            "properties": inlined.get("properties", {}),
            "required": inlined.get("required", []),
        }

    def read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:  # JSON in, values of the parameters' types out
        """Returns the arguments as values of the parameters' types.

        Raises:
            pydantic.ValidationError: They are none.
        """
        checked = self.model.model_validate(dict(arguments), strict=False)
        return {name: getattr(checked, name) for name in type(checked).model_fields}


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:300]


def _inlined(schema: Any, definitions: Mapping[str, Any], tool: str, depth: int) -> Any:  # JSON Schema
    """Returns the schema with what it refers to in its place, and without the titles that pydantic makes up."""
    if depth > _DEPTH_MAX:
        raise RequestInvalid(f"{tool}: a parameter's type refers to itself, or is nested deeper than {_DEPTH_MAX}")
    if isinstance(schema, list):
        return [_inlined(member, definitions, tool, depth + 1) for member in schema]
    if not isinstance(schema, dict):
        return schema
    if reference := schema.get("$ref"):
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**definitions[str(reference).removeprefix("#/$defs/")], **beside}
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("title", "discriminator") and isinstance(value, str | dict):
            continue
        if key == "properties":
            out[key] = {name: _inlined(member, definitions, tool, depth + 1) for name, member in value.items()}
        elif key in ("default", "const", "enum", "examples"):
            out[key] = value
        else:
            out[key] = _inlined(value, definitions, tool, depth + 1)
    return out
