"""One operation as a tool: its parameters and its body as one object of arguments, each with the place it goes to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from holdfast.tools.definition import Place, is_free_header
from holdfast.tools.http_message import escape
from holdfast.tools.openapi_document import Document, Node, Operation, Unsupported
from holdfast.tools.openapi_schema import Schema, SchemaReader

DESCRIPTION_LENGTH_MAX: Final = 4_000

_ARGUMENT_LENGTH_MAX = 64
_JSON = re.compile(r"application/([a-z0-9.-]+\+)?json")
_FILLED_IN = ("accept", "content-type", "authorization")
"""Headers that a document may list, and that by OpenAPI's own words mean nothing there."""
_STYLES: Final[Mapping[str, tuple[str, bool]]] = {
    "path": ("simple", False),
    "query": ("form", True),
    "header": ("simple", False),
}
_SCALARS = frozenset({"string", "integer", "boolean"})
_ORDER = ("path", "query", "header")


@dataclass(slots=True)
class Arguments:
    """The arguments of a tool that is being made.

    Attributes:
        properties: Their schemas.
        required: Those that must be given.
        places: Where each goes.
        content_type: What the body is called.
    """

    properties: dict[str, Schema] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    content_type: str = "application/json"

    @property
    def schema(self) -> Schema:
        """The JSON Schema of all of them."""
        return {"type": "object", "properties": self.properties, "required": self.required}

    def add(self, place: Place, schema: Schema, *, required: bool) -> None:
        """Adds one; if its name is taken already, or is none, another is made, and the description says for what it stands."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", place.name).strip("_")[:_ARGUMENT_LENGTH_MAX] or "argument"
        name = plain
        if name in self.properties:
            name = f"{place.where}_{plain}"[:_ARGUMENT_LENGTH_MAX]
        number = 2
        while name in self.properties:
            name = f"{place.where}_{plain}"[: _ARGUMENT_LENGTH_MAX - 4] + f"_{number}"
            number += 1
        if name != place.name and place.where != "whole-body":
            said = f"`{place.name}` in the {place.where}"
            schema = {**schema, "description": f"{said}: {schema['description']}" if "description" in schema else said}
        self.properties[name] = schema
        self.places[name] = place
        if required:
            self.required.append(name)


def read_arguments(document: Document, operation: Operation, *, idempotency_header: str) -> Arguments:
    """Reads an operation's parameters and body.

    Args:
        document: The document.
        operation: The operation.
        idempotency_header: A header that is filled in, so that it is no argument.

    Raises:
        Unsupported: It cannot be a tool.
    """
    if operation.problem:
        raise Unsupported(operation.problem)
    reader = SchemaReader(document)
    arguments = Arguments()
    for node in sorted(_parameters(document, operation), key=lambda node: _ORDER.index(node["in"])):
        name, where = node["name"], node["in"]
        if where == "header" and name.lower() in (*_FILLED_IN, idempotency_header.lower()):
            continue
        schema = _parameter_schema(reader, node, name, where)
        arguments.add(Place(where=where, name=name), schema, required=where == "path" or node.get("required") is True)
    if "requestBody" in operation.node:
        _read_body(document, reader, operation, arguments)
    return arguments


def _parameters(document: Document, operation: Operation) -> list[Node]:
    own = operation.node.get("parameters")
    found: dict[tuple[str, str], Node] = {}
    for value in [*operation.shared, *(own if isinstance(own, list) else ())]:
        node = document.follow(value, "a parameter")
        name, where = node.get("name"), node.get("in")
        if not isinstance(name, str) or not name or not isinstance(where, str):
            raise Unsupported("a parameter has no name or no place")
        if where not in _ORDER:
            raise Unsupported(f"the parameter `{name}` is in the {where}, which is not supported")
        found[where, name] = node
    return list(found.values())


def _parameter_schema(reader: SchemaReader, node: Node, name: str, where: str) -> Schema:
    style, explode = _STYLES[where]
    if "content" in node or node.get("allowReserved") is True:
        raise Unsupported(f"the parameter `{name}` is written in a way that is not supported")
    if node.get("style", style) != style:
        raise Unsupported(f"the parameter `{name}` has the style {node['style']}, which is not supported")
    if where == "header" and not is_free_header(name):
        raise Unsupported(f"no argument may be sent in the header {name}")
    schema = reader.read(node.get("schema"))
    kinds = schema.get("type", "string" if "enum" in schema else None)
    given = set([kinds] if isinstance(kinds, str) else kinds or ()) - {"null"}
    if given == {"array"} and where == "query":
        if node.get("explode", explode) is not explode:
            raise Unsupported(f"the parameter `{name}` is a list in one text, which is not supported")
        inner = schema.get("items", {}).get("type")
        given = {inner} if isinstance(inner, str) else set()
    if not given or not given <= _SCALARS:
        raise Unsupported(f"the parameter `{name}` is neither text, number nor true or false, which is not supported")
    description = node.get("description")
    if isinstance(description, str) and description.strip():
        more = schema.get("description", "")
        more = f" ({more})" if more.startswith("a decimal number") else ""
        schema = {**schema, "description": description.strip() + more}
    return schema


def _read_body(document: Document, reader: SchemaReader, operation: Operation, arguments: Arguments) -> None:
    body = document.follow(operation.node["requestBody"], "requestBody")
    content = body.get("content")
    kinds = [str(kind) for kind in content] if isinstance(content, Mapping) else []
    plain = {kind.partition(";")[0].strip().lower(): kind for kind in kinds}
    json_kinds = [kind for kind in plain if _JSON.fullmatch(kind)]
    if not json_kinds:
        raise Unsupported(f"its body is {', '.join(kinds) or 'of no type'}; only JSON is supported")
    kind = "application/json" if "application/json" in json_kinds else json_kinds[0]
    if kind != "application/json" and len(kinds) > 1:
        raise Unsupported(f"its body is one of {', '.join(kinds)}, and none of them is application/json")
    if operation.method in ("GET", "HEAD"):
        raise Unsupported(f"{operation.method} with a body is not supported")
    arguments.content_type = kind
    media: Any = content[plain[kind]] if isinstance(content, Mapping) else None  # see Node
    schema = reader.read(document.follow(media, "the body").get("schema", {}))
    numbers = list(reader.numbers)
    required = body.get("required") is True
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        for name, member in schema.get("properties", {}).items():
            inner = tuple("".join(f"/{part}" for part in path[1:]) for path in numbers if path[0] == escape(name))
            arguments.add(
                Place(where="body", name=name, numbers=inner),
                member,
                required=required and name in schema.get("required", ()),
            )
    else:
        inner = tuple("".join(f"/{part}" for part in path) for path in numbers)
        arguments.add(Place(where="whole-body", name="body", numbers=inner), schema, required=required)


def description_of(operation: Operation) -> str:
    """Returns what the document says of an operation."""
    parts = [operation.node.get(key) for key in ("summary", "description")]
    texts = list(dict.fromkeys(part.strip() for part in parts if isinstance(part, str) and part.strip()))
    return "\n".join(texts)[:DESCRIPTION_LENGTH_MAX] or f"{operation.method} {operation.path}"


def path_of(operation: Operation) -> str:
    """Returns an operation's path, percent-encoded; one with a query of its own stays as it is, for the form to refuse."""
    return quote(operation.path, safe="?#/{}:@!$&'()*+,;=-._~%")
