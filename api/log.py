"""The transparency log of a tenant's decisions: checkpoints, proofs, tiles, keys and witnesses."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse, Response
from pydantic import Field

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Form, Page, PageSize, Time
from holdfast.audit.counts import count_event
from holdfast.database.engine import transaction
from holdfast.tenancy.principals import ADMIN, AUDITOR, OWNER
from holdfast.transparency import reading, witnesses
from holdfast.transparency.reading import StoredCheckpoint

router = APIRouter(prefix="/v1/log", tags=["log"])

Size = Annotated[
    int | None, Query(ge=1, le=(1 << 63) - 1, description="of a checkpoint that there is; default: the newest")
]
_IMMUTABLE = "private, max-age=31536000, immutable"
_Responses = dict[int | str, dict[str, Any]]  # parts of an OpenAPI document
_NOTES: _Responses = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "a signed note"}}
_BYTES: _Responses = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "description": "hashes one after the other, or entries with their lengths",
    }
}


class CheckpointRow(Answer):
    """A checkpoint as lists show it."""

    size: int
    root: str = Field(description="hex")
    created_at: Time

    @classmethod
    def of(cls, found: StoredCheckpoint) -> Self:
        """Builds the answer."""
        return cls(size=found.size, root=found.root.hex(), created_at=found.created_at)


class InclusionProof(Answer):
    """A proof that a decision's record is in the log: verify it with the checkpoint's root, once that is verified."""

    decision_id: UUID
    leaf_index: int
    record_hash: str = Field(description="the leaf's hash, hex")
    size: int
    proof: list[str] = Field(description="RFC 9162, from the leaf upwards; base64")
    checkpoint: str = Field(description="the signed note over that size")


class ConsistencyProof(Answer):
    """A proof that an older log is the beginning of a newer one."""

    old_size: int
    size: int
    proof: list[str] = Field(description="RFC 9162; base64")
    checkpoint: str = Field(description="the signed note over `size`")


class LogKey(Answer):
    """A public key of the log."""

    vkey: str = Field(description="`name+id+key`, as C2SP's signed notes write it")
    public_key: str = Field(description="Ed25519, hex")
    first_size: int = Field(description="size of the first checkpoint that it has signed")
    added_at: Time
    retired_size: int | None = Field(description="no larger checkpoint is signed by it; null while it signs")
    retired_at: Time | None


class LogKeys(Answer):
    """All keys that sign or have signed the log, the newest first."""

    items: list[LogKey]


class AddWitness(Form):
    """A witness's public key."""

    vkey: Annotated[str, Field(min_length=1, max_length=400, description="`name+id+key`, of a cosignature's algorithm")]


class Witness(Answer):
    """A witness of the log."""

    vkey: str
    added_by: str
    added_at: Time
    cosigned_size: int | None = Field(description="size of the largest checkpoint that it has cosigned")


class Witnesses(Answer):
    """Whose cosignatures are taken."""

    items: list[Witness]


class Cosigned(Form):
    """A checkpoint with cosignatures."""

    checkpoint: Annotated[
        str, Field(min_length=1, max_length=20_000, description="the note, with the cosignature on it")
    ]


class TakenCosignatures(Answer):
    """What was taken."""

    size: int
    taken: int


class LogStatus(Answer):
    """How the log stands."""

    size: int = Field(description="records that have a number")
    checkpoint_size: int | None = Field(description="over how many the newest checkpoint is; null: there is none yet")
    checkpoint_at: Time | None
    waiting: int = Field(description="records that have no number yet")
    oldest_at: Time | None = Field(description="when the oldest of them was written")
    lag_ms: int | None = Field(description="how long that one has waited; null: none waits")
    keys: int = Field(description="how many keys sign")
    witnesses: list[Witness]


def _base64(hashes: list[bytes]) -> list[str]:
    return [base64.b64encode(each).decode() for each in hashes]


@router.get("/status", summary="See how the log stands")
async def get_log_status(caller: Caller, parts: Parts) -> LogStatus:
    """Shows how large the log is, how far it is signed and cosigned, and for how long records have waited for their number."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await reading.status(connection, caller.tenant_id)
        keys = await reading.keys(connection, caller.tenant_id)
        known = await witnesses.list_witnesses(connection, caller.tenant_id)
    return LogStatus(
        size=found.size,
        checkpoint_size=found.checkpoint_size,
        checkpoint_at=found.checkpoint_at,
        waiting=found.waiting,
        oldest_at=found.oldest_at,
        lag_ms=found.lag_ms,
        keys=sum(key.retired_size is None for key in keys),
        witnesses=[Witness.model_validate(each) for each in known],
    )


@router.get("/checkpoint", summary="Get the newest checkpoint", response_class=PlainTextResponse, responses=_NOTES)
async def get_checkpoint(caller: Caller, parts: Parts) -> PlainTextResponse:
    """Returns the newest checkpoint of the tenant's log as a signed note, with the cosignatures that it has."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await reading.checkpoint(connection, caller.tenant_id)
    return PlainTextResponse(found.note.message, headers={"cache-control": "no-store"})


@router.get("/checkpoints", summary="List checkpoints, largest first")
async def list_checkpoints(
    caller: Caller,
    parts: Parts,
    before: Annotated[int | None, Query(ge=1, le=(1 << 63) - 1, description="only smaller ones")] = None,
    limit: PageSize = 50,
) -> Page[CheckpointRow]:
    """Lists the sizes for which there is a checkpoint; `next_cursor` is the next page's `before`."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await reading.checkpoints(connection, caller.tenant_id, before=before, count=limit + 1)
    more = str(found[limit - 1].size) if len(found) > limit else None
    return Page[CheckpointRow](items=[CheckpointRow.of(each) for each in found[:limit]], next_cursor=more)


@router.get(
    "/checkpoints/{size}", summary="Get the checkpoint of a size", response_class=PlainTextResponse, responses=_NOTES
)
async def get_checkpoint_of_size(size: int, caller: Caller, parts: Parts) -> PlainTextResponse:
    """Returns the checkpoint of a size as a signed note, with the cosignatures that it has."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await reading.checkpoint(connection, caller.tenant_id, max(0, min(size, (1 << 63) - 1)))
    return PlainTextResponse(found.note.message, headers={"cache-control": "no-store"})


@router.get("/inclusion/{decision_id}", summary="Prove that a decision is in the log")
async def get_inclusion(decision_id: UUID, caller: Caller, parts: Parts, size: Size = None) -> InclusionProof:
    """Returns the proof that a decision's record is in the log, with the checkpoint that it leads to."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await reading.inclusion(connection, caller.tenant_id, decision_id, size)
    return InclusionProof(
        decision_id=found.decision_id,
        leaf_index=found.leaf_index,
        record_hash=found.record_hash.hex(),
        size=found.checkpoint.size,
        proof=_base64(found.proof),
        checkpoint=found.checkpoint.note.message,
    )


@router.get("/consistency", summary="Prove that the log has only grown")
async def get_consistency(
    caller: Caller,
    parts: Parts,
    old_size: Annotated[int, Query(ge=0, le=(1 << 63) - 1, description="size of the log as it was seen before")],
    size: Size = None,
) -> ConsistencyProof:
    """Returns the proof that the log as it was seen before is the beginning of the log as it is."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        proof, found = await reading.consistency(connection, caller.tenant_id, old_size, size)
    return ConsistencyProof(old_size=old_size, size=found.size, proof=_base64(proof), checkpoint=found.note.message)


@router.get("/tile/{path:path}", summary="Get a tile", response_class=Response, responses=_BYTES)
async def get_tile(path: str, caller: Caller, parts: Parts) -> Response:
    """Returns a tile of hashes or a bundle of entries, laid out as C2SP's tlog-tiles has it."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        data = await reading.tile(connection, caller.tenant_id, f"tile/{path}")
    return Response(data, media_type="application/octet-stream", headers={"cache-control": _IMMUTABLE})


@router.get("/keys", summary="List the log's public keys")
async def list_log_keys(caller: Caller, parts: Parts) -> LogKeys:
    """Lists all keys that sign or have signed the log, and between which sizes each has."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await reading.keys(connection, caller.tenant_id)
    return LogKeys(
        items=[
            LogKey(
                vkey=key.vkey.text,
                public_key=key.vkey.public_key.hex(),
                first_size=key.first_size,
                added_at=key.added_at,
                retired_size=key.retired_size,
                retired_at=key.retired_at,
            )
            for key in found
        ]
    )


@router.get("/witnesses", summary="List witnesses")
async def list_witnesses(caller: Caller, parts: Parts) -> Witnesses:
    """Lists whose cosignatures the log takes, and up to which size each has cosigned it."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await witnesses.list_witnesses(connection, caller.tenant_id)
    return Witnesses(items=[Witness.model_validate(each) for each in found])


@router.post("/witnesses", summary="Add a witness", status_code=204)
async def add_witness(body: AddWitness, caller: Caller, parts: Parts) -> None:
    """Makes a witness's public key known: its cosignatures are taken from then on. Added twice it is there once."""
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        await witnesses.add_witness(connection, caller, body.vkey)


@router.post("/witnesses/remove", summary="Remove a witness", status_code=204)
async def remove_witness(body: AddWitness, caller: Caller, parts: Parts) -> None:
    """Takes no cosignatures of a witness any more; what it has cosigned stays."""
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        await witnesses.remove_witness(connection, caller, body.vkey)


@router.post("/cosignatures", summary="Hand in a cosignature")
async def add_cosignature(body: Cosigned, caller: Caller, parts: Parts) -> TakenCosignatures:
    """Takes a known witness's cosignature of a checkpoint; it is then served with that. Sent twice it is there once."""
    caller.require(OWNER, ADMIN, AUDITOR)
    try:
        async with transaction(parts.engine, caller.tenant_id) as connection:
            size, taken = await witnesses.take(connection, caller.tenant_id, body.checkpoint)
    except witnesses.CosignatureRefused as error:
        async with transaction(parts.engine, caller.tenant_id) as connection:
            await count_event(connection, caller.tenant_id, "cosignature_refused", error.reason)
        raise
    return TakenCosignatures(size=size, taken=taken)
