"""Contents in S3, on a real server: kept once, given out only as they were, and every way in which S3 fails is said as it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr

from holdfast.artefacts import signed
from holdfast.artefacts.bucket import Bucket
from holdfast.artefacts.signed import Asked, SignedStorage
from holdfast.artefacts.storage import (
    OBJECT_BYTES_MAX,
    ArtefactLost,
    StorageRefused,
    StorageUnavailable,
    key_of,
)
from holdfast.errors import ConfigurationInvalid, HoldfastError
from holdfast.settings import BucketSettings

from .s3_server import BUCKET, SECRET, S3Server, cut_way

pytestmark = pytest.mark.timeout(600)  # servers are started, and the first time one is built

CONTENT = os.urandom(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Signing:
    """Signs as the broker does, in this process."""

    def __init__(self, bucket: Bucket, tenant_id: UUID) -> None:
        self.bucket = bucket
        self.tenant_id = tenant_id
        self.urls: list[str] = []

    async def sign(self, asked: Asked) -> str:
        self.urls.append(await self.bucket.sign(self.tenant_id, asked))
        return self.urls[-1]


def bucket_of(settings: BucketSettings) -> Bucket:
    bucket = Bucket.of(settings)
    assert bucket is not None
    return bucket


def storage_of(settings: BucketSettings, tenant_id: UUID) -> tuple[SignedStorage, Signing]:
    signing = Signing(bucket_of(settings), tenant_id)
    _ways.append(signed.connect())
    return SignedStorage(signing, _ways[-1]), signing


_ways: list[httpx.AsyncClient] = []


@pytest.fixture(autouse=True)
async def _hasty(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(signed, "_PATIENCE_S", 1.0)
    yield
    while _ways:
        await _ways.pop().aclose()


async def test_a_content_is_kept_once_under_its_tenant_and_got_back(s3: S3Server) -> None:
    tenant_id = uuid4()
    storage, signing = storage_of(s3.settings(objects_prefix="/of/runs/"), tenant_id)
    assert await storage.put(tenant_id, CONTENT) == DIGEST
    path = s3.bucket / "of/runs" / str(tenant_id) / DIGEST[:2] / DIGEST
    assert path.read_bytes() == CONTENT
    written = path.stat().st_mtime_ns
    assert await storage.put(tenant_id, CONTENT) == DIGEST
    assert path.stat().st_mtime_ns == written
    assert signing.urls[-1] == ""  # nobody gets an address to write over what is there
    assert await storage.get(tenant_id, DIGEST, len(CONTENT)) == CONTENT
    assert await storage.put(tenant_id, b"") == hashlib.sha256(b"").hexdigest()
    assert await storage.get(tenant_id, hashlib.sha256(b"").hexdigest(), 0) == b""


async def test_another_tenants_content_is_not_there(s3: S3Server) -> None:
    mine, theirs = uuid4(), uuid4()
    await storage_of(s3.settings(), mine)[0].put(mine, CONTENT)
    with pytest.raises(ArtefactLost, match="NoSuchKey"):
        await storage_of(s3.settings(), theirs)[0].get(theirs, DIGEST, len(CONTENT))


@pytest.mark.parametrize("lie", [b"forged", CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"\0\0", b""])
async def test_a_digest_that_lies_is_never_believed(s3: S3Server, lie: bytes) -> None:
    tenant_id = uuid4()
    storage, _ = storage_of(s3.settings(), tenant_id)
    await storage.put(tenant_id, CONTENT)
    (s3.bucket / key_of(tenant_id, DIGEST)).write_bytes(lie)
    with pytest.raises(ArtefactLost):
        await storage.get(tenant_id, DIGEST, len(CONTENT))


async def test_no_byte_more_is_read_than_the_content_has(s3: S3Server) -> None:
    tenant_id = uuid4()
    storage, _ = storage_of(s3.settings(), tenant_id)
    await storage.put(tenant_id, b"small")
    small = hashlib.sha256(b"small").hexdigest()
    with (s3.bucket / key_of(tenant_id, small)).open("wb") as file:
        file.truncate(512 * 2**20)
    with pytest.raises(ArtefactLost, match="was changed"):
        await storage.get(tenant_id, small, 5)


async def test_what_is_too_large_is_not_kept(s3: S3Server) -> None:
    tenant_id = uuid4()
    storage, signing = storage_of(s3.settings(), tenant_id)
    with pytest.raises(StorageRefused, match="at most"):
        await storage.put(tenant_id, bytes(OBJECT_BYTES_MAX + 1))
    assert not signing.urls


@pytest.mark.parametrize("up_bytes", [10, 2_000, 150_000])
async def test_a_connection_that_is_cut_while_writing_leaves_nothing_half(
    s3: S3Server, up_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_id = uuid4()
    for patience_s in (1.0, 10.0, 60.0):  # on a busy machine the first cut may come when there is none left
        monkeypatch.setattr(signed, "_PATIENCE_S", patience_s)
        async with cut_way(s3, up_bytes=up_bytes) as way:
            storage, _ = storage_of(s3.settings(objects_endpoint=way.url), tenant_id)
            with pytest.raises(StorageUnavailable) as raised:
                await storage.put(tenant_id, CONTENT)
        if way.made > 1:
            break
    assert way.made > 1  # it was tried again
    assert "X-Amz" not in raised.value.message
    assert not (s3.bucket / key_of(tenant_id, DIGEST)).exists()
    again, _ = storage_of(s3.settings(), tenant_id)
    await again.put(tenant_id, CONTENT)
    assert await again.get(tenant_id, DIGEST, len(CONTENT)) == CONTENT


async def test_what_is_cut_once_is_written_the_second_time(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed, "_PATIENCE_S", 60.0)
    tenant_id = uuid4()
    async with cut_way(s3, up_bytes=150_000, cuts=1) as way:
        storage, signing = storage_of(s3.settings(objects_endpoint=way.url), tenant_id)
        await storage.put(tenant_id, CONTENT)
        assert (way.made, len(signing.urls)) == (1, 2)
    assert (s3.bucket / key_of(tenant_id, DIGEST)).read_bytes() == CONTENT


async def test_a_connection_that_is_cut_while_reading_gives_nothing_out(s3: S3Server) -> None:
    tenant_id = uuid4()
    await storage_of(s3.settings(), tenant_id)[0].put(tenant_id, CONTENT)
    async with cut_way(s3, down_bytes=150_000) as way:
        with pytest.raises(StorageUnavailable, match="broke off while reading"):
            await storage_of(s3.settings(objects_endpoint=way.url), tenant_id)[0].get(tenant_id, DIGEST, len(CONTENT))


WRONG: dict[str, tuple[dict[str, Any], type[HoldfastError]]] = {
    "secret": ({"objects_secret_access_key": SecretStr("0ther-secret")}, StorageRefused),
    "key": ({"objects_access_key_id": "nobody"}, StorageRefused),
    "bucket": ({"objects_bucket": "not-there"}, StorageRefused),
    "endpoint": ({"objects_endpoint": "http://127.0.0.1:9"}, StorageUnavailable),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_whatever_is_wrong_with_s3_is_said_and_nothing_is_taken_for_kept(s3: S3Server, wrong: str) -> None:
    changes, kind = WRONG[wrong]
    tenant_id = uuid4()
    await storage_of(s3.settings(), tenant_id)[0].put(tenant_id, CONTENT)
    settings = s3.settings(**changes)
    storage, _ = storage_of(settings, tenant_id)
    for attempt in (
        storage.put(tenant_id, b"more"),
        storage.get(tenant_id, DIGEST, len(CONTENT)),
        bucket_of(settings).probe(),
    ):
        with pytest.raises(kind) as raised:
            await attempt
        error = raised.value
        for secret in (SECRET, "0ther-secret", "X-Amz", "Signature="):
            assert secret not in error.message + error.remedy


async def test_an_address_is_for_one_method_on_one_content_and_ends(s3: S3Server) -> None:
    tenant_id = uuid4()
    bucket = bucket_of(s3.settings())
    await storage_of(s3.settings(), tenant_id)[0].put(tenant_id, CONTENT)
    url = await bucket.sign(tenant_id, Asked(method="GET", sha256=DIGEST, size_bytes=len(CONTENT)))
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(url)).content == CONTENT
        for refused in (
            await http.put(url, content=b"forged"),
            await http.delete(url),
            await http.get(url.replace(str(tenant_id), str(uuid4()))),
            await http.get(url.replace(DIGEST, "0" * 64)),
            await http.get(url.replace("X-Amz-Expires=120", "X-Amz-Expires=86400")),
            await http.get(f"{s3.url}/{BUCKET}/{key_of(tenant_id, DIGEST)}"),
        ):
            assert refused.status_code == 403, refused.text
    assert "X-Amz-Expires=120" in url


async def test_a_probe_leaves_nothing(s3: S3Server) -> None:
    before = s3.objects()
    await bucket_of(s3.settings()).probe()
    assert s3.objects() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"objects_secret_access_key": None},
        {"objects_access_key_id": ""},
        {"objects_bucket": ""},
        {"objects_bucket": "../x"},
        {"objects_prefix": "a/../b"},
        {"objects_prefix": "a?b"},
    ],
)
def test_settings_in_part_or_wrong_are_refused(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "objects_bucket": BUCKET,
        "objects_access_key_id": "k",
        "objects_secret_access_key": SecretStr("s"),
        **changes,
    }
    with pytest.raises(ConfigurationInvalid):
        Bucket.of(BucketSettings(**fields))


def test_no_settings_are_no_bucket() -> None:
    assert Bucket.of(BucketSettings()) is None
