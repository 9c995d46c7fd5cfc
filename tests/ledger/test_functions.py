"""The schema's functions say the same as the Python that they stand beside: canonical bytes, money in words, ids."""

from __future__ import annotations

import time
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.ledger.types import Scope
from holdfast.money import format_usd
from holdfast_verdict import record
from holdfast_verdict.canonical import canonical_bytes
from holdfast_verdict.decide import Verdict

from .world import Database, Tenant, new_tenant

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
# what `text` columns take: no NUL, no lone surrogates
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=20)


@SETTINGS
@given(amount=st.integers(0, 2**62))
async def test_money_in_words_is_the_same_on_both_sides(database: Database, amount: int) -> None:
    assert await database.value("SELECT amount_text('nano_usd', $1::bigint)", amount) == format_usd(amount)
    assert await database.value("SELECT amount_text('calls', $1::bigint)", amount) == f"{amount} calls"


@SETTINGS
@given(name=TEXT, limit=st.integers(0, 2**53), amount=st.integers(0, 2**53), unlimited=st.booleans())
async def test_part_b_of_a_record_is_canonical_and_hashed_as_python_would(
    database: Database, name: str, limit: int, amount: int, unlimited: bool
) -> None:
    tenant = await new_tenant(database)
    scope = Scope("role", name)
    await tenant.cap("tenant", 2**60)
    await tenant.cap("role", limit, scope_id=name, unlimited=unlimited)
    run = await tenant.run()
    decision = await tenant.reserve(run, amounts={"nano_usd": amount}, scopes=(tenant.scope("tenant"), scope))
    row = (await database.fetch("SELECT part_a, part_b, record_hash FROM decisions WHERE run_id = $1", run))[0]
    value = orjson.loads(row["part_b"])
    assert canonical_bytes(value) == row["part_b"]
    again = record.part_b(
        decision_id=decision.decision_id,
        time_ms=value["time_ms"],
        verdict=decision.verdict,
        reason_codes=(decision.code,),
        hold_id=decision.hold_id,
        legs=value["legs"],
    )
    assert again == row["part_b"]
    assert record.record_hash(row["part_a"], row["part_b"]) == row["record_hash"] == decision.record_hash
    assert [leg["scope"] for leg in value["legs"]] == [["tenant", str(tenant.tenant_id)], ["role", name]]
    assert (decision.verdict == "allow") == (unlimited or amount <= limit)


@pytest.mark.parametrize("verdict", ["deny", "needs_approval"])
async def test_part_b_is_canonical_for_every_verdict(tenant: Tenant, verdict: str) -> None:
    await tenant.cap("tenant", 100)
    run = await tenant.run()
    evaluated = Verdict(verdict, "policy.test", "x")  # type: ignore[arg-type]  # one of two literals
    await tenant.reserve(run, evaluated=evaluated)
    part_b: bytes = await tenant.database.value("SELECT part_b FROM decisions WHERE run_id = $1", run)
    assert canonical_bytes(orjson.loads(part_b)) == part_b
    assert orjson.loads(part_b)["hold_id"] is None


async def test_ids_that_the_schema_makes_sort_by_time(database: Database) -> None:
    before = time.time_ns() // 1_000_000 - 1_000
    ids = [UUID(str(await database.value("SELECT new_id()"))) for _ in range(200)]
    assert len(set(ids)) == 200
    for one in ids:
        assert one.version == 7
        assert one.variant == "specified in RFC 4122"
        assert before <= one.int >> 80 <= before + 60_000
