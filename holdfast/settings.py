"""Settings of every process, read from the environment (`HOLDFAST_…`); a wrong one is named at start."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from holdfast.errors import ConfigurationInvalid

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


class ProcessSettings(BaseSettings):
    """What every long-running process may be told."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", extra="ignore", frozen=True)

    log_level: str = Field(default="info", description="debug, info, warning or error")


class CommonSettings(ProcessSettings):
    """What every process needs that takes part in runs: the way to Temporal and to the live streams."""

    temporal_address: str = Field(default="127.0.0.1:7233", description="host:port of Temporal's frontend")
    temporal_namespace: str = Field(default="holdfast", description="Temporal namespace of all runs")
    redis_url: SecretStr = Field(description="Redis or Valkey, for live streams")
    codec_key_file: Path = Field(description="AES-256 key of the payload codec, 64 hex digits")


class ApiSettings(CommonSettings):
    """Settings of the API process."""

    api_database_url: SecretStr = Field(description="PostgreSQL as the role holdfast_api")
    api_host: str = "127.0.0.1"
    api_port: int = 8080
    temporal_ui_url: str = Field(
        default="", description="address of Temporal's UI, for links and as the codec's caller"
    )
    broker_url: str = Field(default="http://127.0.0.1:8081", description="the broker, which keeps the vault")
    codec_endpoint_open: bool = Field(
        default=False, description="whether /codec answers Temporal's UI on this machine without a key"
    )


class GovernorSettings(CommonSettings):
    """Settings of the governor: workflows, reserve and settle, with the sweepers. It has no way to any credential."""

    governor_database_url: SecretStr = Field(description="PostgreSQL as the role holdfast_governor")
    sweeper_database_url: SecretStr = Field(description="PostgreSQL as the role holdfast_sweeper")
    permit_key_file: Path = Field(description="Ed25519 private key that signs permits, 64 hex digits")
    heartbeat_timeout_ms: int = Field(default=10_000, ge=500, description="an executor silent for longer is dead")
    lease_llm_ms: int = Field(default=600_000, ge=100, description="lease and hard deadline of a model call")
    lease_tool_ms: int = Field(default=60_000, ge=100, description="lease and hard deadline of a tool call")
    unknown_deadline_ms: int = Field(
        default=86_400_000, ge=0, description="then an unknown hold commits its worst case"
    )
    sweep_interval_ms: int = Field(default=1_000, ge=50)


class BrokerSettings(ProcessSettings):
    """Settings of the broker. It verifies permits and cannot make any; it reaches neither Temporal nor Redis."""

    broker_database_url: SecretStr = Field(description="PostgreSQL as the role holdfast_broker")
    vault_key_file: Path = Field(description="AES-256 master key of the vault, 64 hex digits")
    permit_public_key_file: Path = Field(description="Ed25519 public key of permits, 64 hex digits")
    broker_host: str = "127.0.0.1"
    broker_port: int = 8081


class ExecutorSettings(CommonSettings):
    """Settings of an executor. No credential of any provider or tool is among them: LAW 1."""

    executor_database_url: SecretStr = Field(description="PostgreSQL as the role holdfast_executor")
    permit_public_key_file: Path = Field(description="Ed25519 public key of permits, 64 hex digits")
    broker_url: str = "http://127.0.0.1:8081"
    llm_slots: int = Field(default=50, ge=1)
    tool_slots: int = Field(default=50, ge=1)


def load(kind: type[SettingsT]) -> SettingsT:
    """Reads settings of one kind.

    Raises:
        ConfigurationInvalid: A setting is missing or wrong; the message names each by its environment variable.
    """
    try:
        return kind()
    except ValidationError as error:
        lines = [f"HOLDFAST_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise ConfigurationInvalid("; ".join(lines), remedy="set these in the environment") from None


def read_key_file(path: Path) -> bytes:
    """Reads a 32-byte key written as 64 hex digits.

    Raises:
        ConfigurationInvalid: The file is missing, readable by others, or not 64 hex digits.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(f"cannot read the key file {path}: {error}") from None
    if mode & 0o077:
        raise ConfigurationInvalid(f"{path} can be read by others (mode {mode & 0o777:o})", remedy=f"chmod 600 {path}")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:  # noqa: PLR2004 (AES-256 and Ed25519 keys are 32 bytes)
        raise ConfigurationInvalid(f"{path} does not hold 64 hex digits")
    return key
