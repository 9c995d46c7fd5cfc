"""Tools from an OpenAPI document: reads which operations a project's file lists, and brings each to a definition."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.errors import RequestInvalid
from holdfast.tools.definition import READING, OpenapiBinding, ToolForm
from holdfast.tools.files import explain, read_beside
from holdfast.tools.openapi_document import Document, Operation, Unsupported, parse_document
from holdfast.tools.openapi_operation import description_of, path_of, read_arguments
from holdfast.tools.personal import marked
from holdfast.tools.versions import check_name

ALL_SAFE: Final = "all-safe"
_SHOWN_MAX = 40


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OperationFile(_File):
    """What a file says of an operation. What it leaves out is taken from the document, or is the careful choice."""

    name: str | None = Field(default=None, description="the tool's name; default: prefix and the operation's name")
    description: str | None = Field(default=None, description="what the model is told; default: the document's")
    external: bool | None = Field(
        default=None, description="its effect leaves the tenant's boundary; default: no for GET and HEAD, else yes"
    )
    idempotent: bool | None = Field(
        default=None,
        description="may be tried again; default: yes for GET and HEAD and with an `idempotency_header`, else no",
    )
    reversible: bool | None = Field(
        default=None, description="its effect can be taken back; default: yes for GET and HEAD, else no"
    )
    yields: list[str] = Field(default=["untrusted"], description="labels of what it returns")
    idempotency_header: str = Field(
        default="", description="header in which the service takes an idempotency key and answers the same again"
    )
    timeout_ms: int = Field(default=20_000, description="then a call is given up")


class OpenapiFile(_File):
    """A file of operations."""

    source: Literal["openapi"] = Field(description="`openapi`")
    document: str = Field(description="the document, JSON or YAML, beside this file")
    credential: str = Field(description="vault entry with the service's address and secret")
    prefix: str = Field(pattern=r"^[a-z][a-z0-9_.]{0,40}$", description="first word of the tools' names")
    operations: dict[str, OperationFile] = Field(
        default={},
        description='operations by `operationId`, or by a name such as `get_orders_by_id`; or `"all-safe"`: every GET and HEAD',
    )


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file brings.

    Attributes:
        forms: The tools by name.
        left_out: Operations that `all-safe` would have taken and that cannot be tools, with the reason.
    """

    forms: Mapping[str, ToolForm]
    left_out: Mapping[str, str]


def forms(document: Mapping[str, object], folder: Path) -> dict[str, ToolForm]:
    """Returns the tools that a file describes; see `read`."""
    return dict(read(document, folder).forms)


def read(document: Mapping[str, object], folder: Path) -> Imported:
    """Reads a file and its OpenAPI document.

    Args:
        document: The parsed file.
        folder: Where it lies; its document is looked for there.

    Raises:
        RequestInvalid: The file is wrong, or an operation that it lists cannot be a tool; all such are named.
    """
    every = document.get("operations") == ALL_SAFE
    try:
        file = OpenapiFile.model_validate({**document, "operations": {}} if every else document)
    except ValidationError as error:
        raise RequestInvalid(explain(error)) from None
    source = parse_document(read_beside(folder, file.document, "document"), f"document: {file.document}")
    there = source.operations()
    if every:
        wanted = {name: OperationFile() for name, operation in there.items() if operation.method in READING}
    else:
        wanted = dict(file.operations)
    if not wanted:
        raise RequestInvalid(
            f"operations: lists none; {_listed(there.values())}",
            remedy=f'list those that shall be tools, or write operations = "{ALL_SAFE}" for all that only read',
        )
    made: dict[str, ToolForm] = {}
    problems: dict[str, str] = {}
    for name, options in wanted.items():
        try:
            tool = _name(name, options.name or f"{file.prefix}.{snake_case(name)}", there, made)
            made[tool] = _form(source, there[name], file, options)
        except ValidationError as error:
            problems[name] = explain(error)
        except (Unsupported, RequestInvalid) as error:
            problems[name] = str(error)
    if problems and not (every and made):
        raise RequestInvalid("; ".join(f"operations.{name}: {problem}" for name, problem in problems.items()))
    return Imported(made, problems)


def _name(operation: str, tool: str, there: Mapping[str, Operation], made: Mapping[str, ToolForm]) -> str:
    if operation not in there:
        raise Unsupported(f"the document has no such operation; {_listed(there.values())}")
    check_name(tool)
    if tool in made:
        raise Unsupported(f"another operation is called {tool} already; give it a name")
    return tool


def _form(source: Document, operation: Operation, file: OpenapiFile, options: OperationFile) -> ToolForm:
    arguments = read_arguments(source, operation, idempotency_header=options.idempotency_header)
    reads = operation.method in READING
    return ToolForm(
        description=options.description or description_of(operation),
        parameters=marked(arguments.schema),
        external=not reads if options.external is None else options.external,
        idempotent=(reads or options.idempotency_header != "") if options.idempotent is None else options.idempotent,
        reversible=reads if options.reversible is None else options.reversible,
        yields=tuple(options.yields),
        credential=file.credential,
        timeout_ms=options.timeout_ms,
        binding=OpenapiBinding.model_validate(
            {
                "source": "openapi",
                "method": operation.method,
                "path": path_of(operation),
                "places": arguments.places,
                "idempotency_header": options.idempotency_header,
                "content_type": arguments.content_type,
            }
        ),
    )


def _listed(operations: Iterable[Operation]) -> str:
    """Returns which operations there are, in words."""
    shown = [f"{one.name} ({one.method} {one.path})" for one in operations if one.method]
    if not shown:
        return "it has no operations"
    more = f" and {len(shown) - _SHOWN_MAX} more" if len(shown) > _SHOWN_MAX else ""
    return f"it has {', '.join(shown[:_SHOWN_MAX])}{more}"


def snake_case(name: str) -> str:
    """Returns an operation's name as a word of a tool's name: `get_customer` for `getCustomer`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
