"""Tools from typed Python functions: finds installed ones by their entry points, and brings each to a definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, Self

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from holdfast.errors import RequestInvalid
from holdfast.tools.definition import PythonBinding, ToolForm
from holdfast.tools.files import explain
from holdfast.tools.personal import marked
from holdfast.tools.signatures import GROUP, Signature


class PythonFile(BaseModel):
    """A file that names tools of installed packages."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    source: Literal["python"] = Field(description="`python`")
    names: list[str] = Field(default=[], description="tools by name")
    distribution: str | None = Field(default=None, description="all tools of this package, in place of names")

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if bool(self.names) == (self.distribution is not None):
            raise ValueError("give either names or distribution")
        return self


def forms(document: Mapping[str, object], folder: Path) -> dict[str, ToolForm]:
    """Returns the tools that a file names, as they are installed here.

    Raises:
        RequestInvalid: The file is wrong, or a tool is not installed or cannot be one.
    """
    try:
        file = PythonFile.model_validate(document)
    except ValidationError as error:
        raise RequestInvalid(explain(error)) from None
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if file.distribution is not None:
        found = {
            name: point
            for name, point in installed.items()
            if point.dist is not None and point.dist.name == file.distribution
        }
        if not found:
            raise RequestInvalid(
                f"distribution: {file.distribution} is not installed here, or has no tools",
                remedy=f"install it, and give it entry points in the group {GROUP}",
            )
        return {name: _installed(point) for name, point in found.items()}
    if missing := [name for name in file.names if name not in installed]:
        raise RequestInvalid(
            f"names: no installed package has the tool {missing[0]!r}",
            remedy=f"install its package; tools that are here: {', '.join(sorted(installed)) or 'none'}",
        )
    return {name: _installed(installed[name]) for name in file.names}


def _installed(point: EntryPoint) -> ToolForm:
    try:
        function = point.load()
    except Exception as error:  # noqa: BLE001 (it is somebody's module: whatever it raises is said)
        raise RequestInvalid(
            f"{point.name}: {point.value} cannot be imported: {type(error).__name__}: {error}"
        ) from None
    form = form_of(function, point.value)
    if (called := Signature.of(function).marks.name) != point.name:
        raise RequestInvalid(f"{point.name}: the function says that it is called {called}")
    return form


def form_of(function: Callable[..., Any], value: str | None = None) -> ToolForm:
    """Makes the definition of a tool from its function's marks, types and docstring.

    Args:
        function: The function, marked with `@tool`.
        value: Its entry point's `module:function`; default: where it is defined.

    Raises:
        RequestInvalid: It cannot be a tool.
    """
    signature = Signature.of(function)
    marks = signature.marks
    said = docstring_parser.parse(function.__doc__ or "")
    parameters = signature.schema()
    _describe(parameters["properties"], said)
    try:
        return ToolForm(
            description=said.description or "",
            parameters=marked(parameters),
            external=marks.external,
            idempotent=marks.idempotent,
            reversible=marks.reversible,
            yields=marks.yields,
            credential=marks.credential,
            timeout_ms=marks.timeout_ms,
            binding=PythonBinding(source="python", function=value or f"{function.__module__}:{function.__qualname__}"),
        )
    except ValidationError as error:
        raise RequestInvalid(f"{marks.name}: {explain(error)}") from None


def _describe(properties: dict[str, Any], said: docstring_parser.Docstring) -> None:
    for parameter in said.params:
        schema = properties.get(parameter.arg_name)
        if schema is not None and parameter.description:
            schema.setdefault("description", parameter.description)
