"""Actions as holds and outcomes have them: those that are in no sums yet, or all, as far as that goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.actions.run_facts import RunFacts
from holdfast.ledger.core import RUN_BUDGET
from holdfast.policies import sums
from holdfast.policies.deeds import Deed
from holdfast.policies.selectors import Selector

TAIL_MAX: Final = 2_000
"""Actions that are read one by one beside the sums."""
DEEDS_MAX: Final = 20_000
"""Actions that are read one by one where there are no sums."""

_DEED: Final = """
    h.hold_id, h.run_id, h.step, h.try, h.kind, h.tool, h.action, h.state, h.created_at, h.settled_at, h.settled_by,
    h.outward_at IS NOT NULL, o.hold_id IS NOT NULL, coalesce(o.ok, false), coalesce(h.cost_nano_usd, h.max_cost_nano_usd),
    coalesce((h.estimate ->> 'input_tokens_bound')::bigint + (h.estimate ->> 'output_tokens_bound')::bigint, 0),
    p.slug, u.name, r.agent_name, r.role_name, h.history_seq,
    h.state IN ('voided', 'expired') AND EXISTS (
        SELECT FROM holds n WHERE n.tenant_id = h.tenant_id AND n.run_id = h.run_id AND n.step = h.step AND n.try > h.try
        AND n.superseded_at IS NULL)
"""
_JOINED: Final = """
    JOIN runs r ON r.tenant_id = h.tenant_id AND r.run_id = h.run_id
    JOIN projects p ON p.tenant_id = r.tenant_id AND p.project_id = r.project_id
    JOIN users u ON u.tenant_id = r.tenant_id AND u.user_id = r.user_id
    LEFT JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
"""
_ACTION: Final = f"h.kind <> '{RUN_BUDGET}'"
_OF_RUN = text(f"""
    SELECT {_DEED} FROM holds h {_JOINED}
    WHERE h.tenant_id = :tenant_id AND h.run_id = :run_id AND h.superseded_at IS NULL AND {_ACTION} LIMIT :count
""")  # noqa: S608 (constants of this module)
_OF_TENANT = text(f"""
    SELECT {_DEED} FROM holds h {_JOINED}
    WHERE h.tenant_id = :tenant_id AND h.hold_id >= CAST(:floor AS uuid) AND h.superseded_at IS NULL AND {_ACTION}
      AND (CAST(:names AS text[]) IS NULL OR h.tool = ANY (CAST(:names AS text[])) OR h.kind = ANY (CAST(:names AS text[])))
    ORDER BY h.created_at, h.hold_id LIMIT :count
""")  # noqa: S608 (constants of this module)
# Budgets that have returned are read, and get their numbers: without, each look would pass them by again.
_OUT_OF_ORDER: Final = ("enable_sort", "enable_bitmapscan", "enable_seqscan")
_TAIL: Final = """
    (SELECT {deed} FROM holds h {joined} WHERE {whose} AND h.superseded_at IS NULL AND h.history_seq IS NULL
       AND ({action} OR h.settled_at IS NOT NULL)
     ORDER BY h.history_seq LIMIT :count)
    UNION ALL
    (SELECT {deed} FROM holds h {joined} WHERE {whose} AND h.superseded_at IS NULL AND h.history_seq > :mark
     ORDER BY h.history_seq LIMIT :count)
"""
# Only the indexes of 0018 have this order. Where few holds have numbers, PostgreSQL takes most of a run's to have none, and would
# rather read all of them by another index; so for this statement, plans that sort or gather before they look are out, and after it
# the settings are again what they were.
_SETTINGS: Final = ", ".join(f"current_setting('{name}') AS {name}" for name in _OUT_OF_ORDER)
_TO_OFF: Final = ", ".join(f"set_config('{name}', 'off', true)" for name in _OUT_OF_ORDER)
_IN_ORDER = text(
    f"WITH found AS MATERIALIZED (SELECT {_SETTINGS}) SELECT found.*, {_TO_OFF} FROM found"  # noqa: S608 (constants of this module)
)
_AS_FOUND = text("SELECT " + ", ".join(f"set_config('{name}', :{name}, true)" for name in _OUT_OF_ORDER))
_TAIL_OF_RUN = text(
    _TAIL.format(deed=_DEED, joined=_JOINED, action=_ACTION, whose="h.tenant_id = :tenant_id AND h.run_id = :owner")
)
_TAIL_OF_TENANT = text(_TAIL.format(deed=_DEED, joined=_JOINED, action=_ACTION, whose="h.tenant_id = :tenant_id"))


@dataclass(frozen=True, slots=True)
class Tail:
    """What is in no sums yet.

    Attributes:
        marks: Up to which number the sums go, by selector.
        deeds: The actions behind the smallest mark, or without a number, and budgets that have returned.
        whole: Whether these are all.
        locked: Whether nobody else can move the marks before the transaction ends.
    """

    marks: Mapping[bytes, int]
    deeds: tuple[Deed, ...]
    whole: bool
    locked: bool

    def behind(self, selector: Selector) -> list[Deed]:
        """Returns the actions that are not in a selector's sums."""
        mark = self.marks[selector.digest]
        return [deed for deed in self.deeds if not deed.is_budget and (deed.seq is None or deed.seq > mark)]


async def _look(
    connection: AsyncConnection, run: RunFacts, owner: UUID, selectors: Sequence[Selector], *, locked: bool
) -> Tail:
    marks = await sums.marks(connection, run.tenant_id, owner, selectors)
    found = (await connection.execute(_IN_ORDER)).mappings().one()
    rows = await connection.execute(
        _TAIL_OF_TENANT if owner == sums.EVERYBODYS else _TAIL_OF_RUN,
        {"tenant_id": run.tenant_id, "owner": owner, "mark": min(marks.values()), "count": TAIL_MAX + 1},
    )
    await connection.execute(_AS_FOUND, {name: found[name] for name in _OUT_OF_ORDER})
    deeds = tuple(Deed(*row) for row in rows)
    unnumbered = sum(deed.seq is None for deed in deeds)
    return Tail(marks, deeds, max(unnumbered, len(deeds) - unnumbered) <= TAIL_MAX, locked)


async def read_tail(
    connection: AsyncConnection,
    run: RunFacts,
    owner: UUID,
    selectors: Sequence[Selector],
    *,
    steps: int = 1,
    wait: bool = False,
) -> Tail:
    """Reads what is in no sums yet; what is settled for good is folded in, if that is enough to be worth it.

    Args:
        connection: The caller's transaction.
        run: The run that is decided for.
        owner: The run, or everybody.
        selectors: What is summed up of it; at least one.
        steps: How many times at most up to `FOLD_MAX` actions are folded in.
        wait: Whether to wait for somebody else who folds.
    """
    tail = await _look(connection, run, owner, selectors, locked=False)
    for _ in range(steps):
        if sum(deed.seq is not None or sums.is_due(deed, run.now) for deed in tail.deeds) < sums.FOLD_AT:
            break
        if not tail.locked:
            if not await sums.lock(connection, run.tenant_id, wait=wait):
                break
            tail = await _look(connection, run, owner, selectors, locked=True)
        tail = await _fold(connection, run, owner, selectors, tail)
    return tail


async def _fold(
    connection: AsyncConnection, run: RunFacts, owner: UUID, selectors: Sequence[Selector], tail: Tail
) -> Tail:
    numbered = sorted((deed for deed in tail.deeds if deed.seq is not None), key=lambda deed: deed.seq or 0)
    chosen = numbered[: sums.FOLD_MAX]
    if len(numbered) < sums.FOLD_MAX:
        due = [deed for deed in tail.deeds if sums.is_due(deed, run.now)]
        chosen += await sums.number(connection, run.tenant_id, due[: sums.FOLD_MAX - len(numbered)])
    await sums.fold(connection, run.tenant_id, owner, run.tenant, tail.marks, selectors, chosen)
    if not tail.whole or not chosen:
        return await _look(connection, run, owner, selectors, locked=True)
    newest = max(deed.seq or 0 for deed in chosen)
    folded = {deed.hold_id for deed in chosen}
    marks = {digest: max(mark, newest) for digest, mark in tail.marks.items()}
    return Tail(marks, tuple(deed for deed in tail.deeds if deed.hold_id not in folded), whole=True, locked=True)


async def have_moved(
    connection: AsyncConnection, run: RunFacts, owner: UUID, selectors: Sequence[Selector], tail: Tail
) -> bool:
    """Says whether somebody else has folded since a tail was read, so that sums read after it do not fit it."""
    return not tail.locked and await sums.marks(connection, run.tenant_id, owner, selectors) != dict(tail.marks)


async def read_run(connection: AsyncConnection, run: RunFacts) -> list[Deed] | None:
    """Returns everything that a run did; `None` if it is too much."""
    parameters = {"tenant_id": run.tenant_id, "run_id": run.run_id, "count": DEEDS_MAX + 1}
    deeds = [Deed(*row) for row in await connection.execute(_OF_RUN, parameters)]
    return deeds if len(deeds) <= DEEDS_MAX else None


async def read_tenant(
    connection: AsyncConnection, run: RunFacts, floor: UUID, names: Sequence[str] | None
) -> list[Deed] | None:
    """Returns what a tenant did from an id on, by tools or kinds of some names; `None` if it is too much."""
    parameters = {"tenant_id": run.tenant_id, "floor": floor, "names": names, "count": DEEDS_MAX + 1}
    deeds = [Deed(*row) for row in await connection.execute(_OF_TENANT, parameters)]
    return deeds if len(deeds) <= DEEDS_MAX else None
