"""What all groups of the client's calls stand on: one connection, and lists read page by page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from sdk.transport import Transport
from sdk.types import read_answer

ItemT = TypeVar("ItemT")

PAGE_MAX: Final = 200
EXPORT_SILENCE_S: Final = 60.0
"""After so long without a byte of an export its connection counts as lost."""


class Calls:
    """Calls over one connection."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _list(self, kind: type[ItemT], path: str, query: Mapping[str, object], count: int | None) -> list[ItemT]:
        items: list[ItemT] = []
        cursor: str | None = None
        while count is None or len(items) < count:
            size = PAGE_MAX if count is None else min(PAGE_MAX, count - len(items))
            page = self._transport.request("GET", path, query={**query, "limit": size, "cursor": cursor})
            items += [read_answer(kind, item) for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return items
