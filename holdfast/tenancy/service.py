"""Tenants, and the projects and users in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.database.engine import tenantless
from holdfast.errors import Conflict, NotFound, RequestInvalid
from holdfast.ids import new_id

_INSERT_TENANT = text(
    "INSERT INTO tenants (tenant_id, slug, name, time_zone) VALUES (:tenant_id, :slug, :name, :time_zone)"
)
_LIST_TENANTS = text("SELECT tenant_id, slug, name, time_zone, created_at FROM list_tenants()")
_READ_TENANT = text("SELECT tenant_id, slug, name, time_zone, created_at FROM tenants WHERE tenant_id = :tenant_id")
_SET_TIME_ZONE = text("UPDATE tenants SET time_zone = :time_zone WHERE tenant_id = :tenant_id")
# windows are reckoned by PostgreSQL, which takes also what is no name of a zone, such as `UTC+3`, and then means UTC-3
_KNOWS_ZONE = text("SELECT EXISTS (SELECT 1 FROM pg_timezone_names WHERE name = :time_zone)")
_INSERT_PROJECT = text("""
    INSERT INTO projects (tenant_id, project_id, slug) VALUES (:tenant_id, :id, :name)
    ON CONFLICT (tenant_id, slug) DO NOTHING RETURNING project_id
""")
_INSERT_USER = text("""
    INSERT INTO users (tenant_id, user_id, name) VALUES (:tenant_id, :id, :name)
    ON CONFLICT (tenant_id, name) DO NOTHING RETURNING user_id
""")
_FIND_PROJECT = text("SELECT project_id FROM projects WHERE tenant_id = :tenant_id AND slug = :name")
_FIND_USER = text("SELECT user_id FROM users WHERE tenant_id = :tenant_id AND name = :name")
_LIST_PROJECTS = text("""
    SELECT project_id, slug, created_at FROM projects
    WHERE tenant_id = :tenant_id AND slug > :after ORDER BY slug LIMIT :count
""")
_LIST_USERS = text("""
    SELECT user_id, name, created_at FROM users
    WHERE tenant_id = :tenant_id AND name > :after ORDER BY name LIMIT :count
""")


@dataclass(frozen=True, slots=True)
class TenantView:
    """A tenant."""

    tenant_id: UUID
    slug: str
    name: str
    time_zone: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Named:
    """A project or a user: an id and the name it goes by."""

    id: UUID
    name: str
    created_at: datetime


async def create_tenant(
    connection: AsyncConnection, tenant_id: UUID, *, slug: str, name: str, time_zone: str = "UTC"
) -> None:
    """Makes a tenant, in a transaction that is bound to its id.

    Raises:
        Conflict: The slug is taken.
        RequestInvalid: There is no such time zone.
    """
    await _require_time_zone(connection, time_zone)
    try:
        async with connection.begin_nested():
            await connection.execute(
                _INSERT_TENANT, {"tenant_id": tenant_id, "slug": slug, "name": name, "time_zone": time_zone}
            )
    except IntegrityError:
        raise Conflict(f"there is a tenant {slug!r} already", remedy="choose another slug") from None


async def _require_time_zone(connection: AsyncConnection, time_zone: str) -> None:
    try:
        ZoneInfo(time_zone)
        known: bool = (await connection.execute(_KNOWS_ZONE, {"time_zone": time_zone})).scalar_one()
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = False
    if not known:
        raise RequestInvalid(f"there is no time zone {time_zone!r}", remedy="use a name like Europe/Paris")


async def read_tenant(connection: AsyncConnection, tenant_id: UUID) -> TenantView:
    """Returns the tenant that the transaction is bound to."""
    return TenantView(*(await connection.execute(_READ_TENANT, {"tenant_id": tenant_id})).one())


async def set_time_zone(connection: AsyncConnection, tenant_id: UUID, time_zone: str) -> None:
    """Lets windows of caps begin and end by another time zone, from the end of those that are in force on.

    Raises:
        RequestInvalid: There is no such time zone.
    """
    await _require_time_zone(connection, time_zone)
    await connection.execute(_SET_TIME_ZONE, {"tenant_id": tenant_id, "time_zone": time_zone})


async def list_tenants(engine: AsyncEngine) -> list[TenantView]:
    """Returns all tenants, by slug."""
    async with tenantless(engine) as connection:
        return [TenantView(*row) for row in await connection.execute(_LIST_TENANTS)]


async def create_project(connection: AsyncConnection, tenant_id: UUID, slug: str) -> UUID:
    """Makes a project.

    Raises:
        Conflict: There is one of that slug.
    """
    parameters = {"tenant_id": tenant_id, "id": new_id(), "name": slug}
    project_id: UUID | None = await connection.scalar(_INSERT_PROJECT, parameters)
    if project_id is None:
        raise Conflict(f"there is a project {slug!r} already")
    return project_id


async def create_user(connection: AsyncConnection, tenant_id: UUID, name: str) -> UUID:
    """Makes a user.

    Raises:
        Conflict: There is one of that name.
    """
    user_id: UUID | None = await connection.scalar(_INSERT_USER, {"tenant_id": tenant_id, "id": new_id(), "name": name})
    if user_id is None:
        raise Conflict(f"there is a user {name!r} already")
    return user_id


async def find_project(connection: AsyncConnection, tenant_id: UUID, slug: str) -> UUID:
    """Returns a project's id.

    Raises:
        NotFound: The tenant has no such project.
    """
    found: UUID | None = await connection.scalar(_FIND_PROJECT, {"tenant_id": tenant_id, "name": slug})
    if found is None:
        raise NotFound(f"there is no project {slug!r}")
    return found


async def find_user(connection: AsyncConnection, tenant_id: UUID, name: str) -> UUID:
    """Returns a user's id.

    Raises:
        NotFound: The tenant has no such user.
    """
    found: UUID | None = await connection.scalar(_FIND_USER, {"tenant_id": tenant_id, "name": name})
    if found is None:
        raise NotFound(f"there is no user {name!r}")
    return found


async def list_projects(connection: AsyncConnection, tenant_id: UUID, *, after: str, count: int) -> list[Named]:
    """Returns projects whose slug comes after `after`."""
    rows = await connection.execute(_LIST_PROJECTS, {"tenant_id": tenant_id, "after": after, "count": count})
    return [Named(*row) for row in rows]


async def list_users(connection: AsyncConnection, tenant_id: UUID, *, after: str, count: int) -> list[Named]:
    """Returns users whose name comes after `after`."""
    rows = await connection.execute(_LIST_USERS, {"tenant_id": tenant_id, "after": after, "count": count})
    return [Named(*row) for row in rows]
