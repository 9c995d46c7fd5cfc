"""The bucket: S3 with its credential, which the broker alone holds."""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from typing import Final, Literal
from uuid import UUID

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from holdfast.artefacts import storage
from holdfast.artefacts.signed import Asked, refused
from holdfast.artefacts.storage import ArtefactLost, StorageRefused, StorageUnavailable
from holdfast.errors import ConfigurationInvalid
from holdfast.settings import BucketSettings, variable

_LASTS: Final = timedelta(minutes=2)
_PROBE_BYTES: Final = 1024
_S3_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]{1,80})</Code>")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9_.-]{1,100}/){0,8}")


class Bucket:
    """Signs addresses of contents, and tries whether the bucket can be used.

    Args:
        store: The bucket, by its client library.
        prefix: What all names in it begin with; empty, or ends with a slash.
    """

    def __init__(self, store: S3Store, prefix: str = "") -> None:
        self._store = store
        self._prefix = prefix

    @classmethod
    def of(cls, settings: BucketSettings) -> Bucket | None:
        """Returns the bucket that the settings name, None if they name none. Nothing is asked yet.

        Raises:
            ConfigurationInvalid: They name one in part, or wrongly.
        """
        key, secret = settings.objects_access_key_id, settings.objects_secret_access_key
        if not settings.objects_bucket:
            if key or secret is not None:
                raise ConfigurationInvalid(f"a key of S3 is set, but no {variable('objects_bucket')}")
            return None
        if not _NAME.fullmatch(settings.objects_bucket):
            raise ConfigurationInvalid(f"{variable('objects_bucket')}: {settings.objects_bucket!r} is no bucket's name")
        # fail closed: without a key the library would look for one elsewhere, on this host and on the network
        if not key or secret is None:
            missing = [
                variable(name)
                for name, value in (("objects_access_key_id", key), ("objects_secret_access_key", secret))
                if not value
            ]
            raise ConfigurationInvalid(f"object storage in S3 needs {' and '.join(missing)}")
        prefix = settings.objects_prefix.strip("/")
        prefix = f"{prefix}/" if prefix else ""
        if not _PREFIX.fullmatch(prefix) or "." in prefix.split("/") or ".." in prefix.split("/"):
            raise ConfigurationInvalid(f"{variable('objects_prefix')}: {prefix!r} is no prefix")
        store = S3Store(
            settings.objects_bucket,
            endpoint=settings.objects_endpoint or f"https://s3.{settings.objects_region}.amazonaws.com",
            region=settings.objects_region,
            access_key_id=key,
            secret_access_key=secret.get_secret_value(),
            virtual_hosted_style_request=False,
            client_options={"allow_http": settings.objects_endpoint.startswith("http://"), "timeout": "10s"},
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=10)},
        )
        return cls(store, prefix)

    async def sign(self, tenant_id: UUID, asked: Asked) -> str:
        """Returns an address for one method on one content; an empty text for a content that is there already.

        Raises:
            StorageRefused: It cannot be looked whether the content is there.
            StorageUnavailable: S3 does not answer.
        """
        path = self._prefix + storage.key_of(tenant_id, asked.sha256)
        if asked.method == "PUT" and await self._is_there(path, asked.size_bytes):
            return ""  # written once: nobody gets an address to write over it
        return await obstore.sign_async(self._store, asked.method, path, _LASTS)

    async def _is_there(self, path: str, size_bytes: int) -> bool:
        try:
            return (await obstore.head_async(self._store, path))["size"] == size_bytes
        except FileNotFoundError:
            return False
        except BaseError as error:
            raise _said(error) from None

    async def probe(self) -> None:
        """Writes an object, reads it, removes it, and makes sure of each.

        Raises:
            HoldfastError: One of them does not work.
        """
        path, content = f"{self._prefix}probe/{secrets.token_hex(16)}", secrets.token_bytes(_PROBE_BYTES)
        step: Literal["writing", "reading", "deleting"] = "writing"
        try:
            await obstore.put_async(self._store, path, content)
            step = "reading"
            read = bytes(await (await obstore.get_async(self._store, path)).bytes_async())
            step = "deleting"
            await obstore.delete_async(self._store, path)
        except FileNotFoundError:
            raise StorageRefused(
                f"{step} a probe object: there is no such bucket, or the object is not there",
                remedy="check the bucket's name, the endpoint and the region",
            ) from None
        except BaseError as error:
            found = _said(error)
            raise type(found)(f"{step} a probe object: {found.message}", remedy=found.remedy) from None
        if read != content:
            raise ArtefactLost("the bucket returns another content than was written")


def _said(error: BaseError) -> StorageRefused | StorageUnavailable:
    """Returns what it means. Of the library's words only S3's own code is passed on: the rest quotes addresses."""
    found = _S3_CODE.search(str(error))
    if found is not None:
        return refused(found[1])
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return refused("the key has no right to do this, or is another one")
    return StorageUnavailable(
        f"object storage does not answer ({type(error).__name__})",
        remedy="check HOLDFAST_OBJECTS_ENDPOINT, and that the broker reaches it",
    )
