"""The transcript is a hash chain: its head is the digest of the whole conversation."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from holdfast import transcript
from holdfast.database.engine import transaction
from holdfast.transcript.entries import TranscriptBroken, read_one
from holdfast_verdict.canonical import chain

from .world import Tenant, new_tenant


async def _write(tenant: Tenant, run: UUID, parent: bytes | None, content: bytes) -> bytes:
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        return await transcript.write(connection, tenant.tenant_id, run, parent, content)


async def _read(tenant: Tenant, run: UUID, head: bytes) -> list[bytes]:
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        return await transcript.read(connection, tenant.tenant_id, run, head)


CONTENTS = [b'{"n":%d}' % n for n in range(30)]


async def _conversation(tenant: Tenant, run: UUID) -> list[bytes]:
    heads: list[bytes] = []
    for content in CONTENTS:
        heads.append(await _write(tenant, run, heads[-1] if heads else None, content))
    return heads


async def test_a_conversation_reads_back_from_each_of_its_heads(tenant: Tenant) -> None:
    run = await tenant.run()
    heads = await _conversation(tenant, run)
    for depth in (1, 2, 30):
        assert await _read(tenant, run, heads[depth - 1]) == CONTENTS[:depth]
    other_way = await _write(tenant, run, heads[3], b'{"another":"path"}')
    assert await _read(tenant, run, other_way) == [*CONTENTS[:4], b'{"another":"path"}']


async def test_writing_the_same_again_changes_nothing(tenant: Tenant) -> None:
    run = await tenant.run()
    assert await _conversation(tenant, run) == await _conversation(tenant, run)
    assert await tenant.database.value("SELECT count(*) FROM transcript_entries WHERE run_id = $1", run) == len(
        CONTENTS
    )


async def test_nothing_goes_on_from_an_entry_that_is_not_there(tenant: Tenant) -> None:
    run, other_run = await tenant.runs(2)
    heads = await _conversation(tenant, run)
    stranger = await new_tenant(tenant.database)
    for whose, where, parent in (
        (tenant, run, bytes(32)),
        (tenant, other_run, heads[0]),
        (stranger, await stranger.run(), heads[0]),
    ):
        with pytest.raises(TranscriptBroken):
            await _write(whose, where, parent, b"{}")
    with pytest.raises(TranscriptBroken):
        await _read(stranger, run, heads[0])
    with pytest.raises(TranscriptBroken):
        await _read(tenant, run, bytes(32))
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        with pytest.raises(TranscriptBroken):
            await read_one(connection, tenant.tenant_id, other_run, heads[0])


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE transcript_entries SET content = '{\"n\":99}' WHERE run_id = $1 AND depth = 7",
        "DELETE FROM transcript_entries WHERE run_id = $1 AND depth = 7",
        "UPDATE transcript_entries SET parent_id = NULL WHERE run_id = $1 AND depth = 7",
        "UPDATE transcript_entries SET depth = 100 WHERE run_id = $1 AND depth = 7",
    ],
)
async def test_whatever_somebody_changed_in_the_database_is_noticed(tenant: Tenant, tampering: str) -> None:
    run = await tenant.run()
    heads = await _conversation(tenant, run)
    await tenant.database.execute(tampering, run)
    assert await _read(tenant, run, heads[5]) == CONTENTS[:6]
    with pytest.raises(TranscriptBroken):
        await _read(tenant, run, heads[-1])


async def test_no_process_can_change_an_entry(tenant: Tenant) -> None:
    await _conversation(tenant, await tenant.run())
    for role in ("governor", "api", "broker", "sweeper", "auditor", "executor"):
        for change in ("UPDATE transcript_entries SET depth = 1", "DELETE FROM transcript_entries"):
            with pytest.raises(DBAPIError, match="permission denied"):
                async with transaction(tenant.database.engine(role), tenant.tenant_id) as connection:
                    await connection.execute(text(change))


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=8), st.data())
def test_verify_takes_exactly_the_conversation_it_was_asked_for(contents: list[bytes], data: st.DataObject) -> None:
    head = b""
    for content in contents:
        head = chain(head, content)
    transcript.verify(contents, head)
    other = data.draw(st.lists(st.binary(min_size=1, max_size=20), max_size=8).filter(lambda some: some != contents))
    place = data.draw(st.integers(0, len(contents) - 1))
    flipped = [*contents]
    flipped[place] = bytes([flipped[place][0] ^ 1]) + flipped[place][1:]
    for wrong in (other, flipped, contents[:-1], contents[1:], [*contents, b"x"]):
        with pytest.raises(TranscriptBroken):
            transcript.verify(wrong, head)
