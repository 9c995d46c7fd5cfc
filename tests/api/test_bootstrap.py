"""The bootstrap: keys once, never again, and never half."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from cli.stack.supervisor import Stack
from holdfast.database.engine import create_engine, transaction
from holdfast.database.migrate import migrate
from holdfast.errors import ConfigurationInvalid
from holdfast.tenancy.bootstrap import provider_credentials
from holdfast.vault import Vault

from .world import problem, running_api, settings_for


@dataclass
class Fresh:
    """A database of its own, migrated and empty."""

    stack: Stack
    name: str

    def url(self, role: str) -> str:
        return make_url(self.stack.database_url(role)).set(database=self.name).render_as_string(hide_password=False)


@pytest.fixture
async def fresh(base_stack: Stack, postgres_urls: dict[str, str]) -> AsyncIterator[Fresh]:
    name = f"bootstrap_{os.urandom(4).hex()}"
    connection = await asyncpg.connect(postgres_urls["postgres"])
    await connection.execute(f"CREATE DATABASE {name} OWNER holdfast_owner")
    database = Fresh(base_stack, name)
    owner = create_engine(database.url("holdfast_owner"), process="test", pool_size=1)
    await migrate(owner)
    await owner.dispose()
    yield database
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def run_bootstrap(fresh: Fresh, key_file: Path, vault_key: Path, **more: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOLDFAST_API_DATABASE_URL": fresh.url("holdfast_api"),
        "HOLDFAST_BROKER_DATABASE_URL": fresh.url("holdfast_broker"),
        "HOLDFAST_VAULT_KEY_FILE": str(vault_key),
        "HOLDFAST_BOOTSTRAP_KEY_FILE": str(key_file),
        **more,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "holdfast.tenancy.bootstrap", env=environment, stdout=asyncio.subprocess.PIPE
    )
    stdout, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0
    return stdout.decode()


async def test_it_makes_two_keys_once(fresh: Fresh, tmp_path: Path) -> None:
    key_file, vault_key = tmp_path / "bootstrap.key", tmp_path / "vault.key"
    vault_key.write_text("ab" * 32)
    vault_key.chmod(0o600)
    simulated = {"HOLDFAST_PROVIDERS": "simulated", "HOLDFAST_SIMULATED_PROVIDER_URL": "http://127.0.0.1:1234"}
    shown = await asyncio.gather(*(run_bootstrap(fresh, key_file, vault_key, **simulated) for _ in range(3)))
    (once,) = [text for text in shown if text]
    keys = json.loads(key_file.read_text())
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert set(keys) == {"operator_key", "tenant_key"}
    assert keys["tenant_key"] in once
    assert "$5.0000" in once
    assert await run_bootstrap(fresh, key_file, vault_key, **simulated) == ""
    assert json.loads(key_file.read_text()) == keys

    settings = settings_for(fresh.stack, api_database_url=fresh.url("holdfast_api"))
    async with (
        running_api(settings) as api,
        api.client(keys["tenant_key"]) as owner,
        api.client(keys["operator_key"]) as operator,
    ):
        me = (await owner.get("/v1/me")).json()
        assert (me["tenant"], me["project"], me["user"]) == ("default", "default", "owner")
        assert me["roles"] == ["admin", "approver", "owner"]
        (cap,) = (await owner.get("/v1/caps")).json()["items"]
        assert (cap["limit_usd"], cap["unlimited"]) == ("5", False)
        assert [tenant["slug"] for tenant in (await operator.get("/v1/tenants")).json()["items"]] == ["default"]
        problem(await owner.get("/v1/tenants"), 403, "auth.not_permitted")

    connection = await asyncpg.connect(
        make_url(fresh.stack.superuser_url).set(database=fresh.name).render_as_string(hide_password=False)
    )
    tenant_id = await connection.fetchval("SELECT tenant_id FROM tenants WHERE slug = 'default'")
    assert await connection.fetchval("SELECT reason FROM journal WHERE tenant_id = $1", tenant_id) == "bootstrap"
    await connection.close()
    broker = create_engine(fresh.url("holdfast_broker"), process="test", pool_size=1)
    vault = Vault(bytes.fromhex("ab" * 32))

    async def stored(name: str) -> dict[str, object]:
        async with transaction(broker, tenant_id) as bound:
            return dict(await vault.open(bound, tenant_id, name))

    assert await stored("provider.openai") == {
        "api_key": "simulated",
        "base_url": "http://127.0.0.1:1234/v1",
        "simulated": True,
    }
    await run_bootstrap(fresh, key_file, vault_key, HOLDFAST_PROVIDERS="anthropic", ANTHROPIC_API_KEY="sk-real")
    assert await stored("provider.anthropic") == {"api_key": "sk-real", "base_url": None, "simulated": False}
    await run_bootstrap(fresh, key_file, vault_key, **simulated)
    assert (await stored("provider.anthropic"))["api_key"] == "sk-real", (
        "a simulated one never takes a real one's place"
    )
    await broker.dispose()


def test_providers_come_from_the_environment() -> None:
    environ = {"ANTHROPIC_API_KEY": "a"}
    assert set(provider_credentials("anthropic,openai", "", environ)) == {"provider.anthropic"}
    assert provider_credentials("", "http://x", environ) == {}
    assert set(provider_credentials("simulated", "http://x", {})) == {"provider.anthropic", "provider.openai"}


def test_a_provider_s_key_may_be_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-from-a-file\n")
    path.chmod(0o600)
    environ = {"ANTHROPIC_API_KEY_FILE": str(path)}
    found = provider_credentials("anthropic,openai", "", environ)
    assert found == {"provider.anthropic": {"api_key": "sk-from-a-file", "base_url": None, "simulated": False}}
    with pytest.raises(ConfigurationInvalid, match="ANTHROPIC_API_KEY and ANTHROPIC_API_KEY_FILE are both set"):
        provider_credentials("anthropic", "", {**environ, "ANTHROPIC_API_KEY": "sk"})
    path.chmod(0o644)
    with pytest.raises(ConfigurationInvalid, match=r"ANTHROPIC_API_KEY_FILE: .* can be read by others"):
        provider_credentials("anthropic", "", environ)
    assert provider_credentials("openai", "", environ) == {}, "whoever does not think is not asked for a key"
