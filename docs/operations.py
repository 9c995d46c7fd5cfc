"""The operations of the API as the reference shows them, from the OpenAPI document that the API itself gives out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from api.app import create_app
from holdfast.settings import ApiSettings

Json = Mapping[str, Any]  # a part of an OpenAPI document, read member by member


@cache
def document() -> Json:
    """Returns the OpenAPI document; the application is built for it and not started."""
    settings = ApiSettings(
        redis_url=SecretStr("redis://127.0.0.1"),
        codec_key_file=Path("codec.key"),
        api_database_url=SecretStr("postgresql://127.0.0.1/holdfast"),
    )
    return create_app(settings).openapi()


def operations() -> Iterator[tuple[str, str, Json]]:
    """Yields method, path and description of each operation."""
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def reference() -> str:
    """Returns a section for each tag: every operation with what it takes and what it answers."""
    sections: dict[str, list[str]] = {}
    for method, path, operation in operations():
        sections.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    return "\n".join(f"## {tag.capitalize()}\n\n" + "\n".join(entries) for tag, entries in sections.items())


def _operation(method: str, path: str, operation: Json) -> str:
    lines = [
        f"### {method} {path}",
        "",
        f"{operation['summary']}. {_sentences(operation.get('description', ''))}".strip(),
        "",
    ]
    rows = [*_parameters(operation), *_body(operation)]
    if rows:
        lines += ["| what | where | type | what it is |", "| --- | --- | --- | --- |", *rows, ""]
    named = {status: _answer(answer) for status, answer in operation["responses"].items()}
    answers = [f"`{status}` {name}" for status, name in named.items() if name != "Problem"]
    problems = [f"`{status}`" for status, name in named.items() if name == "Problem"]
    if problems:
        answers.append(f"a Problem with {', '.join(problems)}")
    return "\n".join([*lines, f"Answers: {'; '.join(answers)}.", ""])


def _sentences(text: str) -> str:
    return " ".join(text.split())


def _parameters(operation: Json) -> Iterator[str]:
    for parameter in operation.get("parameters", ()):
        needed = ", required" if parameter.get("required") and parameter["in"] != "path" else ""
        words = _cell(parameter.get("description", ""))
        yield f"| `{parameter['name']}` | {parameter['in']}{needed} | {_type(parameter['schema'])} | {words} |"


def _body(operation: Json) -> Iterator[str]:
    if "requestBody" not in operation:
        return
    schema = _resolved(operation["requestBody"]["content"]["application/json"]["schema"])
    for name, member in schema.get("properties", {}).items():
        needed = ", required" if name in schema.get("required", ()) else ""
        yield f"| `{name}` | body{needed} | {_type(member)} | {_cell(member.get('description', ''))} |"


def _answer(answer: Json) -> str:
    contents: Mapping[str, Json] = answer.get("content", {})
    for content in contents.values():
        if "$ref" in content.get("schema", {}):
            name = str(content["schema"]["$ref"]).rpartition("/")[2]
            return f"page of {name[5:-1]}" if name.startswith("Page_") else name
    return _cell(answer["description"]).lower()


def _resolved(schema: Json) -> Json:
    if "$ref" not in schema:
        return schema
    found: Json = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _type(schema: Json) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(_type(each) for each in schema[choice]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return " ".join(filter(None, (str(schema.get("type", "any JSON")), str(schema.get("format", "")))))


def _cell(text: str) -> str:
    return _sentences(text).replace("|", "\\|")
