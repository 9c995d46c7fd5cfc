"""What a backup says of itself: form, versions, time, members with their digests."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT: Final = "holdfast-backup"
FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
SEAL: Final = "SHA256"
POSTGRES: Final = "postgres/holdfast.dump"
TEMPORAL_SQLITE: Final = "temporal/temporal.db.gz"
TEMPORAL_MAIN: Final = "temporal/main.dump"
TEMPORAL_VISIBILITY: Final = "temporal/visibility.dump"
SECRETS: Final = "secrets/"
OBJECTS: Final = "objects.tar"


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Form):
    """One file of the archive."""

    name: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Versions(_Form):
    """What wrote it, and what it was taken of."""

    holdfast: str
    schema_version: str
    postgres: str
    temporal: str


class Point(_Form):
    """The consistent point.

    Attributes:
        at: PostgreSQL's time at its snapshot; Temporal's was taken right before.
        writes_stopped_ms: How long nothing could be decided or settled.
    """

    at: datetime
    writes_stopped_ms: int


class Manifest(_Form):
    """The first member of the archive.

    Attributes:
        store: Where Temporal kept its state.
        tenants: How many tenants there were, without the platform's own.
        open_runs: How many runs had not ended.
        secrets: Whether the keys are in it.
        key_digests: SHA-256 of each key file of the secrets, by which fitting ones are known; they say nothing of the keys.
    """

    format: Literal["holdfast-backup"] = FORMAT
    format_version: int = FORMAT_VERSION
    created_at: datetime
    source: str
    versions: Versions
    point: Point
    store: Literal["sqlite", "postgresql"]
    tenants: int
    open_runs: int
    secrets: bool
    key_digests: dict[str, str]
    members: tuple[Member, ...]

    def has(self, name: str) -> bool:
        """Says whether a member is there."""
        return any(member.name == name for member in self.members)

    @property
    def size(self) -> int:
        """Bytes of all members."""
        return sum(member.size for member in self.members)
