from __future__ import annotations

import pytest

from tests.database.conftest import database, tenant

__all__ = ["database", "tenant"]


@pytest.fixture(autouse=True)
def _no_servers_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOLDFAST_POSTGRES", "HOLDFAST_REDIS", "HOLDFAST_DATA_DIR", "ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
