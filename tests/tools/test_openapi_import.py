"""Tools from OpenAPI documents: what can be a tool becomes one that calls rightly, and what cannot is said, by operation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import uvicorn
import yaml
from fastapi import FastAPI, Header, Query
from pydantic import BaseModel

from activities.tools.dispatch import run_tool
from activities.tools.invocation import ToolInvocation
from holdfast.errors import RequestInvalid
from holdfast.tools.definition import OpenapiBinding, OwnTool, ToolForm
from holdfast.tools.openapi import forms, read, snake_case
from holdfast_verdict.canonical import JsonValue
from tests.docs.requests import openapi

from .live_lease import LiveLease

ROOT = Path(__file__).resolve().parents[2]
STRING = {"type": "string"}


def document(paths: dict[str, Any], version: str = "3.1.0", **components: Any) -> dict[str, Any]:
    return {"openapi": version, "info": {"title": "T", "version": "1"}, "paths": paths, "components": components}


def write(folder: Path, value: object, name: str = "crm.openapi.json") -> dict[str, object]:
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / name).write_text(text, encoding="utf-8")
    return {"source": "openapi", "document": name, "credential": "tool.crm", "prefix": "crm"}


def imported(folder: Path, value: object, **operations: Any) -> dict[str, ToolForm]:
    return forms({**write(folder, value), "operations": operations or "all-safe"}, folder)


def post(schema: object, version: str = "3.1.0", *, required: bool = True, **components: Any) -> dict[str, Any]:
    """A document of one operation `op` with a body."""
    body = {"required": required, "content": {"application/json": {"schema": schema}}}
    return document({"/x": {"post": {"operationId": "op", "requestBody": body}}}, version, **components)


def bodies(content: dict[str, Any]) -> dict[str, Any]:
    """A document of one operation `op` whose body is of these types."""
    return document({"/x": {"post": {"operationId": "op", "requestBody": {"content": content}}}})


def get(*parameters: dict[str, Any], path: str = "/x", **more: Any) -> dict[str, Any]:
    """A document of one operation `op` with parameters."""
    return document({path: {"get": {"operationId": "op", "parameters": list(parameters), **more}}})


def binding(form: ToolForm) -> OpenapiBinding:
    assert isinstance(form.binding, OpenapiBinding)
    return form.binding


def one(folder: Path, value: object, **options: Any) -> ToolForm:
    [form] = imported(folder, value, op=options).values()
    return form


def properties(form: ToolForm) -> Any:  # JSON Schema
    return form.parameters["properties"]


# Marks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "head", "post", "put", "patch", "delete"])
def test_marks_are_careful_unless_the_file_says_otherwise(tmp_path: Path, method: str) -> None:
    value = document({"/x": {method: {"operationId": "op"}}})
    reads = method in ("get", "head")
    plain = one(tmp_path, value)
    assert (plain.external, plain.idempotent, plain.reversible, plain.yields) == (
        not reads,
        reads,
        reads,
        ("untrusted",),
    )
    keyed = one(tmp_path, value, idempotency_header="Idempotency-Key")
    assert (keyed.idempotent, binding(keyed).idempotency_header) == (True, "Idempotency-Key")
    said = one(
        tmp_path,
        value,
        external=reads,
        idempotent=False,
        reversible=True,
        yields=["invoice"],
        timeout_ms=500,
        description="D",
    )
    assert (said.external, said.idempotent, said.reversible, said.yields) == (reads, False, True, ("invoice",))
    assert (said.timeout_ms, said.description, said.credential) == (500, "D", "tool.crm")


def test_only_what_is_listed_becomes_a_tool(tmp_path: Path) -> None:
    value = document(
        {
            "/orders": {
                "get": {"operationId": "listOrders", "summary": "Lists.", "description": "All of them."},
                "post": {},
            },
            "/orders/{order_id}": {
                "parameters": [{"name": "order_id", "in": "path", "required": True, "schema": STRING}],
                "get": {},
                "delete": {"operationId": "cancel"},
            },
        }
    )
    tools = imported(tmp_path, value, listOrders={}, get_orders_by_order_id={"name": "crm.order.show"})
    assert list(tools) == ["crm.list_orders", "crm.order.show"]
    assert tools["crm.list_orders"].description == "Lists.\nAll of them."
    assert tools["crm.order.show"].description == "GET /orders/{order_id}"
    assert set(imported(tmp_path, value)) == {"crm.list_orders", "crm.get_orders_by_order_id"}
    base = write(tmp_path, value)
    without: list[dict[str, object]] = [{}, {"operations": {}}]
    for nothing in without:
        with pytest.raises(RequestInvalid, match=r"lists none; it has listOrders \(GET /orders\), post_orders.*cancel"):
            forms({**base, **nothing}, tmp_path)
    with pytest.raises(RequestInvalid, match=r"operations.burn: the document has no such operation; it has listOrders"):
        imported(tmp_path, value, burn={})


def test_names_that_say_nothing_of_their_operation_are_refused(tmp_path: Path) -> None:
    twice = document({"/a": {"get": {"operationId": "op"}}, "/b": {"get": {"operationId": "op"}}})
    with pytest.raises(RequestInvalid, match=r"operations.op: several operations have this name"):
        imported(tmp_path, twice, op={})
    same = document({"/a/b": {"get": {}}, "/a_b": {"get": {}}})
    with pytest.raises(RequestInvalid, match="several"):
        imported(tmp_path, same, get_a_b={})
    clash = document({"/a": {"get": {"operationId": "getOrder"}}, "/b": {"get": {"operationId": "get_order"}}})
    with pytest.raises(RequestInvalid, match=r"operations.get_order: another operation is called crm.get_order"):
        imported(tmp_path, clash, getOrder={}, get_order={})
    with pytest.raises(RequestInvalid, match=r"operations.op: 'Bad' is no name"):
        one(tmp_path, get(), name="Bad")
    assert [snake_case(name) for name in ("getHTTPStatus", "list-all.x", "a1B")] == [
        "get_http_status",
        "list_all_x",
        "a1_b",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"speed": 1}, "speed: is not known here"),
        ({"credential": None}, "credential: is text in quotes"),
        ({"operations": {"op": {"exernal": True}}}, "operations.op.exernal: is not known here"),
        ({"operations": {"op": {"timeout_ms": "1"}}}, "operations.op.timeout_ms"),
        ({"operations": {"op": {"timeout_ms": 1}}}, "operations.op: timeout_ms"),
        ({"operations": {"op": {"yields": ["Not A Label"]}}}, "operations.op: yields"),
        ({"operations": {"op": {"idempotency_header": "Host"}}}, "operations.op: .*Host has another meaning"),
        ({"operations": "all"}, "operations"),
        ({"credential": "provider.openai"}, "operations.op: credential"),
        ({"document": "../../secret.yaml"}, "outside the project"),
        ({"document": "/etc/passwd"}, "outside the project"),
        ({"document": "nowhere.yaml"}, "document"),
        ({"prefix": "C R M"}, "prefix"),
    ],
)
def test_a_wrong_file_says_where(tmp_path: Path, change: dict[str, object], said: str) -> None:
    folder = tmp_path / "project" / "tools"
    folder.mkdir(parents=True)
    base = write(folder, get())
    with pytest.raises(RequestInvalid, match=said):
        forms({**base, "operations": {"op": {}}, **change}, folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "neither JSON nor YAML"),
        ("a: b: c", "neither JSON nor YAML"),
        ("openapi: 3.0.0\nopenapi: 3.1.0\npaths: {}", "'openapi' stands twice"),
        ("!!python/object/apply:os.system ['true']", "neither JSON nor YAML"),
        ("[1]", "no OpenAPI document"),
        ("", "no OpenAPI document"),
        ("swagger: '2.0'\npaths: {}", "version 2.0"),
        ("openapi: 4.0.0\npaths: {}", "version 4.0.0"),
        ("openapi: 3.1.0", "no paths"),
        ("[" * 5000, "neither JSON nor YAML"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RequestInvalid, match=said):
        forms({**write(tmp_path, text), "operations": "all-safe"}, tmp_path)


def test_yaml_is_read_as_json_would_be(tmp_path: Path) -> None:
    text = """
openapi: 3.0.3
paths:
  /x:
    get:
      operationId: op
      parameters:
        - {name: switch, in: query, schema: {type: string, enum: [on, off, 2026-01-31, 12:30:00, 007, yes], default: no}}
      responses: {200: {description: fine}}
"""
    form = one(tmp_path, text)
    assert properties(form)["switch"]["enum"] == ["on", "off", "2026-01-31", "12:30:00", "007", "yes"]
    assert properties(form)["switch"]["default"] == "no"


# Schemas ------------------------------------------------------------------------------------------------------------


def test_numbers_are_decimals_that_are_sent_as_numbers(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "required": ["amount"],
        "properties": {
            "amount": {"type": "number", "minimum": 0.01, "exclusiveMaximum": 100, "description": "in euros"},
            "rate": {"type": ["number", "null"], "default": 1.50},
            "level": {"type": "number", "enum": [0.5, 1]},
            "lines": {
                "type": "array",
                "items": {"type": "object", "properties": {"a/b": {"type": "number"}, "c": STRING}},
            },
            "text": {"type": "string", "format": "decimal"},
            "either": {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]},
        },
    }
    form = one(tmp_path, post(schema))
    made = properties(form)
    assert made["amount"] == {
        "type": "string",
        "format": "decimal",
        "description": "in euros (a decimal number, at least 0.01, less than 100)",
    }
    assert (made["rate"]["type"], made["rate"]["default"], made["level"]["enum"]) == (
        ["string", "null"],
        "1.5",
        ["0.5", "1"],
    )
    assert made["either"] == {"type": ["string", "null"], "x-holdfast-personal": True}
    numbers = {name: place.numbers for name, place in binding(form).places.items()}
    assert numbers == {
        "amount": ("",), "rate": ("",), "level": ("",), "lines": ("/*/a~1b",), "text": (), "either": (),
    }  # fmt: skip
    assert OwnTool("crm.op", 1, form).validate({"amount": "012.50"}) == {"amount": "12.5", "rate": "1.5"}


def test_schemas_of_3_0_are_read_as_they_are_meant(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "nullable": True, "enum": ["x"]},
            "b": {
                "type": "integer",
                "minimum": 1,
                "exclusiveMinimum": True,
                "maximum": 9223372036854775807,
                "format": "int64",
            },
            "c": {"allOf": [{"$ref": "#/components/schemas/C"}], "nullable": True, "description": "c"},
        },
    }
    form = one(tmp_path, post(schema, "3.0.3", schemas={"C": {"type": "object", "properties": {"d": STRING}}}))
    made = properties(form)
    assert made["a"] == {"type": ["string", "null"], "enum": ["x", None]}
    assert made["b"] == {"type": "integer", "exclusiveMinimum": 1}
    assert made["c"]["properties"] == {"d": {**STRING, "x-holdfast-personal": True}}
    assert "nullable" not in json.dumps(form.parameters)
    newer = one(tmp_path, post({"type": "object", "properties": {"a": {"type": "string", "nullable": True}}}, "3.1.0"))
    assert properties(newer)["a"] == {**STRING, "x-holdfast-personal": True}


def test_references_and_parts_are_written_out(tmp_path: Path) -> None:
    schemas = {
        "Base": {
            "type": "object",
            "required": ["id", "name"],
            "properties": {"id": {"type": "integer", "readOnly": True}, "name": NAME},
        },
        "Na/me": {"type": "string", "description": "a name"},
        "Order": {
            "allOf": [
                {"$ref": "#/components/schemas/Base"},
                {"required": ["price"]},
                {"type": "object", "properties": {"price": {"type": "number"}, "x": {"description": "mine", **NAME}}},
            ]
        },
    }  # fmt: skip
    value = document(
        {"/x": {"post": {"operationId": "op", "requestBody": {"$ref": "#/components/requestBodies/B"}}}},
        schemas=schemas,
        requestBodies={
            "B": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}}
        },
    )
    form = one(tmp_path, value)
    assert set(properties(form)) == {"name", "price", "x"}
    assert sorted(form.parameters["required"]) == ["name", "price"]  # type: ignore[type-var, arg-type]  # a list of texts
    assert properties(form)["name"] == {"type": "string", "description": "a name", "x-holdfast-personal": True}
    assert properties(form)["x"]["description"] == "mine"
    assert binding(form).places["price"].numbers == ("",)


def test_names_that_clash_are_told_apart_and_said(tmp_path: Path) -> None:
    value = document(
        {
            "/x/{id}": {
                "post": {
                    "operationId": "op",
                    "parameters": [
                        {"name": "id", "in": "query", "schema": STRING},
                        {"name": "id", "in": "path", "required": True, "schema": STRING, "description": "which"},
                        {"name": "filter[by]", "in": "query", "schema": STRING},
                        {"name": "X-Request", "in": "header", "schema": STRING},
                        {"name": "Authorization", "in": "header", "schema": STRING},
                        {"name": "Idem", "in": "header", "required": True, "schema": STRING},
                    ],
                    "requestBody": {
                        "content": {
                            "application/xml": {"schema": {}},
                            "application/json": {
                                "schema": {"type": "object", "required": ["id"], "properties": {"id": STRING}}
                            },
                        }
                    },
                }
            }
        }
    )
    form = one(tmp_path, value, idempotency_header="Idem")
    places = {name: (place.where, place.name) for name, place in binding(form).places.items()}
    assert places == {
        "id": ("path", "id"),
        "query_id": ("query", "id"),
        "filter_by": ("query", "filter[by]"),
        "X-Request": ("header", "X-Request"),
        "body_id": ("body", "id"),
    }
    assert properties(form)["body_id"]["description"] == "`id` in the body"
    assert properties(form)["id"]["description"] == "which"
    assert form.parameters["required"] == ["id"]  # a body that may be left out requires nothing
    assert imported(tmp_path, value, op={"idempotency_header": "Idem"}) == {"crm.op": form}


def test_a_body_that_is_no_object_of_known_members_is_one_argument(tmp_path: Path) -> None:
    inner = {"type": "object", "properties": {"b": STRING}}
    numbers = {"type": "array", "items": {"type": "number"}}
    for schema in (numbers, {"type": "object"}, {"oneOf": [inner, STRING]}):
        form = one(tmp_path, post(schema))
        assert {name: place.where for name, place in binding(form).places.items()} == {"body": "whole-body"}
        assert form.parameters["required"] == ["body"]
    assert binding(one(tmp_path, post(numbers))).places["body"].numbers == ("/*",)
    tree = OwnTool("crm.op", 1, one(tmp_path, post({"type": "object", "properties": {"a": inner}})))
    with pytest.raises(RequestInvalid, match="it takes: b"):
        tree.validate({"a": {"c": "x"}})


NAME = {"$ref": "#/components/schemas/Na~1me"}
PARAMETER = {"name": "a", "in": "query", "schema": STRING}
LOOP = {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Loop"}}}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (get({**PARAMETER, "in": "cookie"}), "in the cookie, which is not supported"),
        (get({**PARAMETER, "style": "pipeDelimited"}), "style pipeDelimited"),
        (get({**PARAMETER, "schema": {"type": "array", "items": STRING}, "explode": False}), "list in one text"),
        (get({**PARAMETER, "schema": {"type": "object", "properties": {}}}), "neither text"),
        (get({**PARAMETER, "schema": {"type": "array", "items": {"type": "object"}}}), "neither text"),
        (get({**PARAMETER, "content": {}}), "written in a way"),
        (get({**PARAMETER, "allowReserved": True}), "written in a way"),
        (get({**PARAMETER, "in": "header", "name": "Host"}), "in the header Host"),
        (get({"in": "query"}), "no name"),
        (get({**PARAMETER, "schema": None}), "no schema"),
        (get(path="/x/{id}"), "do not match"),
        (get({**PARAMETER, "schema": {"$ref": "other.yaml#/a"}}), "outside of this document"),
        (get({**PARAMETER, "schema": {"$ref": "http://127.0.0.1/a"}}), "outside of this document"),
        (get({**PARAMETER, "schema": {"$ref": "#/nowhere"}}), "leads nowhere"),
        (get({"$ref": "#/components/parameters/A"}), "leads nowhere"),
        (get(requestBody={"content": {"application/json": {"schema": STRING}}}), "GET with a body"),
        (post({"$ref": "#/components/schemas/Loop"}, schemas={"Loop": LOOP}), "`next`: #/components/schemas/Loop contains itself"),
        (post({"$ref": "#/components/schemas/A"}, schemas={"A": {"$ref": "#/components/schemas/A"}}), "contains itself"),
        (post({"not": STRING}), "`not`, which is not supported"),
        (post({"type": "object", "properties": {"f": {"type": "string", "format": "binary"}}}), "`f` is a file"),
        (post({"type": "object", "properties": {"f": {"type": ["number", "string"]}}}), "number or something else"),
        (post({"oneOf": [{"type": "number"}, {"type": "boolean"}]}), "place depends on the value"),
        (post({"type": "object", "additionalProperties": {"type": "number"}}), "place depends on the value"),
        (post({"allOf": [{"type": "object"}, {"type": "string"}]}), "disagree about `type`"),
        (post({"type": "object", "properties": {"p": {"type": "string", "pattern": "("}}}), "no valid JSON Schema"),
        (post({"type": "object", "properties": {"ä": STRING}, "additionalProperties": True}), "ASCII"),
        (post(False), "no schema"),
        (bodies({"multipart/form-data": {"schema": {}}}), "multipart"),
        (bodies({"a/b": {}, "application/x+json": {}}), "none of them"),
        (bodies({}), "of no type"),
        (document({"/x?a=b": {"get": {"operationId": "op"}}}), "path"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_tool_is_said_by_operation(tmp_path: Path, value: dict[str, Any], said: str) -> None:
    fine = {"/fine": {"get": {"operationId": "fine"}}}
    whole = {**value, "paths": {**value["paths"], **fine}}
    with pytest.raises(RequestInvalid, match=f"operations.op: .*{said}"):
        imported(tmp_path, whole, op={}, fine={})
    assert list(imported(tmp_path, whole, fine={})) == ["crm.fine"]
    result = read({**write(tmp_path, whole), "operations": "all-safe"}, tmp_path)
    assert "crm.fine" in result.forms
    if "get" in next(iter(value["paths"].values())):
        assert set(result.left_out) == {"op"}


def test_a_document_that_grows_when_written_out_is_refused(tmp_path: Path) -> None:
    schemas: dict[str, Any] = {"L0": STRING}
    for level in range(1, 12):
        ref = {"$ref": f"#/components/schemas/L{level - 1}"}
        schemas[f"L{level}"] = {"type": "object", "properties": dict.fromkeys("abcdefgh", ref)}
    with pytest.raises(RequestInvalid, match="too large or too deep"):
        one(tmp_path, post({"$ref": "#/components/schemas/L11"}, schemas=schemas))
    aliases = "openapi: 3.1.0\na: &a [x]\n" + "".join(
        f"a{n}: &a{n} [*a{n - 1 or ''}, *a{n - 1 or ''}]\n" for n in range(1, 40)
    )
    with pytest.raises(RequestInvalid, match="no paths"):
        imported(tmp_path, aliases)


def test_every_reading_operation_of_holdfast_itself_is_a_tool_or_said_not_to_be(tmp_path: Path) -> None:
    mine = openapi()
    result = read({**write(tmp_path, mine), "operations": "all-safe"}, tmp_path)
    reading = [item["get"] for item in mine["paths"].values() if "get" in item]
    assert len(result.forms) + len(result.left_out) == len(reading)
    assert len(result.forms) > len(reading) * 0.8, result.left_out
    as_yaml = {**write(tmp_path, yaml.safe_dump(mine), "crm.openapi.yaml"), "operations": "all-safe"}
    assert forms(as_yaml, tmp_path) == result.forms


# From a document to a server -----------------------------------------------------------------------------------------


class Line(BaseModel):
    net: float
    name: str | None = None


class Refund(BaseModel):
    amount: float
    lines: list[Line]
    code: str
    note: str | None = None


@pytest.fixture(scope="module")
async def shop() -> AsyncIterator[tuple[dict[str, Any], int, list[dict[str, Any]]]]:
    """A real service, its own document, its port, and what it was asked."""
    app = FastAPI()
    seen: list[dict[str, Any]] = []

    @app.post("/orders/{order_id}/refunds", operation_id="refundOrder")
    async def refund(
        order_id: str,
        body: Refund,
        tag: Annotated[list[str], Query()],
        x_reason: Annotated[str, Header()],
        dry: bool = False,
    ) -> dict[str, bool]:
        seen.append({"order_id": order_id, "body": body.model_dump(), "tag": tag, "x_reason": x_reason, "dry": dry})
        return {"ok": True}

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]  # they are pytest's
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield app.openapi(), listener.getsockname()[1], seen
    server.should_exit = True
    await task


async def test_a_service_understands_what_its_own_document_led_to(
    shop: tuple[dict[str, Any], int, list[dict[str, Any]]], tmp_path: Path
) -> None:
    described, port, seen = shop
    [(name, form)] = imported(tmp_path, described, refundOrder={}).items()
    assert name == "crm.refund_order"
    tool = OwnTool(name, 1, form)
    credential: dict[str, JsonValue] = {
        "base_url": f"http://127.0.0.1:{port}",
        "auth": {"kind": "none"},
        "allow_private": True,
    }
    arguments: dict[str, JsonValue] = {
        "order_id": "A-1 ä?",
        "tag": ["a,b", "c&d"],
        "x-reason": "it broke",
        "dry": True,
        "amount": "12.50",
        "lines": [{"net": "0.1", "name": None}, {"net": "3"}],
        "code": "007",
    }
    normal = tool.validate(arguments)
    result = await run_tool(ToolInvocation(name, tool, normal, credential, "acme", "k", LiveLease()))
    assert result.ok, result.content
    assert seen == [
        {
            "order_id": "A-1 ä?",
            "body": {
                "amount": 12.5,
                "lines": [{"net": 0.1, "name": None}, {"net": 3.0, "name": None}],
                "code": "007",
                "note": None,
            },
            "tag": ["a,b", "c&d"],
            "x_reason": "it broke",
            "dry": True,
        }
    ]
    with pytest.raises(RequestInvalid, match="amount"):
        tool.validate({**arguments, "amount": "much"})
    refused = await run_tool(
        ToolInvocation(name, tool, tool.validate({**arguments, "tag": []}), credential, "acme", "k", LiveLease())
    )
    assert (refused.error_code, "422" in refused.content) == ("openapi.refused", True)


@pytest.mark.parametrize("starter", ["tool-openapi", "agent-coding"])
def test_the_documents_of_the_starters_are_read(starter: str, tmp_path: Path) -> None:
    folder = ROOT / "cli" / "project" / "starters" / starter / "tools"
    found = list(folder.glob("*.toml"))
    assert found
    for path in [*found, *folder.glob("*.yaml")]:
        name = path.name.replace("__NAME__", "crm").replace("__DASHED__", "crm")
        text = path.read_text(encoding="utf-8")
        for mark, word in (
            ("__NAME__", "crm.x" if starter == "tool-openapi" else "crm"),
            ("__NOUN__", "crm"),
            ("__DASHED__", "crm"),
        ):
            text = text.replace(mark, word)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for path in tmp_path.glob("*.toml"):
        assert forms(tomllib.loads(path.read_text(encoding="utf-8")), tmp_path)
