"""Requests that pages show, checked against the API as it is: path, method, query and body."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import SecretStr, TypeAdapter

from api.app import create_app
from holdfast.settings import ApiSettings

_CURL = argparse.ArgumentParser(prog="curl", add_help=False, exit_on_error=False, allow_abbrev=False)
_CURL.add_argument("url")
_CURL.add_argument("-X", "--request")
_CURL.add_argument("-H", "--header", action="append", default=[])
_CURL.add_argument("-d", "--data", "--data-raw", "--json", dest="data")
for _flag in ("-s", "-S", "-sS", "-f", "-fsS", "-N", "-sN", "-i", "--fail-with-body", "--no-buffer", "--silent"):
    _CURL.add_argument(_flag, action="store_true", dest="ignored")


@cache
def application() -> FastAPI:
    """The API's application, built and not started."""
    return create_app(
        ApiSettings(
            redis_url=SecretStr("redis://127.0.0.1"),
            codec_key_file=Path("codec.key"),
            api_database_url=SecretStr("postgresql://127.0.0.1/holdfast"),
        )
    )


@cache
def openapi() -> dict[str, Any]:  # an OpenAPI document
    return application().openapi()


def operation_path(method: str, path: str) -> str:
    """Returns the template of the operation that a request is for.

    Raises:
        LookupError: The API has none.
    """
    for template, operations in openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path) and method.lower() in operations:
            return str(template)
    raise LookupError(f"the API has no {method} {path}")


def _routes(owner: object) -> Iterator[APIRoute]:
    """Yields the routes of an application or a router, also of those that it includes."""
    for route in getattr(owner, "routes", ()):
        if isinstance(route, APIRoute):
            yield route
        else:
            yield from _routes(getattr(route, "original_router", route))


def check_curl(words: list[str]) -> None:
    """Checks one `curl` command, without its name, against the API."""
    given = _CURL.parse_args(words)
    method = given.request or ("POST" if given.data is not None else "GET")
    address = urlsplit(given.url)
    template = operation_path(method, address.path)
    operation = openapi()["paths"][template][method.lower()]
    known = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"}
    assert {name for name, _ in parse_qsl(address.query)} <= known, address.query
    headers = {header.partition(":")[0].strip().lower() for header in given.header}
    if not address.path.startswith(("/healthz", "/readyz", "/openapi.json", "/problems", "/v1/approval-links/")):
        assert "authorization" in headers, "the request has no key"
    assert ("requestBody" in operation) == (given.data is not None), "a body is missing, or one too many"
    if given.data is not None:
        check_body(method, template, given.data)


def check_body(method: str, template: str, body: str) -> None:
    """Checks a body against the form that the operation takes."""
    orjson.loads(body)
    route = next(one for one in _routes(application()) if one.path == template and method in (one.methods or ()))
    assert route.body_field is not None
    form: Any = route.body_field.field_info.annotation  # whatever the route's function takes
    TypeAdapter(form).validate_json(body)
