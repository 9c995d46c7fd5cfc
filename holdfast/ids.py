"""Identifiers: UUIDv7, so that rows sort by the time they were made."""

from __future__ import annotations

from uuid import UUID

import uuid_utils

PLATFORM_TENANT_ID = UUID(int=0)
"""The tenant of what has no tenant: failed authentication, workflows that nobody admitted."""


def new_id() -> UUID:
    """Returns a new UUIDv7 (RFC 9562)."""
    return UUID(bytes=uuid_utils.uuid7().bytes)
