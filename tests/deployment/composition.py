"""compose.yaml as data: with its merges and with its ${…} filled in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import yaml

from tests.stack.places import ROOT

Node = Any  # what YAML holds has no types

FILE: Final = ROOT / "compose.yaml"
_VARIABLE: Final = re.compile(r"\$\{(?P<name>[A-Z_]+):-(?P<default>[^}]*)\}")
_DOLLAR: Final = re.compile(r"\$(?!\{[A-Z_]+:-)")


def _filled(node: Node, environ: Mapping[str, str]) -> Node:
    if isinstance(node, str):
        assert not _DOLLAR.search(node), f"only ${{NAME:-default}} is understood here: {node}"
        return _VARIABLE.sub(lambda match: environ.get(match["name"]) or match["default"], node)
    if isinstance(node, list):
        return [_filled(each, environ) for each in node]
    if isinstance(node, dict):
        return {key: _filled(each, environ) for key, each in node.items()}
    return node


@cache
def _document() -> Node:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def compose(environ: Mapping[str, str] | None = None) -> Node:
    """Returns the file as it is with these variables; with none, as on a fresh machine."""
    return _filled(_document(), environ or {})


def services(environ: Mapping[str, str] | None = None) -> dict[str, Node]:
    """Returns its services by name."""
    found: dict[str, Node] = compose(environ)["services"]
    return found


def defaults() -> dict[str, str]:
    """Returns the variables that the file asks for, with their defaults; each has one."""
    found: dict[str, str] = {}
    for match in _VARIABLE.finditer(FILE.read_text(encoding="utf-8")):
        name, default = match["name"], match["default"]
        assert found.setdefault(name, default) == default, f"{name} has two defaults"
    return found


def module_of(service: Node) -> str:
    """Returns the module that a service of Holdfast's runs, or an empty text."""
    command = list(map(str, service.get("command", [])))
    return command[2] if command[:2] == ["python", "-m"] else ""


def mounts(service: Node) -> Iterator[tuple[str, str, bool]]:
    """Yields a service's volumes: name, target, whether it may only be read."""
    for text in service.get("volumes", []):
        name, target, *options = text.split(":")
        yield name, target, options == ["ro"]


def environment(service: Node) -> dict[str, str]:
    """Returns a service's variables."""
    return {name: str(value) for name, value in service.get("environment", {}).items()}
