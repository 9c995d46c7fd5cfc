from __future__ import annotations

from pathlib import Path

import pytest

from holdfast_verdict.verify.lines import Line
from tests.verify.record_golden import FOLDER
from tests.verify.sealing import TestLog, content_of

from .checking import Check


@pytest.fixture(scope="session", params=["rules-2", "policy-1"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine version that has a verifier."""
    return str(request.param)


@pytest.fixture(scope="session")
def golden(engine: str) -> bytes:
    """A run's bundle with consents, refusals and payments."""
    return (FOLDER / f"{engine}-run.jsonl").read_bytes()


@pytest.fixture(scope="session")
def whole(engine: str) -> bytes:
    """A tenant's bundle, whose balances are whole."""
    return (FOLDER / f"{engine}-tenant.jsonl").read_bytes()


@pytest.fixture
def content(whole: bytes) -> list[Line]:
    """What the tenant's bundle was sealed over; to be changed and sealed again, as one could who has the log's key."""
    return content_of(whole)


@pytest.fixture
def log(content: list[Line]) -> TestLog:
    return TestLog(str(content[0]["origin"]))


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return Check(tmp_path / "bundle.jsonl")
