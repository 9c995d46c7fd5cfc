"""Object storage in S3, where this process's settings name it: whether it can be written, read and deleted in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Final

from cli.doctor.finding import Finding, of_error, ok
from holdfast.errors import HoldfastError

_PART: Final = "object storage"
_NAMED: Final = "HOLDFAST_OBJECTS_BUCKET"


def bucket() -> Iterator[Finding]:
    """Writes a probe object into the bucket, reads it and removes it; says nothing where no bucket is named."""
    if not os.environ.get(_NAMED):
        return
    from holdfast.artefacts.bucket import Bucket
    from holdfast.settings import BucketSettings, load

    try:
        settings = load(BucketSettings)
        found = Bucket.of(settings)
        assert found is not None  # a bucket is named
        asyncio.run(found.probe())
    except HoldfastError as error:
        yield of_error(_PART, error)
        return
    where = settings.objects_endpoint or f"S3 in {settings.objects_region}"
    yield ok(_PART, f"wrote, read and deleted an object in {settings.objects_bucket} at {where}")
