"""Settings: all that is wrong is named at once, by its variable and without its value; secrets may be in files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from holdfast.errors import ConfigurationInvalid
from holdfast.settings import (
    PROCESSES,
    ApiSettings,
    BootstrapSettings,
    BrokerSettings,
    ExecutorSettings,
    GovernorSettings,
    LogLevel,
    is_secret,
    load,
    load_both,
    misspelled,
    read_key_file,
    read_secret_file,
    variable,
    variables,
)
from tests.stack.places import ROOT

MODULES = {
    "api": "api",
    "governor": "workers.governor",
    "broker": "workers.broker",
    "executor": "workers.executor",
    "migrations": "holdfast.database.migrate",
    "bootstrap": "holdfast.tenancy.bootstrap",
    "auditor": "holdfast.ledger.auditor",
    "roles": "holdfast.database.roles",
}
BROKER = {
    "HOLDFAST_BROKER_DATABASE_URL": "postgresql://holdfast_broker:pw@db:5432/holdfast",
    "HOLDFAST_VAULT_KEY_FILE": "/keys/vault.key",
    "HOLDFAST_PERMIT_PUBLIC_KEY_FILE": "/keys/permit.pub",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("HOLDFAST_"):
            monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def refused(kind: type[BaseSettings]) -> str:
    with pytest.raises(ConfigurationInvalid) as caught:
        load(kind)
    return caught.value.message


@pytest.mark.parametrize("process", PROCESSES)
def test_each_process_names_all_that_it_lacks_and_ends_with_2(process: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", MODULES[process]],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    required = {variable(name) for name, field in PROCESSES[process].model_fields.items() if field.is_required()}
    assert required
    assert all(f"{name} is not set" in done.stderr for name in required)
    assert done.stderr.count("is not set") == len(required)
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_every_setting_says_what_it_is() -> None:
    for kind in PROCESSES.values():
        for name, field in kind.model_fields.items():
            assert field.description, name


def test_wrong_ones_are_named_together_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    given(
        monkeypatch,
        HOLDFAST_API_DATABASE_URL="mysql://me:hunter2@db/x",
        HOLDFAST_REDIS_URL="redis://:hunter2@:6379",
        HOLDFAST_CODEC_KEY_FILE="/keys/codec.key",
        HOLDFAST_API_PORT="0",
        HOLDFAST_BROKER_URL="broker:8081",
        HOLDFAST_TEMPORAL_ADDRESS="temporal",
        HOLDFAST_LOG_LEVEL="loud",
    )
    said = refused(ApiSettings)
    assert said.startswith("6 settings are wrong: ")
    for text in (
        "HOLDFAST_API_DATABASE_URL: must begin with postgresql://",
        "HOLDFAST_REDIS_URL: names no host",
        "HOLDFAST_API_PORT: Input should be greater than or equal to 1",
        "HOLDFAST_BROKER_URL: must begin with http:// or https://",
        "HOLDFAST_TEMPORAL_ADDRESS: must be host:port",
        "HOLDFAST_LOG_LEVEL: Input should be 'debug', 'info', 'warning' or 'error'",
    ):
        assert text in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOLDFAST_API_PORT", "65536"),
        ("HOLDFAST_API_PORT", "http"),
        ("HOLDFAST_TEMPORAL_ADDRESS", "temporal:0"),
        ("HOLDFAST_TEMPORAL_ADDRESS", "temporal:70000"),
        ("HOLDFAST_TEMPORAL_ADDRESS", "http://temporal:7233"),
        ("HOLDFAST_BROKER_URL", "http://:8081"),
        ("HOLDFAST_BROKER_URL", "http://broker:99999"),
        ("HOLDFAST_REDIS_URL", "http://redis"),
        ("HOLDFAST_TEMPORAL_UI_URL", "javascript:alert(1)"),
        ("HOLDFAST_CODEC_ENDPOINT_OPEN", "perhaps"),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(
        monkeypatch,
        HOLDFAST_REDIS_URL="redis://r",
        HOLDFAST_CODEC_KEY_FILE="/c",
        HOLDFAST_API_DATABASE_URL="postgresql://d/x",
    )
    load(ApiSettings)
    monkeypatch.setenv(name, value)
    said = refused(ApiSettings)
    assert said.startswith(f"a setting is wrong: {name}: ")


def test_levels_are_known_in_any_case_and_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **BROKER, HOLDFAST_LOG_LEVEL="WARNING", HOLDFAST_BROKER_PORT="")
    settings = load(BrokerSettings)
    assert settings.log_level is LogLevel.WARNING
    assert settings.broker_port == 8081
    monkeypatch.setenv("HOLDFAST_VAULT_KEY_FILE", "")
    assert refused(BrokerSettings) == "a setting is wrong: HOLDFAST_VAULT_KEY_FILE is not set"


def test_who_thinks_has_to_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    given(
        monkeypatch,
        HOLDFAST_API_DATABASE_URL="postgresql://d/x",
        HOLDFAST_BOOTSTRAP_KEY_FILE="/k",
        HOLDFAST_PROVIDERS="openai, antropic",
    )
    assert "HOLDFAST_PROVIDERS: antropic is none of anthropic, openai, simulated" in refused(BootstrapSettings)
    monkeypatch.setenv("HOLDFAST_PROVIDERS", "openai, anthropic,")
    assert load(BootstrapSettings).providers == "openai,anthropic"


def test_two_in_one_name_what_either_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **BROKER)
    with pytest.raises(ConfigurationInvalid, match="HOLDFAST_GOVERNOR_DATABASE_URL is not set"):
        load_both(GovernorSettings, BrokerSettings)
    monkeypatch.delenv("HOLDFAST_VAULT_KEY_FILE")
    with pytest.raises(ConfigurationInvalid, match=r"HOLDFAST_PERMIT_KEY_FILE.*HOLDFAST_VAULT_KEY_FILE"):
        load_both(GovernorSettings, BrokerSettings)


# Secrets in files ---------------------------------------------------------------------------------------------------


def secret(tmp_path: Path, content: str = "postgresql://b:pw@db/holdfast\n", mode: int = 0o600) -> Path:
    path = tmp_path / "secret"
    path.write_text(content)
    path.chmod(mode)
    return path


def test_every_secret_may_be_in_a_file_and_nothing_else_may() -> None:
    for kind in PROCESSES.values():
        for name, field in kind.model_fields.items():
            assert (f"{variable(name)}_FILE" in variables(kind)) is is_secret(field)
            assert is_secret(field) is name.endswith(
                ("database_url", "redis_url", "superuser_url", "log_key", "secret_access_key")
            )


def test_a_secret_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **BROKER)
    monkeypatch.delenv("HOLDFAST_BROKER_DATABASE_URL")
    monkeypatch.setenv("HOLDFAST_BROKER_DATABASE_URL_FILE", str(secret(tmp_path)))
    assert load(BrokerSettings).broker_database_url == SecretStr("postgresql://b:pw@db/holdfast")


def test_both_forms_of_one_secret_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **BROKER, HOLDFAST_BROKER_DATABASE_URL_FILE=str(secret(tmp_path)))
    assert refused(BrokerSettings) == (
        "a setting is wrong: HOLDFAST_BROKER_DATABASE_URL and HOLDFAST_BROKER_DATABASE_URL_FILE are both set; "
        "unset one of them"
    )


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0, "No such file or directory"),
        ("", 0o600, "is empty"),
        ("\n \n", 0o600, "is empty"),
        ("postgresql://b:pw@db/x", 0o644, "can be read by others (mode 644)"),
        ("postgresql://b:pw@db/x", 0o620, "can be read by others (mode 620)"),
        ("x" * 70_000, 0o600, "no secret is that long"),
    ],
)
def test_a_file_that_will_not_do_is_named(
    content: str | None, mode: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "missing" if content is None else secret(tmp_path, content, mode)
    given(monkeypatch, **BROKER, HOLDFAST_BROKER_PORT="-1")
    monkeypatch.delenv("HOLDFAST_BROKER_DATABASE_URL")
    monkeypatch.setenv("HOLDFAST_BROKER_DATABASE_URL_FILE", str(path))
    message = refused(BrokerSettings)
    assert "HOLDFAST_BROKER_DATABASE_URL_FILE: " in message
    assert str(path) in message
    assert said in message
    assert "HOLDFAST_BROKER_PORT: " in message
    assert "pw@" not in message


def test_what_is_in_the_file_is_checked_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **BROKER)
    monkeypatch.delenv("HOLDFAST_BROKER_DATABASE_URL")
    monkeypatch.setenv("HOLDFAST_BROKER_DATABASE_URL_FILE", str(secret(tmp_path, "redis://:hunter2@r")))
    message = refused(BrokerSettings)
    assert "HOLDFAST_BROKER_DATABASE_URL: must begin with postgresql://" in message
    assert "hunter2" not in message


def test_a_file_of_another_account_may_be_read_by_all_but_changed_by_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secret(tmp_path, "ab" * 32, 0o444)
    with pytest.raises(ConfigurationInvalid, match="can be read by others"):
        read_key_file(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)  # as an orchestrator mounts it
    assert read_key_file(path) == bytes.fromhex("ab" * 32)
    path.chmod(0o464)
    with pytest.raises(ConfigurationInvalid, match="can be changed by others"):
        read_key_file(path)


def test_a_folder_and_bytes_are_no_secrets(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="is not a file"):
        read_secret_file(tmp_path)
    path = tmp_path / "bytes"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(ConfigurationInvalid, match="is not text"):
        read_secret_file(path)


# Misspellings -------------------------------------------------------------------------------------------------------


def test_a_misspelt_variable_is_noticed_and_others_are_left_alone() -> None:
    found = misspelled(
        {
            "HOLDFAST_TEMPORAL_ADRESS": "temporal:7233",
            "HOLDFAST_REDIS_URL_FILES": "/run/secrets/redis_url",
            "holdfast_tool_slot": "3",
            "HOLDFAST_API_DATABASE_URL": "another process's",
            "HOLDFAST_POSTGRES": "a command's",
            "HOLDFAST_FAILPOINTS": "a test's",
            "HOLFAST_LLM_SLOTS": "nobody can guess everything",
            "PATH": "/bin",
        },
        ExecutorSettings,
    )
    assert found == {
        "HOLDFAST_TEMPORAL_ADRESS": "HOLDFAST_TEMPORAL_ADDRESS",
        "HOLDFAST_REDIS_URL_FILES": "HOLDFAST_REDIS_URL_FILE",
        "holdfast_tool_slot": "HOLDFAST_TOOL_SLOTS",
    }


def test_a_misspelt_variable_is_named_where_the_process_lacks_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **BROKER, HOLDFAST_VAULT_KEYFILE="/keys/vault.key")
    monkeypatch.delenv("HOLDFAST_VAULT_KEY_FILE")
    said = refused(BrokerSettings)
    assert "HOLDFAST_VAULT_KEYFILE is read by nobody: is HOLDFAST_VAULT_KEY_FILE meant?" in said
