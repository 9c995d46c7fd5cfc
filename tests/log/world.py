"""Records, sequencers and a look at what they made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from holdfast.database.engine import transaction
from holdfast.decisions.record import record_event
from holdfast.transparency.keys import KeyLines, LogKeys, TextKeys, new_key
from holdfast_verdict.log import tiles, tree
from holdfast_verdict.log.checkpoint import SignedCheckpoint
from holdfast_verdict.log.note import ED25519, VerifierKey
from tests.ledger.world import Database, new_tenant
from workers.sequencer import Sequencer

NAME = "log.example"

_BULK = """
    INSERT INTO decisions (tenant_id, decision_id, kind, verdict, reason_codes, reply, part_a, part_b, record_hash)
    SELECT $1, d.id, 'config', 'allow', '{cap.set}', '{}', d.a, d.b, sha256('\\x00'::bytea || sha256(d.a) || sha256(d.b))
    FROM (SELECT new_id() AS id, convert_to('{"a":' || n || '}', 'UTF8') AS a, convert_to('{"b":' || n || '}', 'UTF8') AS b
          FROM generate_series(1, $2::int) n) d
"""


@dataclass(slots=True)
class Log:
    """A tenant's log, and what signs it."""

    database: Database
    tenant_id: UUID
    private: str = field(default_factory=new_key)

    @property
    def keys(self) -> LogKeys:
        return KeyLines((self.private,), ()).keys()

    @property
    def vkey(self) -> VerifierKey:
        return VerifierKey(f"{NAME}/{self.tenant_id}", ED25519, self.keys.signers[0].public_key)

    def sequencer(self, text: str = "") -> Sequencer:
        return Sequencer(self.database.engine("sweeper"), TextKeys(text or self.private), name=NAME, interval_ms=50)

    async def write(self, count: int = 1) -> None:
        """Writes records at once."""
        await self.database.execute(_BULK, self.tenant_id, count)

    async def record(self, message: str = "x") -> UUID:
        """Writes one as the API does."""
        async with transaction(self.database.engine("api"), self.tenant_id) as connection:
            return await record_event(
                connection,
                self.tenant_id,
                kind="config",
                verdict="allow",
                code="cap.set",
                message=message,
                facts={"x": message},
            )

    async def leaves(self) -> list[bytes]:
        """The records' hashes in the order of their numbers, which have no gap."""
        rows = await self.database.fetch(
            "SELECT leaf_index, record_hash FROM decisions WHERE tenant_id = $1 AND leaf_index IS NOT NULL ORDER BY leaf_index",
            self.tenant_id,
        )
        assert [row["leaf_index"] for row in rows] == list(range(len(rows))), "each number once, and no gap"
        return [row["record_hash"] for row in rows]

    async def unnumbered(self) -> int:
        count: int = await self.database.value(
            "SELECT count(*) FROM decisions WHERE tenant_id = $1 AND leaf_index IS NULL", self.tenant_id
        )
        return count

    async def tiles(self) -> dict[tuple[int, int], bytes]:
        rows = await self.database.fetch("SELECT * FROM log_tiles WHERE tenant_id = $1", self.tenant_id)
        return {(row["level"], row["index"]): row["data"] for row in rows}

    async def checkpoints(self) -> list[Any]:  # rows of asyncpg carry no types
        return await self.database.fetch(
            "SELECT * FROM log_checkpoints WHERE tenant_id = $1 ORDER BY size", self.tenant_id
        )

    async def check(self, *keys: VerifierKey) -> int:
        """Checks all there is: numbers, tiles, every checkpoint's signature and root; returns the size."""
        leaves = await self.leaves()
        stored = await self.tiles()
        checkpoints = await self.checkpoints()
        assert (checkpoints[-1]["size"] if checkpoints else 0) == len(leaves)
        for row in checkpoints:
            opened = SignedCheckpoint.open(row["note"], keys or (self.vkey,)).checkpoint
            assert (opened.size, opened.root) == (row["size"], row["root"])
            assert opened.root == tree.root_of(leaves[: opened.size])
        grown = tiles.append({}, 0, leaves)
        assert {key: data for key, data in stored.items() if key[0] != tiles.ENTRIES} == grown
        entries = b"".join(stored[key] for key in sorted(stored) if key[0] == tiles.ENTRIES)
        assert [tree.leaf_hash(entries[at : at + 64]) for at in range(0, len(entries), 64)] == leaves
        return len(leaves)


async def new_log(database: Database) -> Log:
    return Log(database, (await new_tenant(database)).tenant_id)


def key_file(folder: Path, text: str) -> Path:
    """Writes a key file as it has to be."""
    path = folder / "log.key"
    path.write_text(text)
    path.chmod(0o600)
    return path
