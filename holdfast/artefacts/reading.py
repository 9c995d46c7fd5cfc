"""Which files a run has: what it was given, and what its code has made. The latter stands in the outcomes, and nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast_verdict.canonical import JsonValue

_GIVEN = text("""
    SELECT name, size_bytes, sha256, created_at FROM run_files WHERE tenant_id = :tenant_id AND run_id = :run_id ORDER BY name
""")
_MADE = text("""
    SELECT h.step, h.try AS try_number, o.result, o.stored_at
    FROM holds h JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
    WHERE h.tenant_id = :tenant_id AND h.run_id = :run_id AND h.kind = 'code.exec' AND h.step < :before
      AND h.state IN ('executed', 'committed') AND h.superseded_at IS NULL
    ORDER BY h.step, h.try
""")
_GIVE = text("""
    INSERT INTO run_files (tenant_id, run_id, name, size_bytes, sha256)
    SELECT :tenant_id, :run_id, f.name, f.size_bytes, f.sha256
    FROM unnest(CAST(:names AS text[]), CAST(:sizes AS bigint[]), CAST(:digests AS bytea[])) AS f (name, size_bytes, sha256)
""")
_ALL_STEPS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file of a run.

    Attributes:
        step: The step whose code made it; 0 for what the run was given.
        try_number: The try of that step.
        name: Its name within the run.
        size_bytes: Its size.
        sha256: Its digest, hex.
        created_at: When it came to be.
    """

    step: int
    try_number: int
    name: str
    size_bytes: int
    sha256: str
    created_at: datetime


async def give(connection: AsyncConnection, tenant_id: UUID, run_id: UUID, files: Mapping[str, bytes]) -> None:
    """Writes down, in the transaction of its admission, which files a run is given; their contents are kept already."""
    if files:
        await connection.execute(
            _GIVE,
            {
                "tenant_id": tenant_id,
                "run_id": run_id,
                "names": list(files),
                "sizes": [len(content) for content in files.values()],
                "digests": [hashlib.sha256(content).digest() for content in files.values()],
            },
        )


async def list_artefacts(
    connection: AsyncConnection, tenant_id: UUID, run_id: UUID, *, before_step: int = _ALL_STEPS
) -> list[Artefact]:
    """Returns a run's files in the order in which they came to be.

    Args:
        connection: A transaction in the tenant.
        tenant_id: The tenant.
        run_id: The run.
        before_step: Only what earlier steps have made.
    """
    key = {"tenant_id": tenant_id, "run_id": run_id}
    found = [
        Artefact(0, 0, row.name, row.size_bytes, row.sha256.hex(), row.created_at)
        for row in await connection.execute(_GIVEN, key)
    ]
    for row in await connection.execute(_MADE, {**key, "before": before_step}):
        found += [
            Artefact(
                row.step,
                row.try_number,
                str(file["name"]),
                cast(int, file["size_bytes"]),
                str(file["sha256"]),
                row.stored_at,
            )
            for file in files_of(row.result)
        ]
    return found


def files_of(result: bytes) -> list[Mapping[str, JsonValue]]:
    """Returns the files that an outcome of `code.exec` names; none if it cannot be read."""
    try:
        value = orjson.loads(result)
    except orjson.JSONDecodeError:
        return []
    files = value.get("files") if isinstance(value, dict) else None
    return [each for each in files if isinstance(each, dict)] if isinstance(files, list) else []


def newest(artefacts: list[Artefact], name: str) -> Artefact | None:
    """Returns the newest file of that name."""
    return next((each for each in reversed(artefacts) if each.name == name), None)
