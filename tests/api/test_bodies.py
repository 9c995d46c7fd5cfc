"""Whatever is sent, the answer is a documented one: never a 500, never a stack trace, always a sentence that names the field."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from api.middleware import BODY_BYTES_MAX

from .test_isolation import OPERATIONS
from .world import AGENT, GATED, Tenant, World, problem, role

RUN: dict[str, Any] = {"agent": "desk", "input": "x"}


async def send(client: httpx.AsyncClient, body: bytes, path: str = "/v1/runs", **headers: str) -> httpx.Response:
    return await client.post(path, content=body, headers={"content-type": "application/json", **headers})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "Field required"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b'"text"', "valid dictionary"),
        (b"[]", "valid dictionary"),
        (b'{"agent":"desk","agent":"other","input":"x"}', "`agent`: the key stands twice"),
        (b'{"agent":"desk","input":NaN}', "NaN"),
        (b'{"agent":"desk","input":"\\u0000"}', "`body.input`: the text holds a NUL"),
        (b'{"agent":"desk","input":"\\ud800"}', "surrogate"),
        (b'{"agent":"desk","input":"x","deadline_s":' + b"9" * 5000 + b"}", "digits"),
        (b'{"agent":"desk","input":"x","deadline_s":' + b"9" * 30 + b"}", "`deadline_s`"),
    ],
)
async def test_json_with_two_meanings_or_none_is_refused(tenant: Tenant, body: bytes, said: str) -> None:
    assert said in problem(await send(tenant.owner, body), 422, "request.invalid")["detail"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"agent": 1}, "agent"),
        ({"agent": "Not A Slug"}, "agent"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": "x" * 200_001}, "input"),
        ({"guaranteed": "yes"}, "guaranteed"),
        ({"guaranteed": 1}, "guaranteed"),
        ({"deadline_s": "60"}, "deadline_s"),
        ({"deadline_s": True}, "deadline_s"),
        ({"deadline_s": 1.5}, "deadline_s"),
        ({"cap_usd": 1}, "cap_usd"),
        ({"cap_usd": "-1"}, "cap_usd"),
        ({"cap_usd": "1e3"}, "cap_usd"),
        ({"cap_usd": "0.0000000001"}, "cap_usd"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_wrong_fields_are_named(tenant: Tenant, change: dict[str, Any], field: str) -> None:
    body = problem(await tenant.owner.post("/v1/runs", json={**RUN, **change}), 422, "request.invalid")
    assert [error["field"] for error in body["errors"]] == [field]
    assert f"`{field}`" in body["detail"]


async def test_size_and_depth_are_bounded(tenant: Tenant) -> None:
    big = json.dumps({**RUN, "input": "x" * BODY_BYTES_MAX}).encode()
    problem(await send(tenant.owner, big), 413, "request.too_large")

    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * 32_768

    unknown_length = await tenant.owner.post("/v1/runs", content=chunks(), headers={"content-type": "application/json"})
    problem(unknown_length, 413, "request.too_large")
    problem(await send(tenant.owner, b"[" * 100_000), 413, "request.too_large")
    problem(await send(tenant.owner, b'{"a":' * 65 + b"1" + b"}" * 65), 413, "request.too_large")
    answer = await tenant.owner.post("/v1/runs", content=json.dumps(RUN), headers={"content-type": "text/plain"})
    problem(answer, 422, "request.invalid")


async def test_paths_and_methods_that_are_not_there(tenant: Tenant, world: World) -> None:
    problem(await tenant.owner.get("/v1/nothing"), 404, "resource.not_found")
    problem(await tenant.owner.get("/v1/runs/"), 404, "resource.not_found")
    problem(await tenant.owner.get("/docs"), 404, "resource.not_found")
    refused = await tenant.owner.patch("/v1/runs")
    problem(refused, 405, "request.method_not_allowed")
    assert "POST" in refused.headers["allow"] or "GET" in refused.headers["allow"]
    problem(await tenant.owner.get("/v1/runs/not-a-uuid"), 422, "request.invalid")
    problem(await tenant.owner.get("/v1/agents/%00"), 422, "request.invalid")
    assert world.api.serving.done() is False


@pytest.mark.parametrize("cursor", ["x", "%00", "AAAA", "!!!", "w6Q=", "A" * 401, "bm90LWEtdXVpZA=="])
async def test_cursors_are_opaque_and_checked(tenant: Tenant, cursor: str) -> None:
    for path in ("/v1/runs", "/v1/decisions", "/v1/holds", "/v1/caps", "/v1/keys", "/v1/approvals"):
        problem(await tenant.owner.get(path, params={"cursor": cursor}), 422, "request.invalid")


@pytest.mark.parametrize("key", ["", "x" * 201, "sp ace", "caf\u00e9"])
async def test_idempotency_keys_are_bounded(tenant: Tenant, key: str) -> None:
    answer = await tenant.owner.post("/v1/runs", json=RUN, headers=[(b"idempotency-key", key.encode("latin-1"))])
    problem(answer, 422, "request.invalid")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
GOOD: list[dict[str, Any]] = [
    RUN,
    AGENT,
    role(GATED),
    {"scope": {"kind": "tenant"}, "limit_usd": "1", "reason": "x"},
    {"verdict": "approved", "comment": "", "edited_arguments": {"a": 1}},
    {"mode": "followup", "content": "x"},
    {"happened": True, "cost_usd": "1", "reason": "x"},
    {"user": "owner", "project": "default", "roles": ["viewer"]},
    {"payloads": [{"metadata": {"encoding": "eA=="}, "data": "eA=="}]},
]


@st.composite
def almost_good(draw: st.DrawFn) -> Any:
    """A good body with one place of it replaced, removed or added."""
    body = json.loads(json.dumps(draw(st.sampled_from(GOOD))))
    place: Any = body
    for _ in range(draw(st.integers(0, 3))):
        children = [
            child
            for child in (place.values() if isinstance(place, dict) else place)
            if isinstance(child, dict | list) and child
        ]
        if not children:
            break
        place = draw(st.sampled_from(children))
    if isinstance(place, list):
        place[draw(st.integers(0, len(place) - 1))] = draw(JSON)
    else:
        name = draw(st.sampled_from(sorted(place)) | st.text(max_size=10))
        if draw(st.booleans()):
            place[name] = draw(JSON)
        else:
            place.pop(name, None)
    return body


WRITING = sorted({(method, path) for method, path, _ in OPERATIONS if method in ("POST", "PUT")})


@given(operation=st.sampled_from(WRITING), body=JSON | almost_good())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
async def test_no_body_breaks_an_operation(tenant: Tenant, operation: tuple[str, str], body: Any) -> None:
    method, path = operation
    ids = dict.fromkeys(re.findall(r"{(\w+)}", path), "01920000-0000-7000-8000-000000000000")
    answer = await tenant.owner.request(method, path.format(**{**ids, "name": "fuzz"}), json=body)
    assert answer.status_code < 500 or path.startswith("/v1/vault"), (path, body, answer.text)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]


@given(raw=st.binary(max_size=60))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
async def test_no_bytes_break_it(tenant: Tenant, raw: bytes) -> None:
    answer = await send(tenant.owner, raw)
    assert answer.status_code in (201, 413, 422)


@given(
    path=st.sampled_from(["/v1/runs", "/v1/approvals", "/v1/holds", "/v1/decisions", "/v1/caps", "/v1/users"]),
    params=st.dictionaries(
        st.sampled_from(["limit", "cursor", "run", "status", "state", "verdict", "kind", "code", "agent"]),
        st.text(max_size=12) | st.integers().map(str),
        max_size=3,
    ),
)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@example(path="/v1/runs", params={"agent": "\0"})
async def test_no_query_breaks_a_list(tenant: Tenant, path: str, params: dict[str, str]) -> None:
    answer = await tenant.owner.get(path, params=params)
    assert answer.status_code in (200, 422), (path, params, answer.text)


@pytest.mark.parametrize("path", ["/v1/roles/a%00b", "/v1/approvals/%00", "/v1/policies/%00"])
async def test_a_path_with_a_nul_leads_nowhere(tenant: Tenant, path: str) -> None:
    assert (await tenant.owner.get(path)).status_code in {404, 422}


@pytest.mark.parametrize("path", ["/v1/runs?agent=%00", "/v1/runs?%00=1", "/v1/decisions?code=a%00"])
async def test_a_query_with_a_nul_is_refused_before_anything_reads_it(tenant: Tenant, path: str) -> None:
    assert "NUL" in problem(await tenant.owner.get(path), 422, "request.invalid")["detail"]


KEYLESS: Final = ("/v1/approval-links/", "/v1/approval-callbacks/")
"""What is decided there by a secret in the path, or by a signature."""


def test_the_description_is_complete(world: World) -> None:
    schema = world.api.server.config.app.openapi()  # type: ignore[union-attr]  # it is the FastAPI application
    names = [name for _, _, name in OPERATIONS]
    assert len(names) == len(set(names))
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            if path.startswith("/v1"):
                assert operation.get("security", []) == ([] if path.startswith(KEYLESS) else [{"api_key": []}])
                assert "Problem" in str(operation["responses"]["422"])
    text = json.dumps(schema)
    assert "HTTPValidationError" not in text
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(schema["components"]["schemas"])


def test_the_reference_names_every_operation_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", page, re.MULTILINE))
    assert named == {f"{method} {path}" for method, path, _ in OPERATIONS}
