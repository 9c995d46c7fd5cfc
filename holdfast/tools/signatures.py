"""Typed functions as tools: the JSON Schema of their parameters, and calling them with arguments of that schema.

Imported by the process that runs a tool, too, so it brings along no more than pydantic.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, PydanticSchemaGenerationError, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from holdfast.errors import RequestInvalid

GROUP: Final = "holdfast.tools"
"""Entry points of tools, each by the tool's name."""

_MARKS: Final = "__holdfast_tool__"  # where the client's decorator keeps what it was told
_CALL: Final = "holdfast_tool_call"  # what marks its type of a call

_DEPTH_MAX = 20
_NO_TYPE = (
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticInvalidForJsonSchema,
    PydanticUserError,
    NameError,
)
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
        try:
            return _form(self._wanted)
        except _NO_TYPE as error:
            raise self._refusal(error) from None

    @cached_property
    def _arguments(self) -> list[inspect.Parameter]:
        return self._all[0 if self.call_type is None else 1 :]

    @cached_property
    def _wanted(self) -> dict[str, Any]:  # pydantic's own form of fields, by the parameters' names
        wanted: dict[str, Any] = {}
        for parameter in self._arguments:
            where = f"{self.marks.name}: parameter `{parameter.name}`"
            if parameter.kind in (_Kind.VAR_POSITIONAL, _Kind.VAR_KEYWORD, _Kind.POSITIONAL_ONLY):
                raise RequestInvalid(f"{where} has no name in a call", remedy="give each argument a parameter")
            if parameter.name not in self._hints:
                raise RequestInvalid(f"{where} has no type", remedy="annotate it")
            default = ... if parameter.default is _Kind.empty else parameter.default
            wanted[parameter.name] = (self._hints[parameter.name], default)
        return wanted

    def schema(self) -> dict[str, Any]:  # JSON Schema
        """Returns the JSON Schema of the parameters.

        Raises:
            RequestInvalid: A type has none that is taken here.
        """
        try:
            schema = self.model.model_json_schema(schema_generator=_Schema)
        except _NO_TYPE as error:
            raise self._refusal(error) from None
        definitions = schema.pop("$defs", {})
        inlined = {
            name: _inlined(member, definitions, f"{self.marks.name}: parameter `{name}`", 0)
            for name, member in schema.get("properties", {}).items()
        }
        return {"type": "object", "properties": inlined, "required": schema.get("required", [])}

    def _refusal(self, error: Exception) -> RequestInvalid:
        """Returns the error that names the parameter; they are tried one by one."""
        for name, field in self._wanted.items():
            try:
                _form({name: field}).model_json_schema(schema_generator=_Schema)
            except _NO_TYPE as own:
                return RequestInvalid(f"{self.marks.name}: parameter `{name}`: its type cannot be taken: {_first(own)}")
        return RequestInvalid(f"{self.marks.name}: a parameter's type cannot be taken: {_first(error)}")

    def read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:  # JSON in, values of the parameters' types out
        """Returns the arguments as values of the parameters' types.

        Raises:
            pydantic.ValidationError: They are none.
        """
        checked = self.model.model_validate(dict(arguments), strict=False)
        return {
            name: getattr(checked, field) for name, field in zip(self._wanted, type(checked).model_fields, strict=True)
        }


def _form(wanted: Mapping[str, Any]) -> type[BaseModel]:  # pydantic's own form of fields
    # fields are numbered, for a parameter may be called like something that every model has, such as `json`
    fields: dict[str, Any] = {
        f"argument_{number}": (Annotated[hint, Field(alias=name)], default)
        for number, (name, (hint, default)) in enumerate(wanted.items())
    }
    return create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)


def _first(error: Exception) -> str:
    """Returns an error's first sentence; the others are for programmers of pydantic's own types."""
    return str(error).splitlines()[0].partition(". ")[0][:300]


def _inlined(schema: Any, definitions: Mapping[str, Any], where: str, depth: int) -> Any:  # JSON Schema
    """Returns the schema with what it refers to in its place, and without the titles that pydantic makes up."""
    if depth > _DEPTH_MAX:
        raise RequestInvalid(f"{where}: its type refers to itself, or is nested deeper than {_DEPTH_MAX}")
    if isinstance(schema, list):
        return [_inlined(member, definitions, where, depth + 1) for member in schema]
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
            out[key] = {name: _inlined(member, definitions, where, depth + 1) for name, member in value.items()}
        elif key in ("default", "const", "enum", "examples"):
            out[key] = value
        else:
            out[key] = _inlined(value, definitions, where, depth + 1)
    if "properties" in out:
        out.setdefault("additionalProperties", False)  # LAW 7: nothing that is not described, at any depth
    return out
