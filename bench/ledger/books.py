"""Whether the books are right after a load."""

from __future__ import annotations

from typing import Final

from bench.ledger.place import Server

_SHOWN: Final = 20


async def books_wrong(server: Server, committed: int) -> list[str]:
    """Says what is wrong with the books, in which so many holds should be committed and none open."""
    wrong = []
    row = await server.superuser.fetchrow(
        "SELECT count(*) FILTER (WHERE state = 'committed'), count(*) FROM holds", timeout=600
    )
    if tuple(row) != (committed, committed):
        wrong.append(f"{committed} holds were settled; the books have {row[1]}, of which {row[0]} are committed")
    audit = await server.audit()
    wrong += [f"{one.check}: {one.subject_id}: {one.message}" for one in audit.discrepancies[:_SHOWN]]
    return wrong
