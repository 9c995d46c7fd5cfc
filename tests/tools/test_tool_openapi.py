"""OpenAPI tools: no argument leaves its place, no secret leaves its service, and every outcome is what is known of it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from activities.tools import openapi_request
from activities.tools.dispatch import run_tool
from activities.tools.invocation import ToolInvocation, ToolResult
from holdfast.errors import LeaseLost
from holdfast.tools.definition import OwnTool, ToolForm
from holdfast.tools.http_message import NotSendable, build_message
from holdfast.tools.urls import parse_url
from holdfast_verdict.canonical import JsonValue

from .cut_off import BOUNDS_MS, cut_off
from .live_lease import LiveLease
from .raw_server import Answer, raw_server

STRING = {"type": "string"}
DECIMAL = {"type": "string", "format": "decimal"}
ANY_TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs", "Cc"]), st.sampled_from("./\\%25?#&=;+@: \r\n\t")), max_size=40
)


def tool(method: str = "GET", path: str = "/x", places: dict[str, Any] | None = None, **more: Any) -> OwnTool:
    """An operation; arguments are texts unless `schemas` says otherwise, and those of the path are required."""
    places = {
        name: {"where": place, "name": name} if isinstance(place, str) else place
        for name, place in (places or {}).items()
    }
    given_schemas = more.pop("schemas", {})
    binding = {"source": "openapi", "method": method, "path": path, "places": places, **more.pop("binding", {})}
    reads = method in ("GET", "HEAD")
    form = ToolForm.model_validate(
        {
            "description": "An operation.",
            "parameters": {
                "type": "object",
                "properties": {name: given_schemas.get(name, STRING) for name in places},
                "required": [name for name, place in places.items() if place["where"] == "path"],
            },
            "external": not reads,
            "idempotent": reads,
            "reversible": reads,
            "credential": "tool.crm",
            "binding": binding,
            **more,
        }
    )
    return OwnTool("crm.call", 1, form)


def vault(port: int, auth: dict[str, JsonValue] | None = None, **more: JsonValue) -> dict[str, JsonValue]:
    return {
        "base_url": f"http://127.0.0.1:{port}/api",
        "auth": auth or {"kind": "bearer", "token": "hush-hush"},
        "allow_private": True,
        **more,
    }


async def call(
    definition: OwnTool,
    credential: dict[str, JsonValue],
    arguments: dict[str, JsonValue] | None = None,
    *,
    lease: LiveLease | None = None,
) -> ToolResult:
    normal = definition.validate(arguments or {})
    return await run_tool(
        ToolInvocation(definition.name, definition, normal, credential, "acme", "acme:run:1", lease or LiveLease())
    )


@dataclass
class Service:
    """A real server with a router: what it understood of the last request."""

    port: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def answer(self, request: Request) -> JSONResponse:
        self.seen.append(
            {
                "path": dict(request.path_params),
                "query": request.query_params.multi_items(),
                "headers": {name.decode(): value.decode("latin-1") for name, value in request.scope["headers"]},
                "body": (await request.body()).decode(),
            }
        )
        return JSONResponse({"ok": True})


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    service = Service()
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app = Starlette(
        routes=[
            Route("/api/orders/{order}/lines/{line}", service.answer, methods=methods),
            Route("/api/search", service.answer, methods=methods),
        ]
    )
    listener = socket.create_server(("127.0.0.1", 0))
    service.port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]  # they are pytest's
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield service
    server.should_exit = True
    await task


# Encoding -----------------------------------------------------------------------------------------------------------

LINES = tool(path="/orders/{order}/lines/{line}", places={"order": "path", "line": "path", "q": "query"})
SEARCH = tool(
    path="/search",
    places={"q": {"where": "query", "name": "q[a]&b"}, "many": "query", "h": {"where": "header", "name": "X-Note"}},
    schemas={"many": {"type": "array", "items": STRING}},
)
SLOW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOW
@given(order=ANY_TEXT, line=ANY_TEXT, q=ANY_TEXT)
async def test_what_a_server_reads_in_path_and_query_is_what_was_given_or_nothing_is_sent(
    service: Service, order: str, line: str, q: str
) -> None:
    service.seen.clear()
    result = await call(LINES, vault(service.port), {"order": order, "line": line, "q": q})
    if result.error_code == "openapi.argument_refused":
        assert service.seen == []
        return
    assert result.ok, result.content
    [seen] = service.seen
    assert (seen["path"], seen["query"]) == ({"order": order, "line": line}, [("q", q)])


@SLOW
@given(q=ANY_TEXT, many=st.lists(ANY_TEXT, max_size=4), note=ANY_TEXT)
async def test_no_argument_adds_members_to_query_or_headers(
    service: Service, q: str, many: list[str], note: str
) -> None:
    service.seen.clear()
    result = await call(SEARCH, vault(service.port), {"q": q, "many": list(many), "h": note})
    if result.error_code == "openapi.argument_refused":
        assert service.seen == []
        return
    [seen] = service.seen
    assert seen["query"] == [("q[a]&b", q), *(("many", each) for each in many)]
    assert seen["headers"].pop("x-note") == note
    assert set(seen["headers"]) == {"host", "user-agent", "accept", "accept-encoding", "authorization"}


@pytest.mark.parametrize(
    "value",
    ["", ".", "..", "../..", "a/b", "/", "\\", "%2f", "%2e%2e", "a%2Fb", "..;", "..;x", ".;a", "a\r\nb", "a\tb", "\x7f", "x" * 3000],
)  # fmt: skip
async def test_a_path_argument_that_some_server_might_read_as_another_path_is_refused(
    service: Service, value: str
) -> None:
    service.seen.clear()
    lease = LiveLease()
    result = await call(LINES, vault(service.port), {"order": value, "line": "1"}, lease=lease)
    assert (result.ok, result.cost, result.error_code) == (False, "nothing", "openapi.argument_refused")
    assert (service.seen, lease.begun) == ([], 0)


@pytest.mark.parametrize(
    "value", ["a?b", "a#b", "a&b=c", "a;b", "ä€😀", "a b", "a+b", "100%", "@evil.example", ":80", "...", "~.-_"]
)
async def test_a_path_argument_with_signs_of_the_language_of_urls_arrives_as_it_is(
    service: Service, value: str
) -> None:
    service.seen.clear()
    assert (await call(LINES, vault(service.port), {"order": value, "line": value, "q": value})).ok
    [seen] = service.seen
    assert (seen["path"], seen["query"]) == ({"order": value, "line": value}, [("q", value)])


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "ä", " a", "a ", "a\x07b", "x" * 9000])
async def test_a_header_argument_is_one_line_of_ascii(service: Service, value: str) -> None:
    result = await call(SEARCH, vault(service.port), {"h": value})
    assert result.error_code == "openapi.argument_refused"


def test_two_parts_of_one_segment_make_no_dot_segment() -> None:
    definition = tool(path="/files/{a}{b}", places={"a": "path", "b": "path"})
    base = parse_url("https://crm.example/api/")
    binding = definition.form.binding
    assert binding.source == "openapi"
    with pytest.raises(NotSendable):
        build_message(binding, {"a": ".", "b": "."}, base)
    assert build_message(binding, {"a": ".", "b": "x"}, base).url.text == "https://crm.example/api/files/.x"


@SLOW
@given(a=ANY_TEXT, b=ANY_TEXT)
def test_host_and_prefix_of_the_address_are_never_left(a: str, b: str) -> None:
    definition = tool(path="/{a}/{b}", places={"a": "path", "b": "path"})
    binding = definition.form.binding
    assert binding.source == "openapi"
    try:
        url = build_message(binding, {"a": a, "b": b}, parse_url("https://crm.example:8443/v1")).url
    except NotSendable:
        return
    assert url.text.startswith("https://crm.example:8443/v1/")
    assert url.target.count("/") == 3
    assert "?" not in url.target


@pytest.mark.parametrize(
    ("places", "said"),
    [
        *(
            ({"a": {"where": "header", "name": name}}, "no argument may be sent")
            for name in (
                "Host", "authorization", "Content-Length", "CONTENT-TYPE", "Cookie", "Transfer-Encoding", "Connection", "TE", "Upgrade",
                "Proxy-Authorization", "X-Forwarded-Host", "X-HTTP-Method-Override", "Forwarded", "Expect", "a b", "a:b", "a\r\nb", "ä",
            )
        ),
        ({"a": {"where": "header", "name": "Idem-Key"}}, "two things"),
        ({"a": {"where": "query", "name": "q"}, "b": {"where": "query", "name": "q"}}, "two things"),
        ({"a": {"where": "header", "name": "X-A"}, "b": {"where": "header", "name": "x-a"}}, "two things"),
        ({"a": {"where": "whole-body", "name": "a"}, "b": "body"}, "whole body"),
        ({"a": {"where": "query", "name": "a", "numbers": [""]}}, "no numbers"),
        ({"a": "path"}, "do not match"),
    ],
)  # fmt: skip
def test_a_definition_whose_arguments_would_stand_where_they_must_not_is_refused(
    places: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        tool("POST", places=places, binding={"idempotency_header": "Idem-Key"})


@pytest.mark.parametrize("path", ["/a/../b", "/a/%2e%2e/b", "/./a", "/a\\b", "/ä"])
def test_a_path_of_two_spellings_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match=r"another spelling|percent-encode"):
        tool(path=path)


# What is sent -------------------------------------------------------------------------------------------------------


async def test_bodies_are_json_with_numbers_to_the_last_digit() -> None:
    definition = tool(
        "POST",
        places={
            "price": {"where": "body", "name": "price", "numbers": [""]},
            "code": "body",
            "lines": {"where": "body", "name": "lines", "numbers": ["/*/net", "/*/a~1b~2"]},
        },
        schemas={
            "price": DECIMAL,
            "lines": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"net": DECIMAL, "a/b*": {"type": ["string", "null"]}, "name": STRING},
                },
            },
        },
    )  # fmt: skip
    async with raw_server() as server:
        lines: list[JsonValue] = [{"net": "0.10", "a/b*": None, "name": "5"}, {"net": "-7", "a/b*": "1e3"}]
        result = await call(
            definition, vault(server.port), {"price": "12345678901234567890.120", "code": "007", "lines": lines}
        )
    assert result.ok
    [request] = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert json.loads(body) == {
        "code": "007",
        "lines": [{"a/b*": None, "name": "5", "net": 0.1}, {"a/b*": 1000, "net": -7}],
        "price": 12345678901234567890.12,
    }
    assert b'"price":12345678901234567890.12' in body
    assert b"content-type: application/json" in head.lower()


async def test_a_whole_body_and_an_empty_one() -> None:
    whole = tool(
        "PUT",
        places={"all": {"where": "whole-body", "name": "all", "numbers": ["/*"]}},
        schemas={"all": {"type": "array", "items": {"type": "string", "format": "decimal"}}},
        binding={"content_type": "application/vnd.crm+json"},
    )
    async with raw_server() as server:
        assert (await call(whole, vault(server.port), {"all": ["1.50", "2"]})).ok
        assert (await call(tool("POST", places={"a": "body"}), vault(server.port))).ok
        assert (await call(tool("DELETE", places={"a": "body"}), vault(server.port))).ok
        assert (await call(tool("POST"), vault(server.port))).ok
    bodies = [request.partition(b"\r\n\r\n")[2] for request in server.requests]
    assert bodies == [b"[1.5,2]", b"{}", b"", b""]
    assert b"application/vnd.crm+json" in server.requests[0]


@pytest.mark.parametrize(
    ("auth", "line"),
    [
        ({"kind": "bearer", "token": "hush-hush"}, b"authorization: Bearer hush-hush"),
        ({"kind": "basic", "username": "ü", "password": "hush:1"}, b"authorization: Basic " + base64.b64encode("ü:hush:1".encode())),
        ({"kind": "header", "name": "X-Api-Key", "value": "hush-hush"}, b"X-Api-Key: hush-hush"),
        ({"kind": "query", "name": "api key", "value": "hush&a=b"}, b"GET /api/x?api%20key=hush%26a%3Db HTTP/1.1"),
        ({"kind": "none"}, b"GET /api/x HTTP/1.1"),
    ],
)  # fmt: skip
async def test_each_kind_of_proof(auth: dict[str, JsonValue], line: bytes) -> None:
    async with raw_server() as server:
        assert (await call(tool(), vault(server.port, auth))).ok
    lines = [each.lower() for each in server.requests[0].split(b"\r\n")]
    assert line.lower() in lines
    assert any(each.startswith(b"authorization") for each in lines) == (auth["kind"] in ("bearer", "basic"))


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "http://u:p@127.0.0.1/"},
        {"base_url": "http://127.0.0.1/?a=b"},
        {"base_url": "ftp://127.0.0.1/"},
        {"base_url": "http://crm.example/", "allow_private": False},
        {"auth": {"kind": "bearer", "token": "hush\r\nX: y"}},
        {"auth": {"kind": "bearer"}},
        {"auth": {"kind": "header", "name": "Host", "value": "hush-hush"}},
        {"auth": {"kind": "oauth", "token": "hush-hush"}},
        {"auth": None},
        {"token": "hush-hush"},
    ],
)
async def test_a_wrong_credential_is_refused_without_its_values(change: dict[str, JsonValue]) -> None:
    lease = LiveLease()
    result = await call(tool(), {**vault(1), **change}, lease=lease)
    assert (result.error_code, result.cost, lease.begun) == ("vault.credential_missing", "nothing", 0)
    assert "hush" not in result.content


async def test_what_an_argument_goes_into_is_not_the_credentials() -> None:
    header = tool(places={"k": {"where": "header", "name": "X-Key"}})
    query = tool(places={"key": "query"})
    for definition, auth in (
        (header, {"kind": "header", "name": "x-key", "value": "hush-hush"}),
        (query, {"kind": "query", "name": "key", "value": "hush-hush"}),
        (tool("POST", binding={"idempotency_header": "X-K"}), {"kind": "header", "name": "X-k", "value": "hush-hush"}),
    ):
        assert (await call(definition, vault(1, dict(auth)))).error_code == "openapi.credential_clash"


async def test_the_idempotency_key_goes_where_the_service_takes_it() -> None:
    definition = tool("POST", binding={"idempotency_header": "Idempotency-Key"}, idempotent=True)
    async with raw_server() as server:
        await call(definition, vault(server.port))
        await call(tool("POST"), vault(server.port))
    assert b"Idempotency-Key: acme:run:1" in server.requests[0]
    assert b"acme:run:1" not in server.requests[1]


async def test_an_answer_never_shows_the_credential() -> None:
    async def echo(writer: asyncio.StreamWriter) -> None:
        body = b'{"headers": "Bearer hush-hush"}'
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()

    async with raw_server(answer=echo) as server:
        result = await call(tool(), vault(server.port))
    assert result.ok
    assert "hush" not in result.content
    assert "(credential)" in result.content


# Where it goes ------------------------------------------------------------------------------------------------------


async def test_private_addresses_are_refused_unless_the_vault_opens_them() -> None:
    lease = LiveLease()
    closed: dict[str, JsonValue] = {"base_url": "https://127.0.0.1:1/", "auth": {"kind": "none"}}
    result = await call(tool(), closed, lease=lease)
    assert (result.error_code, result.cost, lease.begun) == ("openapi.address_refused", "nothing", 0)
    metadata: dict[str, JsonValue] = {
        "base_url": "http://169.254.169.254/",
        "auth": {"kind": "none"},
        "allow_private": True,
    }
    assert (await call(tool(), metadata)).error_code == "openapi.address_refused"


async def test_a_name_is_resolved_once_and_connected_to_where_it_was_checked() -> None:
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    async def nowhere(_host: str, _port: int) -> list[str]:
        raise OSError

    definition = tool()
    async with raw_server() as server:
        credential = vault(server.port, base_url=f"http://crm.example:{server.port}/v2/")
        invocation = ToolInvocation("crm.call", definition, {}, credential, "acme", "k", LiveLease())
        assert (await openapi_request.run(invocation, resolve=resolve)).ok
        lost = await openapi_request.run(invocation, resolve=nowhere)
    assert (lost.error_code, lost.retryable, lost.cost) == ("openapi.unresolved", True, "nothing")
    assert asked == ["crm.example"]
    assert server.requests[0].startswith(b"GET /v2/x HTTP/1.1\r\n")
    assert f"host: crm.example:{server.port}".encode() in server.requests[0].lower()


async def test_redirects_are_not_followed() -> None:
    async with raw_server() as target:
        location = f"Location: http://127.0.0.1:{target.port}/steal".encode()
        async with raw_server(answer=b"HTTP/1.1 307 X\r\n" + location + b"\r\nContent-Length: 0\r\n\r\n") as server:
            result = await call(tool("POST"), vault(server.port))
    assert (result.ok, result.error_code, result.cost) == (False, "openapi.redirected", "known")
    assert target.connections == 0
    assert "/steal" in result.content


# What became of it --------------------------------------------------------------------------------------------------


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def half(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    await writer.drain()


async def never(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), BOUNDS_MS[-1] / 1000 + 10)


def status(code: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code} X", "Content-Length: 2", "Content-Type: application/json", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n{}").encode()


KINDS = {
    "reads": tool(),
    "writes": tool("POST"),
    "takes a key": tool("POST", idempotent=True, binding={"idempotency_header": "Idempotency-Key"}),
    "is said to be idempotent": tool("PUT", idempotent=True),
    "reads, and tells the outside": tool(external=True),
}
Known = dict[str, tuple[str, bool]]


def bounded(definition: OwnTool, timeout_ms: int) -> OwnTool:
    return replace(definition, form=definition.form.model_copy(update={"timeout_ms": timeout_ms}))


REFUSED: Known = dict.fromkeys(KINDS, ("known", False))
LIMITED: Known = dict.fromkeys(KINDS, ("nothing", True))
OPEN: Known = {**dict.fromkeys(KINDS, ("unknown", True)), "reads": ("nothing", True), "writes": ("unknown", False)}


@pytest.mark.parametrize(
    ("answer", "code", "expected"),
    [
        (hang_up, "openapi.answer_lost", OPEN),
        (half, "openapi.answer_lost", OPEN),
        (never, "openapi.answer_lost", OPEN),
        (b"not http at all\r\n\r\n", "openapi.answer_lost", OPEN),
        (status(500), "openapi.failed", OPEN),
        (status(503), "openapi.failed", OPEN),
        (status(408), "openapi.failed", OPEN),
        (status(400), "openapi.refused", REFUSED),
        (status(404), "openapi.refused", REFUSED),
        (status(422), "openapi.refused", REFUSED),
        (status(429), "openapi.rate_limited", LIMITED),
        (status(303, "Location: /y"), "openapi.redirected", REFUSED),
        (status(409), None, {**REFUSED, "takes a key": ("unknown", True)}),
    ],
    ids=lambda value: value[:20].decode() if isinstance(value, bytes) else getattr(value, "__name__", None),
)
async def test_every_outcome_is_what_is_known_of_it(answer: bytes | Answer, code: str | None, expected: Known) -> None:
    async with raw_server(answer=answer) as server:
        for kind, (cost, retryable) in expected.items():

            async def attempt(timeout_ms: int, kind: str = kind) -> ToolResult:
                return await call(bounded(KINDS[kind], timeout_ms), vault(server.port))

            result = await (cut_off(attempt) if answer is never else attempt(60_000))
            assert (result.ok, result.cost, result.retryable) == (False, cost, retryable), kind
            assert code is None or result.error_code == code
        async with asyncio.timeout(60):
            while len(server.requests) < len(expected):  # what was sent last may not have been read yet
                await asyncio.sleep(0.01)
        assert len(server.requests) == len(expected)
        assert answer is never or server.connections == len(expected)


async def test_who_is_not_there_was_sent_nothing() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets the port meanwhile
        for definition in KINDS.values():
            result = await call(definition, vault(closed.getsockname()[1]))
            assert (result.error_code, result.cost, result.retryable) == ("openapi.unreachable", "nothing", True)


async def test_when_to_come_back_is_passed_on() -> None:
    for code in (429, 503):
        async with raw_server(answer=status(code, "Retry-After: 7")) as server:
            assert (await call(KINDS["reads"], vault(server.port))).retry_after_ms == 7_000


async def test_without_its_lease_nothing_is_sent() -> None:
    async with raw_server() as server:
        for lease in (LiveLease(lost_before_begin=True), LiveLease(lost_before_writing=True)):
            with pytest.raises(LeaseLost):
                await call(KINDS["writes"], vault(server.port), lease=lease)
    assert server.requests == []


async def test_the_lease_is_begun_right_before_the_request() -> None:
    async with raw_server() as server:
        at_begin: list[int] = []
        lease = LiveLease()
        lease.at_begin = lambda: at_begin.append(server.connections)
        assert (await call(KINDS["writes"], vault(server.port), lease=lease)).ok
    assert (at_begin, lease.begun, lease.checked) == ([0], 1, 1)


# Answers ------------------------------------------------------------------------------------------------------------


async def test_an_answer_of_fifty_megabytes_is_cut() -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 52428800\r\n\r\n")
        for _ in range(800):
            writer.write(b"a" * 65_536)
            await writer.drain()
            sent += 65_536

    async with raw_server(answer=flood) as server:
        result = await call(tool(), vault(server.port))
    content = json.loads(result.content)
    assert (result.ok, content["truncated"], len(content["body"])) == (True, True, openapi_request.ANSWER_BYTES_MAX)
    assert sent < 52_428_800


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        ("application/json", b'{"a": "\xc3\xa4"}', '{"a": "ä"}'),
        ("application/hal+json; charset=utf-8", b"{}", "{}"),
        ("image/png", b"\x89PNG", "(4 bytes that are not text)"),
        ("text/plain", b"a\0b", "(3 bytes that are not text)"),
        ("text/plain", b"\xff", "\ufffd"),
        ("", b"plain", "plain"),
    ],
)
async def test_text_is_shown_and_what_is_none_is_named(kind: str, body: bytes, shown: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with raw_server(answer=head + body) as server:
        result = await call(tool(), vault(server.port))
    assert json.loads(result.content)["body"] == shown


async def test_a_head_request_and_an_empty_answer() -> None:
    async with raw_server(answer=b"HTTP/1.1 204 No Content\r\n\r\n") as server:
        assert json.loads((await call(tool("HEAD"), vault(server.port))).content)["status"] == 204
        assert (await call(tool("DELETE"), vault(server.port))).ok
