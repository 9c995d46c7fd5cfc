"""The payload codec, and the endpoint through which operators' tools use it."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload

from holdfast.codec import ENCODING, EncryptingCodec, PayloadRefused, data_converter
from holdfast.contracts.run import StartRun

from .world import Tenant, World, problem, running_api, settings_for

ORIGIN = "http://127.0.0.1:8233"
CODEC = EncryptingCodec(bytes(32))


@given(data=st.binary(max_size=2_000), encoding=st.binary(max_size=30))
def test_what_is_encrypted_comes_back(data: bytes, encoding: bytes) -> None:
    plain = Payload(metadata={"encoding": encoding, "more": b"x"}, data=data)
    (sealed,) = asyncio.run(CODEC.encode([plain]))
    assert sealed.metadata["encoding"] == ENCODING
    assert len(data) < 4 or data not in sealed.data
    assert asyncio.run(CODEC.decode([sealed])) == [plain]


@given(place=st.integers(0), bit=st.integers(0, 7))
def test_no_bit_can_be_changed(place: int, bit: int) -> None:
    (sealed,) = asyncio.run(CODEC.encode([Payload(data=b"secret")]))
    data = bytearray(sealed.data)
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(PayloadRefused):
        asyncio.run(CODEC.decode([Payload(metadata=sealed.metadata, data=bytes(data))]))


@pytest.mark.parametrize("data", [b"", b"x", bytes(11), bytes(12), bytes(100)])
async def test_rubbish_is_refused(data: bytes) -> None:
    (sealed,) = await CODEC.encode([Payload(data=b"secret")])
    with pytest.raises(PayloadRefused):
        await CODEC.decode([Payload(metadata=sealed.metadata, data=data)])


async def test_another_keys_payload_is_refused_and_a_plain_one_passes() -> None:
    (sealed,) = await CODEC.encode([Payload(data=b"secret")])
    with pytest.raises(PayloadRefused):
        await EncryptingCodec(os.urandom(32)).decode([sealed])
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b"{}")
    assert await CODEC.decode([plain]) == [plain]


async def test_nonces_never_repeat() -> None:
    sealed = await CODEC.encode([Payload(data=b"same")] * 1_000)
    assert len({payload.data[:12] for payload in sealed}) == 1_000


async def test_failures_are_encrypted_as_well(codec_key: bytes) -> None:
    from temporalio.api.failure.v1 import Failure

    converter = data_converter(codec_key)
    failure = Failure()
    await converter.encode_failure(ValueError("the customer's address"), failure)
    assert b"customer" not in failure.SerializeToString()
    (payload,) = await converter.encode([StartRun()])
    assert payload.metadata["encoding"] == ENCODING


def wire(payload: Payload) -> dict[str, Any]:
    metadata = {name: base64.b64encode(value).decode() for name, value in payload.metadata.items()}
    return {"metadata": metadata, "data": base64.b64encode(payload.data).decode()}


async def test_operators_decode_what_others_cannot(tenant: Tenant, world: World, codec_key: bytes) -> None:
    (sealed,) = await EncryptingCodec(codec_key).encode([Payload(metadata={"encoding": b"json/plain"}, data=b'"hi"')])
    body = {"payloads": [wire(sealed)]}
    async with world.api.client() as client:
        problem(await client.post("/codec/decode", json=body), 401, "auth.not_authenticated")
    problem(await tenant.owner.post("/codec/decode", json=body), 403, "auth.not_permitted")
    async with world.api.client(await world.operator_key()) as operator:
        answer = await operator.post("/codec/decode", json=body, headers={"origin": ORIGIN})
        (payload,) = answer.json()["payloads"]
        assert base64.b64decode(payload["data"]) == b'"hi"'
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        (again,) = (await operator.post("/codec/encode", json={"payloads": [payload]})).json()["payloads"]
        assert base64.b64decode(again["metadata"]["encoding"]) == ENCODING
        altered = {"payloads": [{**wire(sealed), "data": base64.b64encode(bytes(60)).decode()}]}
        problem(await operator.post("/codec/decode", json=altered), 422, "codec.refused")
        problem(await operator.post("/codec/decode", json={"payloads": [{"data": "%"}]}), 422, "request.invalid")


async def test_pages_of_others_are_kept_out(world: World) -> None:
    async with running_api(settings_for(world.stack, codec_endpoint_open=True)) as api, api.client() as client:
        assert (await client.post("/codec/decode", json={"payloads": []})).json() == {"payloads": []}
        for origin in (ORIGIN, "http://localhost:8233"):
            preflight = await client.options("/codec/decode", headers={"origin": origin})
            assert preflight.status_code == 204
            assert preflight.headers["access-control-allow-origin"] == origin
        for origin in ("http://evil.example", "http://127.0.0.1:8234", "https://127.0.0.1:8233", "null"):
            headers = {"origin": origin}
            problem(await client.options("/codec/decode", headers=headers), 403, "auth.not_permitted")
            problem(
                await client.post("/codec/decode", json={"payloads": []}, headers=headers), 403, "auth.not_permitted"
            )
