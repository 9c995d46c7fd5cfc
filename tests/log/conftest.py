"""What the tests of the log share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .go_oracle import Oracle


@pytest.fixture(scope="session")
def oracle() -> Iterator[Oracle]:
    """The field's own modules."""
    with Oracle() as running:
        yield running
