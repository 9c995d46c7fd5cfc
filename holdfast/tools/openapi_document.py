"""OpenAPI documents: read from JSON or YAML, references within them followed, operations by name."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import yaml

from holdfast.errors import RequestInvalid

METHODS: Final = ("get", "head", "post", "put", "patch", "delete")

_VERSION = re.compile(r"3\.([01])\.\d+")
_REFERENCES_MAX = 32

Node = Mapping[str, Any]  # JSON of any shape: whoever reads a member looks at what it is


class Unsupported(ValueError):
    """An operation cannot be a tool; the message says why."""


# libyaml's is fast and bounds how deep a document is nested; where PyYAML was built without it, its own is as strict
_SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc, valid-type]  # which of two classes is known when it runs
    """YAML as JSON would be read (1.2's core schema): `on` and `2026-01-31` are texts, and no key stands twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - the base class's own name

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Reads a mapping, and refuses a key that stands twice."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, count in keys.items() if count > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands twice", node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^({_pattern})$"), list(_first))


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation, not yet looked at.

    Attributes:
        name: Its `operationId`, or what `made_name` makes of method and path.
        method: In capitals.
        path: Template of its path.
        node: What the document says of it.
        shared: Parameters of all operations on its path.
        problem: Why it cannot be told from another, or empty.
    """

    name: str
    method: str
    path: str
    node: Node
    shared: tuple[Any, ...]  # see Node
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A document.

    Attributes:
        root: All of it.
        is_3_0: Its schemas are those of OpenAPI 3.0, with `nullable`.
    """

    root: Node
    is_3_0: bool

    def follow(self, value: object, what: str) -> Node:
        """Returns an object of the document, behind its reference if it is one.

        Raises:
            Unsupported: It is none, or its reference leads nowhere, outside, or to itself.
        """
        seen: list[str] = []
        while isinstance(value, Mapping) and isinstance(value.get("$ref"), str):
            reference: str = value["$ref"]
            if reference in seen or len(seen) > _REFERENCES_MAX:
                raise Unsupported(f"{reference} refers to itself")
            seen.append(reference)
            value = self.find(reference)
        if not isinstance(value, Mapping):
            raise Unsupported(f"{what} is no object")
        return value

    def find(self, reference: str) -> object:
        """Returns what a reference names.

        Raises:
            Unsupported: It is not in this document.
        """
        if not reference.startswith("#/"):
            raise Unsupported(f"{reference!r} is outside of this document; bring all of it into one file")
        value: object = self.root
        for part in reference[2:].split("/"):
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(value, Mapping) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                raise Unsupported(f"{reference} leads nowhere")
        return value

    def operations(self) -> dict[str, Operation]:
        """Returns all operations by name, in the document's order."""
        found = list(self._each())
        counts = Counter(operation.name for operation in found)
        by_name: dict[str, Operation] = {}
        for one in found:
            if counts[one.name] > 1:
                problem = "several operations have this name; give each an operationId of its own"
                by_name[one.name] = Operation(one.name, one.method, one.path, one.node, one.shared, problem)
            else:
                by_name[one.name] = one
        return by_name

    def _each(self) -> Iterator[Operation]:
        paths = self.root.get("paths")
        for path, value in paths.items() if isinstance(paths, Mapping) else ():
            try:
                item = self.follow(value, f"paths.{path}")
            except Unsupported as error:
                yield Operation(str(path), "", str(path), {}, (), str(error))
                continue
            shared = item.get("parameters")
            for method in METHODS:
                node = item.get(method)
                if isinstance(node, Mapping):
                    name = node.get("operationId")
                    yield Operation(
                        name=name if isinstance(name, str) and name else made_name(method, str(path)),
                        method=method.upper(),
                        path=str(path),
                        node=node,
                        shared=tuple(shared) if isinstance(shared, list) else (),
                    )


def made_name(method: str, path: str) -> str:
    """Returns the name of an operation that has no `operationId`: `get_orders_by_id` for GET /orders/{id}."""
    words = re.sub(r"\{([^{}]*)\}", r"by_\1", path)
    return re.sub(r"[^A-Za-z0-9]+", "_", f"{method} {words}").strip("_")


def parse_document(text: str, name: str) -> Document:
    """Reads a document.

    Args:
        text: JSON or YAML.
        name: How messages call it.

    Raises:
        RequestInvalid: It is no OpenAPI document of a version that is known.
    """
    try:
        root: object = _parse(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = " ".join(str(error).split())[:300] or type(error).__name__
        raise RequestInvalid(f"{name} is neither JSON nor YAML: {first}") from None
    if not isinstance(root, Mapping):
        raise RequestInvalid(f"{name} is no OpenAPI document")
    version = str(root.get("openapi", root.get("swagger", "none")))
    known = _VERSION.fullmatch(version)
    if known is None or "swagger" in root:
        raise RequestInvalid(
            f"{name} is of version {version[:20]}, not of OpenAPI 3.0 or 3.1",
            remedy="convert it; most tools for Swagger 2.0 can",
        )
    if not isinstance(root.get("paths"), Mapping):
        raise RequestInvalid(f"{name} has no paths")
    return Document(root, is_3_0=known[1] == "0")


def _parse(text: str) -> object:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            pass  # YAML may begin like this, too
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader that knows less
