"""compose.yaml and the code agree: commands, settings, secrets, ports, networks, files."""

from __future__ import annotations

import importlib.util
import os
import tomllib
from pathlib import Path

import pytest
import yaml
from pydantic_settings import BaseSettings

from cli.deployment.secret_files import FILES, FOREIGN, MASTER
from holdfast.settings import FILE_SUFFIX, PROCESSES, BucketSettings, load, variable, variables
from tests.stack.places import ROOT
from workers.temporal import RETENTION

from .composition import compose, defaults, environment, module_of, mounts, services

PROCESS_OF = {
    "api": "api",
    "workers.governor": "governor",
    "workers.broker": "broker",
    "workers.executor": "executor",
    "holdfast.database.roles": "roles",
    "holdfast.database.migrate": "migrations",
    "holdfast.tenancy.bootstrap": "bootstrap",
    "holdfast.ledger.auditor": "auditor",
}
SECRETS = Path("/run/secrets")
OURS = [name for name, service in services().items() if service["image"].startswith("holdfast:")]
CONFIGURED = [name for name in OURS if module_of(services()[name]) in PROCESS_OF]


def settings_of(name: str) -> type[BaseSettings]:
    return PROCESSES[PROCESS_OF[module_of(services()[name])]]


def test_every_process_has_its_service() -> None:
    assert sorted(PROCESS_OF[module_of(services()[name])] for name in CONFIGURED) == sorted(PROCESSES)
    assert set(OURS) - set(CONFIGURED) == {"secrets", "provider"}


@pytest.mark.parametrize("name", OURS)
def test_each_command_exists(name: str) -> None:
    service = services()[name]
    if module := module_of(service):
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__") is not None
    else:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert service["command"][0] in project["scripts"]


@pytest.mark.parametrize("name", CONFIGURED)
def test_each_variable_is_a_setting_of_exactly_that_process(name: str) -> None:
    given = {key for key in environment(services()[name]) if key.startswith("HOLDFAST_")}
    assert given <= variables(settings_of(name))


@pytest.mark.parametrize("name", CONFIGURED)
def test_each_process_gets_all_that_it_requires(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are loaded as the process does, with a secret of the right form in place of each file."""
    for key in os.environ:
        if key.startswith("HOLDFAST_"):
            monkeypatch.delenv(key)
    for key, value in environment(services()[name]).items():
        if key == "HOLDFAST_LOG_KEY_FILE":
            monkeypatch.setenv("HOLDFAST_LOG_KEY", "5" * 64)  # a file of it is read at once
        elif Path(value).parent == SECRETS and not key.endswith("_KEY_FILE"):
            secret = tmp_path / Path(value).name
            secret.write_text("redis://r" if "redis" in value else "postgresql://p/x")
            secret.chmod(0o600)
            monkeypatch.setenv(key, str(secret))
        else:
            monkeypatch.setenv(key, value)
    load(settings_of(name))


@pytest.mark.parametrize("name", sorted(services()))
def test_each_service_gets_its_own_secrets_and_no_others(name: str) -> None:
    """LAW 1: who executes has no key that signs and none that opens the vault; who decides has no credentials."""
    held = {volume for volume, _, _ in mounts(services()[name]) if volume.startswith("secrets-")}
    if name == "secrets":
        assert held == {f"secrets-{process}" for process in (*FILES, MASTER)}
        assert services()[name]["network_mode"] == "none"
        return
    expected = {"temporal-schema": "temporal"}.get(name, name)
    assert held == ({f"secrets-{expected}"} if expected in FILES else set())
    for volume, target, read_only in mounts(services()[name]):
        if volume.startswith("secrets-"):
            assert (target, read_only) == (str(SECRETS), True)


@pytest.mark.parametrize("name", sorted(set(services()) - {"secrets"}))
def test_each_secret_that_is_named_is_made_and_each_that_is_made_is_named(name: str) -> None:
    service = services()[name]
    text = [*environment(service).values(), *map(str, service.get("command", []))]
    named = {Path(value).name for value in text if Path(value).parent == SECRETS}
    made = FILES.get({"temporal-schema": "temporal"}.get(name, name), {})
    assert named == set(made)


def test_who_holds_which_secret_is_what_the_architecture_says() -> None:
    holders: dict[str, set[str]] = {}
    for process, files in FILES.items():
        for file in files:
            holders.setdefault(file, set()).add(process)
    assert holders["permit_key"] == {"governor"}
    assert holders["log_key"] == {"governor"}
    assert holders["vault_key"] == {"broker", "bootstrap"}  # the bootstrap stores the first credentials, and ends
    assert holders["permit_public_key"] == {"broker", "executor"}
    assert holders["codec_key"] == {"api", "governor", "executor"}
    assert holders["superuser_url"] == holders["role_passwords.json"] == {"roles"}
    assert holders["superuser_password"] == {"postgres"}
    for process in ("api", "governor", "broker", "executor"):
        urls = {file for file in FILES[process] if file.endswith("database_url")}
        more = {"sweeper_database_url"} if process == "governor" else set()
        assert urls == {f"{process}_database_url"} | more


def test_only_what_must_is_reached_from_outside() -> None:
    offered = {name for name, service in services().items() if service.get("ports")}
    assert offered == {"api", "temporal-ui"}
    for name in offered:
        assert all(port.startswith("127.0.0.1:") for port in services()[name]["ports"])
    outward = {name for name, network in compose()["networks"].items() if not network.get("internal")}
    assert outward == {"front", "outside"}
    led_out = {name for name, service in services().items() if outward & set(service.get("networks", []))}
    assert led_out == {"api", "temporal-ui", "executor"}


def together(one: str, other: str) -> bool:
    return bool(set(services()[one].get("networks", [])) & set(services()[other].get("networks", [])))


def test_an_executor_reaches_what_it_needs_and_nothing_else() -> None:
    reached = {name for name in services() if name != "executor" and together("executor", name)}
    assert reached == {"postgres", "redis", "temporal", "broker", "provider"}
    assert not together("executor", "governor")


def test_the_broker_reaches_the_database_only() -> None:
    assert {name for name in services() if together("broker", name)} - {"broker"} == {
        "postgres",
        "api",
        "executor",
        "redis",  # they are on the networks of those who call it; it has no password of theirs
        "temporal",
        "provider",
    }
    assert "outside" not in services()["broker"]["networks"]


def test_with_s3_the_broker_alone_has_its_key_and_a_way_to_it() -> None:
    more = yaml.safe_load((ROOT / "deploy/compose.s3.yaml").read_text(encoding="utf-8"))
    assert set(more) == {"services", "networks"}
    assert set(more["services"]) == {"broker"}
    broker = more["services"]["broker"]
    assert set(broker) == {"environment", "volumes", "networks"}
    named = set(broker["environment"])
    known = {variable(name) for name in BucketSettings.model_fields}
    known |= {f"{name}{FILE_SUFFIX}" for name in known}
    assert named <= known
    assert {variable("objects_bucket"), variable("objects_access_key_id")} <= named
    assert broker["environment"][variable("objects_secret_access_key") + FILE_SUFFIX] in broker["volumes"][0]
    assert broker["networks"] == list(more["networks"])
    assert not set(more["networks"]) & set(compose()["networks"])
    # without that file nothing of it is set, and the broker has no way out
    assert not [name for each in services().values() for name in each.get("environment") or {} if "OBJECTS" in name]


def test_the_superuser_comes_in_through_a_socket_that_one_step_has() -> None:
    holders = {n for n, service in services().items() if "postgres-socket" in {v for v, _, _ in mounts(service)}}
    assert holders == {"postgres", "roles"}
    assert services()["roles"]["network_mode"] == "none"
    rules = [
        line.split() for line in (ROOT / "deploy/postgres/pg_hba.conf").read_text().splitlines() if line[:1] not in "#"
    ]
    assert ["host", "all", "postgres", "all", "reject"] in rules
    first_for_superuser = next(rule for rule in rules if rule[0] == "host" and rule[2] in ("all", "postgres"))
    assert first_for_superuser[-1] == "reject"
    assert rules[-1] == ["host", "all", "all", "all", "reject"]
    assert all(rule[-1] in ("scram-sha-256", "reject") for rule in rules)


@pytest.mark.parametrize("name", sorted(services()))
def test_each_is_confined(name: str) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["restart"]
    assert "privileged" not in service
    assert service["read_only"] is True
    assert int(service["user"].split(":")[0]) > 0
    tag = service["image"].partition(":")[2]
    assert any(character.isdigit() for character in tag), "an image without a pinned tag"
    assert not any(key.endswith("PASSWORD") for key in environment(service))


@pytest.mark.parametrize("name", sorted(services()))
def test_what_it_waits_for_is_there_and_can_be_waited_for(name: str) -> None:
    for other, how in services()[name].get("depends_on", {}).items():
        awaited = services()[other]
        if how["condition"] == "service_completed_successfully":
            assert awaited["restart"].startswith("on-failure")
        else:
            assert how["condition"] == "service_healthy"
            assert awaited["healthcheck"]["test"]
        assert "profiles" not in awaited


def test_whatever_is_declared_is_used_and_whatever_is_used_is_declared() -> None:
    document = compose()
    used_volumes = {volume for service in services().values() for volume, _, _ in mounts(service)}
    assert used_volumes == set(document["volumes"])
    used_networks = {network for service in services().values() for network in service.get("networks", [])}
    assert used_networks == set(document["networks"])
    used_configs = {config["source"] for service in services().values() for config in service.get("configs", [])}
    assert used_configs == set(document["configs"])
    for config in document["configs"].values():
        assert (ROOT / config["file"]).is_file()


def test_ports_agree() -> None:
    api, broker, provider = (environment(services()[n]) for n in ("api", "broker", "executor"))
    assert services()["api"]["ports"] == [f"127.0.0.1:8080:{api['HOLDFAST_API_PORT']}"]
    assert f":{api['HOLDFAST_API_PORT']}/healthz" in services()["api"]["healthcheck"]["test"][-1]
    assert f":{broker['HOLDFAST_BROKER_PORT']}/healthz" in services()["broker"]["healthcheck"]["test"][-1]
    for name in ("api", "executor"):
        url = environment(services()[name])["HOLDFAST_BROKER_URL"]
        assert url == f"http://broker:{broker['HOLDFAST_BROKER_PORT']}"
    port = services()["provider"]["command"][-1]
    assert environment(services()["bootstrap"])["HOLDFAST_SIMULATED_PROVIDER_URL"] == f"http://provider:{port}"
    frontend = environment(services()["temporal"])["FRONTEND_GRPC_PORT"]
    for name in ("api", "governor", "executor"):
        assert environment(services()[name])["HOLDFAST_TEMPORAL_ADDRESS"] == f"temporal:{frontend}"
    assert services()["temporal"]["healthcheck"]["test"][-1] == frontend
    assert environment(services()["temporal-namespace"])["TEMPORAL_ADDRESS"] == f"temporal:{frontend}"
    assert provider


def test_temporal_agrees_with_the_code() -> None:
    namespace = environment(services()["temporal-namespace"])
    assert namespace["TEMPORAL_NAMESPACE"] == environment(services()["governor"])["HOLDFAST_TEMPORAL_NAMESPACE"]
    assert namespace["TEMPORAL_RETENTION"] == f"{int(RETENTION.total_seconds()) // 3600}h"
    images = {services()[name]["image"] for name in ("temporal", "temporal-schema", "temporal-namespace")}
    assert len({image.partition(":")[2] for image in images}) == 1
    ui = environment(services()["temporal-ui"])
    assert ui["TEMPORAL_DEFAULT_NAMESPACE"] == namespace["TEMPORAL_NAMESPACE"]
    assert ui["TEMPORAL_DISABLE_WRITE_ACTIONS"] == "true"
    assert services()["temporal-ui"]["ports"][0].endswith(f":{ui['TEMPORAL_UI_PORT']}")
    assert f":{ui['TEMPORAL_UI_PORT']}/healthz" in services()["temporal-ui"]["healthcheck"]["test"][-1]


def test_the_example_environment_has_every_variable_with_its_default() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert given == defaults()
    known = {variable(name) for kind in PROCESSES.values() for name in kind.model_fields}
    own = {"HOLDFAST_IMAGE", "HOLDFAST_API_PUBLISH", "HOLDFAST_UI_PUBLISH", "HOLDFAST_GOVERNORS", "HOLDFAST_EXECUTORS"}
    assert {name for name in given if name.startswith("HOLDFAST_")} <= known | own
    for process in PROCESSES.values():
        for name, field in process.model_fields.items():
            if variable(name) in given and variable(name) not in {"HOLDFAST_PROVIDERS", "HOLDFAST_TEMPORAL_UI_URL"}:
                assert given[variable(name)] == str(field.default)


def test_foreign_programs_are_those_whose_image_is_not_ours() -> None:
    assert {name for name in FILES if name not in OURS} == FOREIGN
