"""The transparency log: proofs, keys and witnesses, as the server says them. Verifying them is `holdfast-verify`'s."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A proof that a decision is in the log.

    Attributes:
        record_hash: The leaf's hash, hex.
        proof: Hashes, base64, from the leaf upwards.
        checkpoint: The signed note that it leads to.
    """

    decision_id: str
    leaf_index: int
    record_hash: str
    size: int
    proof: list[str]
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Consistency:
    """A proof that an older log is the beginning of a newer one.

    Attributes:
        proof: Hashes, base64.
        checkpoint: The signed note over `size`.
    """

    old_size: int
    size: int
    proof: list[str]
    checkpoint: str


@dataclass(frozen=True, slots=True)
class LogKey:
    """A public key of the log.

    Attributes:
        vkey: `name+id+key`.
        first_size: Size of the first checkpoint that it has signed.
        retired_size: No larger checkpoint is signed by it; None while it signs.
    """

    vkey: str
    public_key: str
    first_size: int
    added_at: datetime
    retired_size: int | None
    retired_at: datetime | None


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness of the log.

    Attributes:
        cosigned_size: Size of the largest checkpoint that it has cosigned.
    """

    vkey: str
    added_by: str
    added_at: datetime
    cosigned_size: int | None


@dataclass(frozen=True, slots=True)
class LogStatus:
    """How the log stands.

    Attributes:
        size: Records that have a number.
        checkpoint_size: Over how many the newest checkpoint is; None if there is none.
        waiting: Records that have no number yet.
        lag_ms: How long the oldest of them has waited; None if none waits.
        keys: How many keys sign.
    """

    size: int
    checkpoint_size: int | None
    checkpoint_at: datetime | None
    waiting: int
    oldest_at: datetime | None
    lag_ms: int | None
    keys: int
    witnesses: list[Witness]
