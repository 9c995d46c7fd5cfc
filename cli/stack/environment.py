"""The environment of each process: what it needs, and nothing that another one's rights are in (LAW 1)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.stack.ports import LOOPBACK, Ports
from cli.stack.secrets import Secrets
from cli.stack.temporal import NAMESPACE

PROVIDER_KEYS: Final = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
# All that children get of the caller's environment: a key in the shell that called `holdfast up` reaches no executor.
_PASSED_ON: Final = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TZ",
        "TMPDIR",
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "PYTHONDONTWRITEBYTECODE",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "HOLDFAST_LOG_LEVEL",
        "HOLDFAST_LOG_NAME",
        "HOLDFAST_WEBHOOK_PRIVATE_HOSTS",
        "HOLDFAST_SANDBOX_PROFILE",
        "HOLDFAST_SANDBOX_BACKENDS",
        "HOLDFAST_SANDBOX_ALLOW_OLD",
        "HOLDFAST_SANDBOX_TIER",
    }
)
_BUCKET: Final = "HOLDFAST_OBJECTS_"
_FOLDER: Final = "HOLDFAST_OBJECTS_FOLDER"
_TUNING_SUFFIXES: Final = ("_MS", "_SLOTS", "_MB")


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables of the caller that children may see."""
    return {
        name: value
        for name, value in environ.items()
        if name in _PASSED_ON
        or name.startswith("LC_")
        or (name.startswith("HOLDFAST_") and name.endswith(_TUNING_SUFFIXES))
    }


@dataclass(frozen=True, slots=True)
class Environments:
    """Builds the environment of each process from what one stack has chosen."""

    ports: Ports
    secrets: Secrets
    database_urls: Mapping[str, str]
    redis_url: str
    providers: tuple[str, ...]
    headless: bool
    objects: Path
    bucket: Mapping[str, str]

    def of(self, process: str) -> dict[str, str]:
        """Returns the `HOLDFAST_…` variables of a process; `executor-2` is an `executor`.

        Raises:
            KeyError: There is no such process.
        """
        kinds = {
            "api": self._api,
            "governor": self._governor,
            "executor": self._executor,
            "migrations": self._migrations,
            "bootstrap": self._bootstrap,
            "provider": dict[str, str],
        }
        kind = process.rpartition("-")[0] if process.rpartition("-")[2].isdecimal() else process
        return {f"HOLDFAST_{name}": value for name, value in kinds[kind]().items()}

    def _objects_folder(self) -> dict[str, str]:
        """Where files are kept, for those who may hold no key of S3: they ask the broker where there is no folder (LAW 1)."""
        return {} if self.bucket else {"OBJECTS_FOLDER": str(self.objects)}

    def _common(self) -> dict[str, str]:
        return {
            "REDIS_URL": self.redis_url,
            "TEMPORAL_ADDRESS": f"{LOOPBACK}:{self.ports.temporal}",
            "TEMPORAL_NAMESPACE": NAMESPACE,
            "CODEC_KEY_FILE": str(self.secrets.codec_key_file),
        }

    def _api(self) -> dict[str, str]:
        return {
            **self._common(),
            "API_DATABASE_URL": self.database_urls["holdfast_api"],
            "API_HOST": LOOPBACK,
            "API_PORT": str(self.ports.api),
            **self._objects_folder(),
            "BROKER_URL": f"http://{LOOPBACK}:{self.ports.broker}",
            "TEMPORAL_UI_URL": "" if self.headless else f"http://{LOOPBACK}:{self.ports.temporal_ui}",
            # Temporal's UI in a browser on this machine shows payloads decrypted; it has no way to send an operator's key
            "CODEC_ENDPOINT_OPEN": "false" if self.headless else "true",
        }

    def _governor(self) -> dict[str, str]:
        """Governor and broker, which are one process here."""
        return {
            **self._common(),
            "GOVERNOR_DATABASE_URL": self.database_urls["holdfast_governor"],
            "BROKER_DATABASE_URL": self.database_urls["holdfast_broker"],
            "SWEEPER_DATABASE_URL": self.database_urls["holdfast_sweeper"],
            "PERMIT_KEY_FILE": str(self.secrets.permit_key_file),
            "LOG_KEY_FILE": str(self.secrets.log_key_file),
            "PERMIT_PUBLIC_KEY_FILE": str(self.secrets.permit_public_key_file),
            "VAULT_KEY_FILE": str(self.secrets.vault_key_file),
            "BROKER_HOST": LOOPBACK,
            "BROKER_PORT": str(self.ports.broker),
            **self.bucket,
        }

    def _executor(self) -> dict[str, str]:
        return {
            **self._common(),
            "EXECUTOR_DATABASE_URL": self.database_urls["holdfast_executor"],
            **self._objects_folder(),
            "PERMIT_PUBLIC_KEY_FILE": str(self.secrets.permit_public_key_file),
            "BROKER_URL": f"http://{LOOPBACK}:{self.ports.broker}",
        }

    def _migrations(self) -> dict[str, str]:
        roles = ("owner", "api", "governor", "broker", "executor", "sweeper", "auditor")
        return {f"{role.upper()}_DATABASE_URL": self.database_urls[f"holdfast_{role}"] for role in roles}

    def _bootstrap(self) -> dict[str, str]:
        return {
            "OWNER_DATABASE_URL": self.database_urls["holdfast_owner"],
            "API_DATABASE_URL": self.database_urls["holdfast_api"],
            "BROKER_DATABASE_URL": self.database_urls["holdfast_broker"],
            "VAULT_KEY_FILE": str(self.secrets.vault_key_file),
            "BOOTSTRAP_KEY_FILE": str(self.secrets.bootstrap_key_file),
            "PROVIDERS": ",".join(self.providers),
            "SIMULATED_PROVIDER_URL": f"http://{LOOPBACK}:{self.ports.provider}",
        }


def choose_bucket(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the settings of object storage in S3, which only the broker gets; none if they name no bucket."""
    found = {
        name.removeprefix("HOLDFAST_"): value
        for name, value in environ.items()
        if name.startswith(_BUCKET) and name != _FOLDER and value
    }
    return found if "OBJECTS_BUCKET" in found else {}


def choose_providers(wanted: str, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Decides who thinks: with `auto` every provider whose key is in the environment, else the simulated one."""
    if wanted != "auto":
        return (wanted,)
    return tuple(name for name, key in PROVIDER_KEYS.items() if environ.get(key)) or ("simulated",)
