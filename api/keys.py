"""Keys, users and projects of the caller's tenant."""

from __future__ import annotations

from datetime import timedelta
from typing import Self
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Cursor, Form, Name, Page, PageSize, Time, id_cursor, page_of, text_cursor
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_change
from holdfast.errors import NotPermitted
from holdfast.tenancy import keys, service
from holdfast.tenancy.keys import KeyView
from holdfast.tenancy.principals import ADMIN, OPERATOR, OWNER, Principal

router = APIRouter(prefix="/v1", tags=["keys"])

_FIRST = UUID(int=0)
_LIFE_MAX_S = 315_360_000


class CreateKey(Form):
    """A key to be made."""

    user: str = Field(min_length=1, max_length=200, description="name of the user it stands for")
    project: Name = Field(description="project in which it acts")
    roles: list[str] = Field(
        min_length=1,
        max_length=20,
        description="owner, admin, developer, approver, auditor, viewer, agent, or names that gates ask for",
    )
    expires_in_s: int | None = Field(default=None, ge=1, le=_LIFE_MAX_S)


class Key(Answer):
    """A key as it may be shown."""

    key_id: UUID
    prefix: str
    user: str
    project: str
    roles: list[str]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class CreatedKey(Key):
    """A key, shown this once."""

    key: str = Field(description="the key itself; only its hash is stored")

    @classmethod
    def of(cls, view: KeyView, key: str) -> Self:
        """Builds the answer."""
        return cls(**Key.model_validate(view).model_dump(), key=key)


class CreateUser(Form):
    """A user to be made."""

    name: str = Field(min_length=1, max_length=200, pattern=r"^[^/\s][^/]*$", description="without /")


class CreateProject(Form):
    """A project to be made."""

    slug: Name


class User(Answer):
    """A user."""

    id: UUID
    name: str
    created_at: Time


class Project(Answer):
    """A project."""

    id: UUID
    name: str = Field(description="its slug")
    created_at: Time


class Made(Answer):
    """Something was made."""

    id: UUID
    name: str


class Me(Answer):
    """Who the key stands for."""

    tenant: str
    project: str
    user: str
    roles: list[str]
    key_id: UUID


def _check_may_handle(caller: Principal, roles: list[str]) -> None:
    """Keeps an admin from making or revoking what is above it.

    Raises:
        NotPermitted: The key has a role that only an owner may handle.
    """
    caller.require(OWNER, ADMIN, OPERATOR)
    if OWNER in roles and OWNER not in caller.roles and not caller.is_operator:
        raise NotPermitted("only an owner may make or revoke keys with the role owner")


@router.get("/me", summary="Who am I?")
async def get_me(caller: Caller) -> Me:
    """Shows who the key stands for and what roles it has."""
    return Me(
        tenant=caller.tenant,
        project=caller.project,
        user=caller.user,
        roles=sorted(caller.roles),
        key_id=caller.key_id,
    )


@router.post("/keys", status_code=201, summary="Make a key")
async def create_key(body: CreateKey, caller: Caller, parts: Parts) -> CreatedKey:
    """Makes a key and shows it once. Lost is lost: revoke it and make another."""
    _check_may_handle(caller, body.roles)
    tenant_id = caller.tenant_id
    async with transaction(parts.engine, tenant_id) as connection:
        key_id, key = await keys.create_key(
            connection,
            tenant_id,
            user_id=await service.find_user(connection, tenant_id, body.user),
            project_id=await service.find_project(connection, tenant_id, body.project),
            roles=body.roles,
            life=None if body.expires_in_s is None else timedelta(seconds=body.expires_in_s),
        )
        view = await keys.read_key(connection, tenant_id, key_id)
        change = {"key_id": str(key_id), "user": body.user, "project": body.project, "roles": list(view.roles)}
        await record_change(connection, tenant_id, caller, "key.created", f"a key for {body.user}", change)
    return CreatedKey.of(view, key)


@router.get("/keys", summary="List keys")
async def list_keys(caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50) -> Page[Key]:
    """Lists keys by what may be shown of them, revoked ones too."""
    caller.require(OWNER, ADMIN, OPERATOR)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        views = await keys.list_keys(connection, caller.tenant_id, after=id_cursor(cursor) or _FIRST, count=size + 1)
    return page_of([Key.model_validate(view) for view in views], [str(view.key_id) for view in views], size)


@router.delete("/keys/{key_id}", summary="Revoke a key at once")
async def revoke_key(key_id: UUID, caller: Caller, parts: Parts) -> Key:
    """Revokes a key: the next request with it is refused. Revoking again changes nothing."""
    caller.require(OWNER, ADMIN, OPERATOR)
    tenant_id = caller.tenant_id
    async with transaction(parts.engine, tenant_id) as connection:
        view = await keys.read_key(connection, tenant_id, key_id)
        _check_may_handle(caller, list(view.roles))
        if await keys.revoke_key(connection, tenant_id, key_id):
            change = {"key_id": str(key_id), "user": view.user}
            await record_change(connection, tenant_id, caller, "key.revoked", f"a key of {view.user}", change)
            view = await keys.read_key(connection, tenant_id, key_id)
    return Key.model_validate(view)


@router.post("/users", status_code=201, summary="Make a user")
async def create_user(body: CreateUser, caller: Caller, parts: Parts) -> Made:
    """Makes a user; keys then stand for them."""
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        user_id = await service.create_user(connection, caller.tenant_id, body.name)
        await record_change(
            connection, caller.tenant_id, caller, "user.created", f"user {body.name}", {"user": body.name}
        )
    return Made(id=user_id, name=body.name)


@router.get("/users", summary="List users")
async def list_users(caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50) -> Page[User]:
    """Lists users, by name."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await service.list_users(connection, caller.tenant_id, after=text_cursor(cursor), count=size + 1)
    return page_of([User.model_validate(user) for user in found], [user.name for user in found], size)


@router.post("/projects", status_code=201, summary="Make a project")
async def create_project(body: CreateProject, caller: Caller, parts: Parts) -> Made:
    """Makes a project."""
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        project_id = await service.create_project(connection, caller.tenant_id, body.slug)
        await record_change(
            connection, caller.tenant_id, caller, "project.created", f"project {body.slug}", {"project": body.slug}
        )
    return Made(id=project_id, name=body.slug)


@router.get("/projects", summary="List projects")
async def list_projects(caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50) -> Page[Project]:
    """Lists projects, by slug."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await service.list_projects(connection, caller.tenant_id, after=text_cursor(cursor), count=size + 1)
    return page_of([Project.model_validate(item) for item in found], [item.name for item in found], size)
