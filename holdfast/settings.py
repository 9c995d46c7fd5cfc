"""Settings of every process, read from the environment (`HOLDFAST_…`); all wrong ones are named at start.

A secret comes from the environment, or from a file that `HOLDFAST_…_FILE` names. Keys come from files only.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeVar, get_args
from urllib.parse import urlsplit

import structlog
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from holdfast.contracts.tiers import PROCESS, Tier, by_tier
from holdfast.errors import ConfigurationInvalid

SettingsT = TypeVar("SettingsT", bound=BaseSettings)
OtherT = TypeVar("OtherT", bound=BaseSettings)

PREFIX: Final = "HOLDFAST_"
FILE_SUFFIX: Final = "_FILE"
_SECRET_BYTES_MAX: Final = 64 * 1024
_PORT_MAX: Final = 65_535
_SIMILAR: Final = 0.84
_HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")
_LOG_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}(?:/[A-Za-z0-9._-]{1,50}){0,4}")
_REMEDY: Final = (
    "docs/reference/settings.md lists every setting; a secret may also be in a file that its name with _FILE names"
)


class LogLevel(StrEnum):
    """How serious a line must be to be logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _url_of(text: str, schemes: Sequence[str]) -> str:
    """Checks a URL; what is wrong is said without the URL, which may hold a password."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not parts.hostname and "host=" not in parts.query:
        raise ValueError("names no host")
    if port == 0:
        raise ValueError("has port 0")
    return text


def _secret_url(*schemes: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        _url_of(value.get_secret_value(), schemes)
        return value

    return AfterValidator(check)


def _http_url(value: str) -> str:
    return _url_of(value, ("http", "https")).rstrip("/") if value else value


def _host_and_port(value: str) -> str:
    match = _HOST_AND_PORT.fullmatch(value)
    if match is None or not 0 < int(match["port"]) <= _PORT_MAX:
        raise ValueError("must be host:port")
    return value


def _provider_names(value: str) -> str:
    names = list(filter(None, (name.strip() for name in value.split(","))))
    if unknown := [name for name in names if name not in PROVIDERS]:
        raise ValueError(f"{', '.join(unknown)} is none of {', '.join(PROVIDERS)}")
    return ",".join(names)


def _hosts(value: str) -> str:
    entries = list(filter(None, (entry.strip().lower() for entry in value.split(","))))
    if wrong := [entry for entry in entries if "/" in entry or "@" in entry or entry.startswith(":")]:
        raise ValueError(f"{', '.join(wrong)} is no host or host:port")
    return ",".join(entries)


def _log_name(value: str) -> str:
    if not _LOG_NAME.fullmatch(value):
        raise ValueError("must be a host's name, and may have a path behind it")
    return value


def _names(value: str) -> list[str]:
    return list(filter(None, (name.strip() for name in value.split(","))))


def _backends(value: str) -> str:
    by_tier(_names(value))
    return ",".join(_names(value))


def _some_backends(value: str) -> str:
    for name in _names(value):
        by_tier([name])
    return ",".join(_names(value))


PROVIDERS: Final = ("anthropic", "openai", "simulated")
"""Who may think for the first tenant."""
DatabaseUrl = Annotated[SecretStr, _secret_url("postgresql", "postgres")]
RedisUrl = Annotated[SecretStr, _secret_url("redis", "rediss")]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Port = Annotated[int, Field(ge=1, le=_PORT_MAX)]
Address = Annotated[str, AfterValidator(_host_and_port)]
Backends = Annotated[str, AfterValidator(_backends)]
"""What isolates code: one for each tier at most."""
Hosts = Annotated[str, AfterValidator(_hosts)]
Level = Annotated[LogLevel, BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)]


class ProcessSettings(BaseSettings):
    """What every process may be told."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, env_ignore_empty=True)

    log_level: Level = Field(default=LogLevel.INFO, description="`debug`, `info`, `warning` or `error`")
    shutdown_grace_ms: int = Field(
        default=20_000,
        ge=0,
        description="told to stop, a process lets what it is doing go on for so long, then hands it back",
    )


class CommonSettings(ProcessSettings):
    """What every process needs that takes part in runs: the way to Temporal and to the live streams."""

    temporal_address: Address = Field(default="127.0.0.1:7233", description="host:port of Temporal's frontend")
    temporal_namespace: str = Field(default="holdfast", description="Temporal namespace of all runs")
    redis_url: RedisUrl = Field(description="Redis or Valkey, for live streams")
    codec_key_file: Path = Field(description="AES-256 key of the payload codec, 64 hex digits")


class IsolationSettings(CommonSettings):
    """What whoever admits, decides on and runs code has to be told alike."""

    sandbox_backends: Backends = Field(
        default="native",
        description="what isolates code, one for each tier at most, by commas: `native` or `bubblewrap` for the tier `process`, "
        "`runsc` for the tier `kernel`",
    )


class ApiSettings(IsolationSettings):
    """Settings of the API process."""

    api_database_url: DatabaseUrl = Field(description="PostgreSQL as the role holdfast_api")
    api_host: str = Field(default="127.0.0.1", description="address that the API listens on")
    api_port: Port = Field(default=8080, description="port that the API listens on")
    temporal_ui_url: HttpUrl = Field(
        default="", description="address of Temporal's UI, for links and as the codec's caller"
    )
    broker_url: HttpUrl = Field(default="http://127.0.0.1:8081", description="the broker, which keeps the vault")
    sandbox_tier: Tier = Field(
        default=PROCESS,
        description="tier in which code of every run is isolated at least, `process` or `kernel`; tenants and roles may ask for more",
    )
    codec_endpoint_open: bool = Field(
        default=False, description="whether /codec answers Temporal's UI on this machine without a key"
    )
    objects_folder: Path | None = Field(
        default=None,
        description="object storage in a folder: where the files of runs are kept; without it the broker is asked for S3",
    )
    webhook_private_hosts: Hosts = Field(
        default="",
        description="hosts inside, `host` or `host:port`, that webhooks may go to, also without TLS; by commas",
    )


class GovernorSettings(IsolationSettings):
    """Settings of the governor: workflows, reserve and settle, with the sweepers. It has no way to any credential."""

    governor_database_url: DatabaseUrl = Field(description="PostgreSQL as the role holdfast_governor")
    sweeper_database_url: DatabaseUrl = Field(description="PostgreSQL as the role holdfast_sweeper")
    permit_key_file: Path = Field(description="Ed25519 private key that signs permits, 64 hex digits")
    log_key: SecretStr = Field(
        description="Ed25519 private keys that sign the decision log's checkpoints: 64 hex digits a line, the newest first"
    )
    log_name: Annotated[str, AfterValidator(_log_name)] = Field(
        default="holdfast.localhost",
        description="what the names of new logs begin with, like a URL without its scheme; a log keeps its name",
    )
    log_interval_ms: int = Field(
        default=500, ge=50, description="pause between two rounds of numbering and signing the decision log"
    )
    heartbeat_timeout_ms: int = Field(default=10_000, ge=500, description="an executor silent for longer is dead")
    lease_llm_ms: int = Field(default=600_000, ge=100, description="lease and hard deadline of a model call")
    lease_tool_ms: int = Field(default=60_000, ge=100, description="lease and hard deadline of a tool call")
    lease_code_ms: int = Field(default=120_000, ge=100, description="lease and hard deadline of a run of code")
    history_events_max: int = Field(
        default=30_000,
        ge=100,
        le=40_000,
        description="events of a run's Temporal history after which its code is refused calls, and it continues as new; Temporal "
        "ends a run at 51,200",
    )
    unknown_deadline_ms: int = Field(
        default=86_400_000, ge=0, description="then an unknown hold commits its worst case"
    )
    sweep_interval_ms: int = Field(default=1_000, ge=50, description="pause between two sweeps")
    webhook_private_hosts: Hosts = Field(
        default="",
        description="hosts inside, `host` or `host:port`, that webhooks may go to, also without TLS; by commas",
    )


class BucketSettings(ProcessSettings):
    """Where the files of runs are kept in S3, and the key to it."""

    objects_bucket: str = Field(
        default="", description="object storage in S3: the bucket that the files of runs are kept in"
    )
    objects_prefix: str = Field(default="", description="what the names of all objects in the bucket begin with")
    objects_endpoint: HttpUrl = Field(
        default="", description="address of S3, where it is not Amazon's; executors and API have to reach it as well"
    )
    objects_region: str = Field(default="us-east-1", description="region of the bucket")
    objects_access_key_id: str = Field(
        default="", description="key of S3 that may read, write and delete in the bucket"
    )
    objects_secret_access_key: SecretStr | None = Field(default=None, description="secret of that key")


class BrokerSettings(BucketSettings):
    """Settings of the broker. It verifies permits and cannot make any; it reaches neither Temporal nor Redis."""

    broker_database_url: DatabaseUrl = Field(description="PostgreSQL as the role holdfast_broker")
    vault_key_file: Path = Field(description="AES-256 master key of the vault, 64 hex digits")
    permit_public_key_file: Path = Field(description="Ed25519 public key of permits, 64 hex digits")
    broker_host: str = Field(default="127.0.0.1", description="address that the broker listens on")
    broker_port: Port = Field(default=8081, description="port that the broker listens on")


class ExecutorSettings(IsolationSettings):
    """Settings of an executor. No credential of any provider or tool is among them: LAW 1."""

    executor_database_url: DatabaseUrl = Field(description="PostgreSQL as the role holdfast_executor")
    permit_public_key_file: Path = Field(description="Ed25519 public key of permits, 64 hex digits")
    broker_url: HttpUrl = Field(default="http://127.0.0.1:8081", description="the broker, which keeps the vault")
    llm_slots: int = Field(default=50, ge=1, description="model calls of one executor at a time")
    tool_slots: int = Field(default=50, ge=1, description="tool calls of one executor at a time")
    tool_memory_mb: int = Field(
        default=2048, ge=64, description="address space of the process of one Python tool's call"
    )
    code_slots: int = Field(
        default=4, ge=0, description="runs of code of one executor at a time; 0 leaves them to sandbox hosts"
    )
    code_requests_max: int = Field(
        default=200,
        ge=0,
        le=1_000,
        description="calls, emits and citations that one run of code may ask its run for; 0 allows none",
    )
    sandbox_profile: Literal["full", "unprivileged"] = Field(
        default="full",
        description="`full` runs code behind every layer or not at all; `unprivileged` allows that jobs have no account and no "
        "cgroup of their own",
    )
    sandbox_allow_old: Annotated[str, AfterValidator(_some_backends)] = Field(
        default="",
        description="of these backends an older version may be used than is known to be sound; stands in every receipt",
    )
    environments_folder: Path | None = Field(
        default=None,
        description="packages that code may import, as `holdfast sandbox build` makes them; else the account's own folder",
    )
    objects_folder: Path | None = Field(
        default=None,
        description="object storage in a folder: where the files of runs are kept; without it the broker is asked for S3",
    )
    preloaded_providers: Annotated[str, AfterValidator(_provider_names)] = Field(
        default="",
        description="providers whose client an executor loads before it is ready, not with the first call: "
        "`anthropic`, `openai`, separated by commas",
    )
    webhook_private_hosts: Hosts = Field(
        default="",
        description="hosts inside, `host` or `host:port`, that webhooks may go to, also without TLS; by commas",
    )


class RolesSettings(ProcessSettings):
    """Settings of the step that makes the database's roles; the one that needs a superuser."""

    superuser_url: DatabaseUrl = Field(description="PostgreSQL as a superuser, or a role with CREATEROLE and CREATEDB")
    role_passwords_file: Path = Field(
        description="JSON object of a password for each role; also for `temporal`, if any"
    )


class MigrationSettings(ProcessSettings):
    """Settings of the migrations, which alone run as the schema's owner."""

    owner_database_url: DatabaseUrl = Field(description="PostgreSQL as the role holdfast_owner")


class BootstrapSettings(ProcessSettings):
    """Settings of the bootstrap; the vault's part only where it shall also store providers' credentials."""

    api_database_url: DatabaseUrl = Field(description="PostgreSQL as the role holdfast_api")
    bootstrap_key_file: Path = Field(description="where the first keys are written, readable by their owner only")
    bootstrap_show_keys: bool = Field(default=True, description="whether the first keys are printed, once")
    broker_database_url: DatabaseUrl | None = Field(default=None, description="PostgreSQL as the role holdfast_broker")
    vault_key_file: Path | None = Field(default=None, description="AES-256 master key of the vault, 64 hex digits")
    providers: Annotated[str, AfterValidator(_provider_names)] = Field(
        default="",
        description="who thinks for the first tenant: `anthropic`, `openai`, `simulated`, separated by commas",
    )
    simulated_provider_url: HttpUrl = Field(default="", description="where the simulated provider listens")


class AuditorSettings(ProcessSettings):
    """Settings of the auditor, which only reads."""

    auditor_database_url: DatabaseUrl = Field(description="PostgreSQL as the role holdfast_auditor")


PROCESSES: Final[Mapping[str, type[BaseSettings]]] = MappingProxyType(
    {
        "api": ApiSettings,
        "governor": GovernorSettings,
        "broker": BrokerSettings,
        "executor": ExecutorSettings,
        "roles": RolesSettings,
        "migrations": MigrationSettings,
        "bootstrap": BootstrapSettings,
        "auditor": AuditorSettings,
    }
)
"""Each process and its settings."""


def variable(field: str) -> str:
    """Returns the environment variable of a setting."""
    return f"{PREFIX}{field.upper()}"


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting's value is a secret, so that a file may hold it."""

    def holds(annotation: Any) -> bool:  # what a type consists of is no type
        return annotation is SecretStr or any(holds(part) for part in get_args(annotation))

    return holds(field.annotation)


def variables(kind: type[BaseSettings]) -> frozenset[str]:
    """Returns all environment variables that a kind of settings reads."""
    names = {variable(name) for name in kind.model_fields}
    return frozenset(names | {variable(n) + FILE_SUFFIX for n, field in kind.model_fields.items() if is_secret(field)})


def load(kind: type[SettingsT]) -> SettingsT:
    """Reads settings of one kind.

    Raises:
        ConfigurationInvalid: Settings are missing or wrong; the message names each by its environment variable.
    """
    settings, wrong = _read(kind)
    if settings is None:
        raise _invalid(wrong, kind)
    return settings


def load_both(kind: type[SettingsT], other: type[OtherT]) -> tuple[SettingsT, OtherT]:
    """Reads settings of a process that is two in one.

    Raises:
        ConfigurationInvalid: Settings of either are missing or wrong; the message names all of them.
    """
    (first, wrong), (second, more) = _read(kind), _read(other)
    if first is None or second is None:
        raise _invalid(list(dict.fromkeys([*wrong, *more])), kind, other)
    return first, second


def _invalid(wrong: Sequence[str], *kinds: type[BaseSettings]) -> ConfigurationInvalid:
    count = "a setting is wrong" if len(wrong) == 1 else f"{len(wrong)} settings are wrong"
    guesses = misspelled(os.environ, *kinds).items()
    wrong = [*wrong, *(f"{name} is read by nobody: is {meant} meant?" for name, meant in guesses)]
    return ConfigurationInvalid(f"{count}: {'; '.join(wrong)}", remedy=_REMEDY)


def _read(kind: type[SettingsT]) -> tuple[SettingsT | None, list[str]]:
    """Returns the settings, or all that is wrong with them."""
    wrong: dict[str, str] = {}
    from_files: dict[str, Any] = {}  # an argument of each setting's own type
    for name, field in kind.model_fields.items():
        if is_secret(field) and (path := os.environ.get(variable(name) + FILE_SUFFIX)):
            if os.environ.get(variable(name)):
                wrong[name] = f"{variable(name)} and {variable(name)}{FILE_SUFFIX} are both set; unset one of them"
                continue
            try:
                from_files[name] = read_secret_file(Path(path))
            except ConfigurationInvalid as error:
                wrong[name] = f"{variable(name)}{FILE_SUFFIX}: {error.message}"
    try:
        settings = kind(**from_files)
    except ValidationError as error:
        for each in error.errors():
            name = str(each["loc"][0])
            wrong.setdefault(name, _said(name, kind.model_fields[name], each["type"], each["msg"]))
    return (None, list(wrong.values())) if wrong else (settings, [])


def _said(name: str, field: FieldInfo, error_type: str, message: str) -> str:
    if error_type == "missing":
        return f"{variable(name)} is not set{f', nor is {variable(name)}{FILE_SUFFIX}' if is_secret(field) else ''}"
    return f"{variable(name)}: {message.removeprefix('Value error, ')}"


def misspelled(environ: Mapping[str, str], *kinds: type[BaseSettings]) -> dict[str, str]:
    """Returns variables that no process reads, but that look like one that this process does; each with that one."""
    own = frozenset[str]().union(*(variables(kind) for kind in kinds))
    known = own.union(*(variables(kind) for kind in PROCESSES.values()))
    found = {}
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name.upper(), own, n=1, cutoff=_SIMILAR)
            if near and near[0] not in environ:
                found[name] = near[0]
    return found


def warn_of_misspellings(*kinds: type[BaseSettings]) -> None:
    """Logs a warning for each variable that looks like a misspelt setting of this process."""
    for name, meant in misspelled(os.environ, *kinds).items():
        structlog.get_logger("settings").warning("setting.unknown", variable=name, did_you_mean=meant)


def secret_variable(name: str, environ: Mapping[str, str]) -> str:
    """Returns a secret from a variable that is not Holdfast's own, or from the file that its name with `_FILE` names.

    Returns:
        The secret, or an empty text if neither is set.

    Raises:
        ConfigurationInvalid: Both are set, or the file will not do.
    """
    value, path = environ.get(name, ""), environ.get(name + FILE_SUFFIX, "")
    if value and path:
        raise ConfigurationInvalid(f"{name} and {name}{FILE_SUFFIX} are both set", remedy="unset one of them")
    if not path:
        return value
    try:
        return read_secret_file(Path(path))
    except ConfigurationInvalid as error:
        raise ConfigurationInvalid(f"{name}{FILE_SUFFIX}: {error.message}", remedy=error.remedy) from None


def read_secret_file(path: Path) -> str:
    """Reads a file that holds one secret; a line break at its end does not belong to it.

    A file of this process's own account must be closed to all others, for whoever wrote it could have seen to that. A file of
    another account was put there by an orchestrator: Docker and Kubernetes mount secrets as root's and readable by all inside
    the container, which is that secret's boundary. Nobody but its owner may be able to change either.

    Raises:
        ConfigurationInvalid: The file is missing, empty, too large, not text, or open to others.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigurationInvalid(f"{path} is not a file")
        if found.st_size > _SECRET_BYTES_MAX:
            raise ConfigurationInvalid(f"{path} is over {_SECRET_BYTES_MAX} bytes; no secret is that long")
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ConfigurationInvalid(f"{path} is not text") from None
    except OSError as error:
        raise ConfigurationInvalid(f"cannot read {path}: {error.strerror}") from None
    forbidden = 0o077 if found.st_uid == os.geteuid() else 0o022
    if found.st_mode & forbidden:
        may = "read" if forbidden == 0o077 else "changed"  # noqa: PLR2004 (the mode chosen in the line above)
        raise ConfigurationInvalid(
            f"{path} can be {may} by others (mode {found.st_mode & 0o777:o})", remedy=f"chmod 600 {path}"
        )
    if not text:
        raise ConfigurationInvalid(f"{path} is empty")
    return text


def read_key_file(path: Path) -> bytes:
    """Reads a 32-byte key written as 64 hex digits.

    Raises:
        ConfigurationInvalid: The file is missing, open to others, or not 64 hex digits.
    """
    text = read_secret_file(path)
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:  # noqa: PLR2004 (AES-256 and Ed25519 keys are 32 bytes)
        raise ConfigurationInvalid(f"{path} does not hold 64 hex digits")
    return key
