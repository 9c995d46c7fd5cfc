from __future__ import annotations

import pytest

from .distributions import Distribution, Environment, build, install


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Distribution]:
    """All distributions, as they are released."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, built: dict[str, Distribution]) -> Environment:
    """The server alone, without the embedded stack's parts."""
    return install(tmp_path_factory.mktemp("server") / "env", built, "holdfast", "holdfast-verify", "holdfast-sdk")


@pytest.fixture(scope="package")
def verify(tmp_path_factory: pytest.TempPathFactory, built: dict[str, Distribution]) -> Environment:
    """The deciding core alone."""
    return install(tmp_path_factory.mktemp("verify") / "env", built, "holdfast-verify")


@pytest.fixture(scope="package")
def client(tmp_path_factory: pytest.TempPathFactory, built: dict[str, Distribution]) -> Environment:
    """The Python client alone."""
    return install(tmp_path_factory.mktemp("client") / "env", built, "holdfast-sdk")
