"""Real servers for all tests that ask for them: PostgreSQL with schema and roles, Valkey, Temporal. Started once a session."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
import structlog
from temporalio.client import Client

from cli.stack.supervisor import BASE_PARTS, Stack
from holdfast.codec import data_converter
from holdfast.database.roles import LOGIN_ROLES
from holdfast.runs.start import ensure_search_attributes

pytest_plugins = ["tests.hours", "tests.skips", "tests.spread", "tests.witnesses"]

# No example fails for taking long: its time is the machine's, which may be busy. Without a bound, drawing one may take long as well.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

# Processes log as JSON. Tests that run a part in their own process log to a terminal, where structlog would draw every failure with
# all its variables; that takes seconds, for which requests would wait.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture(scope="session")
async def base_stack() -> AsyncIterator[Stack]:
    """PostgreSQL, Valkey and Temporal with an empty, migrated database."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    folder.chmod(0o755)
    try:
        async with Stack(folder, ports="free", parts=BASE_PARTS, headless=True) as stack:
            yield stack
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_urls(base_stack: Stack) -> Mapping[str, str]:
    """The database's URL for each role, such as `holdfast_api`; `postgres` is the superuser."""
    urls = {role: base_stack.database_url(role) for role in LOGIN_ROLES}
    return {**urls, "postgres": base_stack.superuser_url}


@pytest.fixture(scope="session")
def redis_url(base_stack: Stack) -> str:
    """Valkey's URL."""
    return base_stack.urls.redis


@pytest.fixture(scope="module")
def patient_solver() -> Iterator[None]:
    """Lets what a check of a policy leaves undecided depend on the policy alone: its bounds are of time, which a busy machine takes."""
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr("holdfast_verdict.check.search.SOLVER_MS", 120_000)
        patching.setattr("holdfast_verdict.check.texts.PROOF_MS", 120_000)
        yield


@pytest.fixture(scope="session")
def codec_key(base_stack: Stack) -> bytes:
    """The payload codec's key of this session."""
    return bytes.fromhex(base_stack.secrets.codec_key_file.read_text(encoding="ascii").strip())


@pytest.fixture(scope="session")
async def temporal_client(base_stack: Stack, codec_key: bytes) -> Client:
    """Temporal as Holdfast's processes see it: encrypted payloads, search attributes registered."""
    client = await Client.connect(
        base_stack.urls.temporal, namespace="holdfast", data_converter=data_converter(codec_key)
    )
    await ensure_search_attributes(client)
    return client
