"""`python -m holdfast.tenancy.bootstrap`: the platform's operator, a first tenant, and the keys to both. Once.

Run again it changes nothing and shows nothing: keys are stored as hashes only. The keys' file is written before the commit of
what they open, so that a crash leaves no key that nobody has. Providers' credentials are another matter: each start may bring new
ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast import logs
from holdfast.database.engine import create_engine, transaction
from holdfast.database.version import require_schema
from holdfast.decisions.record import record_event
from holdfast.errors import CredentialMissing, HoldfastError
from holdfast.ids import PLATFORM_TENANT_ID, new_id
from holdfast.ledger.service import set_limit
from holdfast.ledger.types import NANO_USD, Scope
from holdfast.money import NANO_PER_USD, format_usd
from holdfast.policies import of_roles, starter
from holdfast.settings import BootstrapSettings, load, read_key_file, secret_variable, warn_of_misspellings
from holdfast.tenancy import keys, service
from holdfast.tenancy.principals import ADMIN, APPROVER, OPERATOR, OWNER
from holdfast.vault import Vault
from holdfast_verdict.canonical import JsonValue

FIRST_CAP_NANO_USD: Final = 5 * NANO_PER_USD
"""A tenant without a money cap cannot spend; so that the first run works, the first tenant has a small one."""
_TENANT: Final = "default"
# Each provider's key in the environment, and where the simulated provider serves its wire.
_PROVIDERS: Final = {"anthropic": ("ANTHROPIC_API_KEY", ""), "openai": ("OPENAI_API_KEY", "/v1")}
_LOCK = text("SELECT pg_advisory_xact_lock(7453010384712394849)")
_TENANT_ID = text("SELECT tenant_id FROM list_tenants() WHERE slug = :slug")
_OPERATOR_KEYS = text(
    "SELECT count(*) FROM api_keys WHERE tenant_id = :tenant_id AND 'operator' = ANY(roles) AND revoked_at IS NULL"
)


def write_secret(path: Path, content: str) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


async def bootstrap(engine: AsyncEngine, key_file: Path) -> dict[str, str]:
    """Makes what is missing and returns the new keys: none if all is there.

    Args:
        engine: Database as the API.
        key_file: Where new keys are written as JSON, `{operator_key, tenant_key}`.
    """
    async with transaction(engine, PLATFORM_TENANT_ID) as platform:
        await platform.execute(_LOCK)  # a second bootstrap waits here, and then finds all done
        found: dict[str, str] = {}
        if not await platform.scalar(_OPERATOR_KEYS, {"tenant_id": PLATFORM_TENANT_ID}):
            found["operator_key"] = await _make_operator(platform)
        tenant_id: UUID | None = await platform.scalar(_TENANT_ID, {"slug": _TENANT})
        if tenant_id is not None:
            if found:
                _write_keys(key_file, found)
            return found
        tenant_id = new_id()
        async with transaction(engine, tenant_id) as connection:
            found["tenant_key"] = await _make_tenant(connection, tenant_id)
            _write_keys(key_file, found)
    return found


def _write_keys(path: Path, made: dict[str, str]) -> None:
    """Adds new keys to those that an earlier, interrupted bootstrap may have written."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_secret(path, json.dumps({**known, **made}, indent=2) + "\n")


async def move_roles(engine: AsyncEngine) -> list[str]:
    """Makes the policy of each tenant that has roles and no policy yet, of the same meaning; returns their slugs.

    Runs that were admitted before go on to be decided by what their own version of the role says.
    """
    moved = []
    for tenant in await service.list_tenants(engine):
        async with transaction(engine, tenant.tenant_id) as connection:
            if await of_roles.move(connection, tenant.tenant_id, by="bootstrap"):
                await _record(
                    connection, tenant.tenant_id, "what the roles say was made into a policy of the same meaning"
                )
                moved.append(tenant.slug)
    return moved


async def _make_operator(connection: AsyncConnection) -> str:
    project_id = await service.create_project(connection, PLATFORM_TENANT_ID, "platform")
    user_id = await service.create_user(connection, PLATFORM_TENANT_ID, "operator")
    _, key = await keys.create_key(
        connection, PLATFORM_TENANT_ID, user_id=user_id, project_id=project_id, roles=(OPERATOR,)
    )
    await _record(connection, PLATFORM_TENANT_ID, "the platform's operator was made")
    return key


async def _make_tenant(connection: AsyncConnection, tenant_id: UUID) -> str:
    await service.create_tenant(connection, tenant_id, slug=_TENANT, name="Default")
    project_id = await service.create_project(connection, tenant_id, "default")
    user_id = await service.create_user(connection, tenant_id, "owner")
    _, key = await keys.create_key(
        connection, tenant_id, user_id=user_id, project_id=project_id, roles=(OWNER, ADMIN, APPROVER)
    )
    await set_limit(
        connection,
        tenant_id,
        Scope("tenant", str(tenant_id)),
        NANO_USD,
        limit_amount=FIRST_CAP_NANO_USD,
        unlimited=False,
        actor="bootstrap",
        reason="bootstrap",
    )
    await starter.give(connection, tenant_id, by="bootstrap")
    await _record(connection, tenant_id, f"tenant {_TENANT} was made, with a cap of {format_usd(FIRST_CAP_NANO_USD)}")
    return key


async def _record(connection: AsyncConnection, tenant_id: UUID, message: str) -> None:
    await record_event(
        connection,
        tenant_id,
        kind="config",
        verdict="allow",
        code="bootstrap",
        message=message,
        facts={"subject": {"process": "bootstrap"}},
    )


def provider_credentials(
    providers: str, simulated_url: str, environ: Mapping[str, str] = os.environ
) -> dict[str, dict[str, JsonValue]]:
    """Returns the vault entries of the providers that the first tenant shall think with.

    Args:
        providers: Names separated by commas: `anthropic`, `openai`, `simulated`.
        simulated_url: Where the simulated provider listens.
        environ: Holds the real providers' keys, or where they lie (`ANTHROPIC_API_KEY_FILE`).
    """
    chosen = set(filter(None, providers.split(",")))
    entries: dict[str, dict[str, JsonValue]] = {}
    for name, (variable, suffix) in _PROVIDERS.items():
        if name in chosen and (key := secret_variable(variable, environ)):
            entries[name] = {"api_key": key, "base_url": None, "simulated": False}
        elif "simulated" in chosen and simulated_url:
            entries[name] = {"api_key": "simulated", "base_url": simulated_url + suffix, "simulated": True}
    return {f"provider.{name}": entry for name, entry in entries.items()}


async def store_credentials(
    engine: AsyncEngine, vault: Vault, tenant_id: UUID, entries: Mapping[str, dict[str, JsonValue]]
) -> list[str]:
    """Stores providers' credentials and returns the names of those that changed.

    A key from the environment takes the place of what is there. The simulated provider never takes a real one's place.
    """
    changed = []
    async with transaction(engine, tenant_id) as connection:
        for name, entry in entries.items():
            try:
                current = await vault.open(connection, tenant_id, name)
            except CredentialMissing:
                current = {}
            keep = bool(entry["simulated"]) and bool(current) and not current.get("simulated")
            if current != entry and not keep:
                await vault.put(connection, tenant_id, name, entry)
                changed.append(name)
        if changed:
            await _record(connection, tenant_id, f"credentials were stored: {', '.join(changed)}")
    return changed


async def _run(settings: BootstrapSettings) -> None:
    logs.configure("bootstrap", settings.log_level)
    warn_of_misspellings(BootstrapSettings)
    engine = create_engine(settings.api_database_url, process="bootstrap", pool_size=2)
    try:
        await require_schema(engine)
        made = await bootstrap(engine, settings.bootstrap_key_file)
        await move_roles(engine)
        async with transaction(engine, PLATFORM_TENANT_ID) as connection:
            tenant_id: UUID = (await connection.execute(_TENANT_ID, {"slug": _TENANT})).scalar_one()
    finally:
        await engine.dispose()
    if made:
        shown = made if settings.bootstrap_show_keys else {}
        print(
            json.dumps({**shown, "cap_usd": format_usd(FIRST_CAP_NANO_USD), "file": str(settings.bootstrap_key_file)})
        )
    entries = provider_credentials(settings.providers, settings.simulated_provider_url)
    if entries and settings.broker_database_url is not None and settings.vault_key_file is not None:
        broker = create_engine(settings.broker_database_url, process="bootstrap", pool_size=1)
        try:
            await store_credentials(broker, Vault(read_key_file(settings.vault_key_file)), tenant_id, entries)
        finally:
            await broker.dispose()


if __name__ == "__main__":
    try:
        asyncio.run(_run(load(BootstrapSettings)))
    except HoldfastError as problem:
        print(f"error: {problem.message}. {problem.remedy}", file=sys.stderr)
        sys.exit(2)
