"""Object storage in S3, as those reach it who hold no credential: the broker signs an address for each single content.

A signed address is good for one method on one content for two minutes. It is a secret for as long: it stands in no log and no message.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal, Protocol, TypeVar, cast
from uuid import UUID

import httpx
import orjson
from pydantic import BaseModel, ConfigDict, Field
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from holdfast.artefacts import storage
from holdfast.artefacts.storage import OBJECT_BYTES_MAX, ArtefactLost, StorageRefused, StorageUnavailable

_PATIENCE_S: Final = 15.0
_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
_ERROR_BYTES_MAX: Final = 4_096
_ERROR_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9.]{1,80})</Code>")
_NOT_FOUND: Final = 404
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

AnswerT = TypeVar("AnswerT")


class Asked(BaseModel):
    """What an address is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    method: Literal["GET", "PUT"]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0, le=OBJECT_BYTES_MAX)


class Signed(BaseModel):
    """The address, or nothing for a content that is to be written and is there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str


class Signer(Protocol):
    """Who gets signed addresses."""

    async def sign(self, asked: Asked) -> str:
        """Returns an address; an empty text for a content that is there already.

        Raises:
            HoldfastError: There is none.
        """


class BrokerSigner:
    """Asks the broker for addresses.

    Args:
        broker: The way to it.
        path: What it is asked at.
        headers: Who asks.
        fields: What goes with each question.
    """

    def __init__(
        self,
        broker: httpx.AsyncClient,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        self._broker = broker
        self._path = path
        self._headers = dict(headers or {})
        self._fields = dict(fields or {})

    async def sign(self, asked: Asked) -> str:
        """See `Signer.sign`."""
        body = orjson.dumps({**self._fields, **asked.model_dump()})
        headers = {**self._headers, "content-type": "application/json"}
        try:
            answer = await self._broker.post(self._path, content=body, headers=headers)
        except httpx.HTTPError as error:
            raise StorageUnavailable(
                f"the broker, which signs for object storage, does not answer ({type(error).__name__})"
            ) from None
        if answer.is_error:
            raise _refusal(answer)
        return Signed.model_validate_json(answer.content).url


def _refusal(answer: httpx.Response) -> ArtefactLost | StorageRefused | StorageUnavailable:
    problem = orjson.loads(answer.content) if answer.content.startswith(b"{") else {}
    kind: type[ArtefactLost | StorageRefused | StorageUnavailable] = StorageRefused
    for known in (ArtefactLost, StorageUnavailable):
        kind = known if problem.get("code") == known.code else kind
    detail = str(problem.get("detail", f"the broker answers with status {answer.status_code}"))
    return kind(detail, remedy=str(problem.get("remedy", "")))


class SignedStorage:
    """Reads and writes contents at addresses that the broker has signed.

    Args:
        signer: Gets them.
        http: The way to S3, see `connect`.
    """

    def __init__(self, signer: Signer, http: httpx.AsyncClient) -> None:
        self._signer = signer
        self._http = http

    async def put(self, tenant_id: UUID, content: bytes) -> str:
        """See `ObjectStorage.put`. The broker knows the tenant by who asks, and takes nobody's word for it."""
        sha256 = hashlib.sha256(content).hexdigest()
        storage.key_of(tenant_id, sha256)
        if len(content) > OBJECT_BYTES_MAX:
            raise StorageRefused(f"a content has at most {OBJECT_BYTES_MAX} bytes, this has {len(content)}")

        async def write() -> None:
            url = await self._signer.sign(Asked(method="PUT", sha256=sha256, size_bytes=len(content)))
            if url:
                await self._write(url, content)

        await _patiently(write)
        return sha256

    async def _write(self, url: str, content: bytes) -> None:
        # S3 compares it with what arrived; a header of its own kind would have to be part of the signature
        md5 = hashlib.md5(content, usedforsecurity=False).digest()
        try:
            async with self._http.stream(
                "PUT", url, content=content, headers={"content-md5": base64.b64encode(md5).decode()}
            ) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise await _storage_error(answer, "")
        except httpx.HTTPError as error:
            raise StorageUnavailable(f"object storage broke off while writing ({type(error).__name__})") from None

    async def get(self, tenant_id: UUID, sha256: str, size_bytes: int) -> bytes:
        """See `ObjectStorage.get`."""
        storage.key_of(tenant_id, sha256)

        async def read() -> bytes:
            return await self._read(
                await self._signer.sign(Asked(method="GET", sha256=sha256, size_bytes=size_bytes)), sha256, size_bytes
            )

        return storage.check(await _patiently(read), sha256, size_bytes)

    async def _read(self, url: str, sha256: str, size_bytes: int) -> bytes:
        content = bytearray()
        try:
            async with self._http.stream("GET", url, headers={"accept-encoding": "identity"}) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise await _storage_error(answer, sha256)
                async for chunk in answer.aiter_raw():
                    content += chunk
                    if len(content) > size_bytes:
                        break  # more than was ever written: it is another content
        except httpx.HTTPError as error:
            raise StorageUnavailable(f"object storage broke off while reading ({type(error).__name__})") from None
        return bytes(content)


async def _storage_error(answer: httpx.Response, sha256: str) -> ArtefactLost | StorageRefused | StorageUnavailable:
    """Reads what S3 says; of its words only the code is passed on, for the rest may quote the address."""
    said = b""
    async for chunk in answer.aiter_raw():
        said += chunk[:_ERROR_BYTES_MAX]
        if len(said) >= _ERROR_BYTES_MAX:
            break
    found = _ERROR_CODE.search(said)
    code = found[1].decode() if found else f"status {answer.status_code}"
    # any other word than S3's own for it may mean that the key or the bucket is another one
    if answer.status_code == _NOT_FOUND and sha256 and (found is None or code == "NoSuchKey"):
        return storage.missing(sha256, code)
    if answer.status_code in _AGAIN:
        return StorageUnavailable(f"object storage cannot serve this now: {code}")
    return refused(code)


def refused(code: str) -> StorageRefused:
    """Returns the error for what S3 refuses."""
    return StorageRefused(
        f"object storage refuses: {code}",
        remedy="check the broker's HOLDFAST_OBJECTS_… settings: bucket, endpoint, region, key; `holdfast doctor` tries them",
    )


async def _patiently(operation: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
    """Tries again what may be asked again: a content is written once, whoever writes it twice writes the same."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(StorageUnavailable),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        stop=stop_after_delay(_PATIENCE_S),
        reraise=True,
    )
    return cast("AnswerT", await retrying(operation))


def connect() -> httpx.AsyncClient:
    """Returns a way to S3. It follows no redirect: a signed address is for one host."""
    return httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False)
