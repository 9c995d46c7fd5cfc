"""Personal values of decision records: each run has a salt, from which those of its steps are made.

A record has salted hashes, and the values themselves under a key that is made from the salt as well (the box). So the one write of
the transaction that decides carries all of it, and who deletes the salt has deleted the values.
"""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.actions.form import Action
from holdfast_verdict import sealing
from holdfast_verdict.canonical import JsonValue, canonical_bytes
from holdfast_verdict.record import SealedAction

_STEP: Final = b"holdfast step salt 1\x00"
_BOX: Final = b"holdfast sealed values 1\x00"
_NONCE_BYTES: Final = 12


class Values(NamedTuple):
    """What was taken out of a record.

    Attributes:
        salt: The step's salt.
        by_pointer: The values, by JSON pointer into the arguments.
    """

    salt: bytes
    by_pointer: dict[str, JsonValue]


def step_salt(run_salt: bytes, step: int) -> bytes:
    """Returns the salt of a step, the same for all of its tries, so that a consent is to the same action in each."""
    return hmac.digest(run_salt, _STEP + str(step).encode(), "sha256")


def seal(action: Action) -> SealedAction | None:
    """Returns an action as its record has it; None if nothing of it is personal."""
    if not action.salt:
        return None
    value, values = sealing.seal(action.value, action.personal, action.salt)
    nonce = os.urandom(_NONCE_BYTES)
    box = nonce + AESGCM(_key(action.salt)).encrypt(nonce, canonical_bytes(values), action.digest)
    return SealedAction(value, tuple(values), base64.b64encode(box).decode())


def _key(salt: bytes) -> bytes:
    return hmac.digest(salt, _BOX, "sha256")


def is_sealed(part_a: bytes) -> bool:
    """Says, fast, whether a part A may have sealed values."""
    return part_a.endswith(b'"v":2}')


def values_of(part_a: Mapping[str, Any], run_salt: bytes | None) -> Values | None:  # Any: JSON
    """Returns what was taken out of a record; None if its salt was erased, or is not the one that it was made with."""
    if run_salt is None:
        return None
    salt = step_salt(run_salt, part_a["subject"]["step"])
    box = base64.b64decode(part_a["sealed"]["box"])
    try:
        text = AESGCM(_key(salt)).decrypt(
            box[:_NONCE_BYTES], box[_NONCE_BYTES:], bytes.fromhex(part_a["action_digest"])
        )
    except InvalidTag:
        return None
    return Values(salt, orjson.loads(text))


def opened(part_a: bytes, run_salt: bytes | None) -> bytes | None:
    """Returns a part A with its values put back; as it is if it has none, None if they were erased."""
    if not is_sealed(part_a):
        return part_a
    told = orjson.loads(part_a)
    values = values_of(told, run_salt)
    return None if values is None else canonical_bytes(sealing.opened(told, values.salt, values.by_pointer))
