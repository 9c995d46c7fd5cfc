"""The document that a run's history is kept as, and its digest.

For each execution, newest first: its id, then its events as Temporal has them, a serialised `temporal.api.history.v1.History`
whose payloads are still encrypted; before each of the two stands its length, eight bytes, big-endian. The digest is SHA-256 over
the document. It is kept compressed (zlib), in pieces.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

from google.protobuf.message import DecodeError
from temporalio.api.history.v1 import History
from temporalio.client import WorkflowHistory

from holdfast.errors import HoldfastError
from holdfast.histories.fetching import Execution

PIECE_BYTES: Final = 262_144
STORED_MAX_BYTES: Final = 67_108_864
"""Compressed bytes that are kept of one run; of a larger history there is the digest alone, and its record says so."""
READ_MAX_BYTES: Final = 536_870_912
"""Bytes that a stored history may come to when it is read; what claims to be more is not believed."""
_LENGTH_BYTES: Final = 8


class HistoryDamaged(HoldfastError):
    """What is stored of a history cannot be read."""

    code = "witness.history_altered"


class Sealing:
    """Makes the document of a history, execution by execution, holding no more of it than what is kept.

    Attributes:
        executions: How many were added.
        events: How many events they have.
        size: Bytes of the document so far.
    """

    def __init__(self) -> None:
        self.executions = self.events = self.size = 0
        self._digest = hashlib.sha256()
        self._compress = zlib.compressobj()
        self._kept = bytearray()
        self._fits = True

    def add(self, execution: Execution) -> None:
        """Adds an execution."""
        self.executions += 1
        self.events += len(execution.history.events)
        self._put(execution.run_id.encode("ascii"))
        self._put(History(events=execution.history.events).SerializeToString(deterministic=True))

    def _put(self, data: bytes) -> None:
        for part in (len(data).to_bytes(_LENGTH_BYTES, "big"), data):
            self.size += len(part)
            self._digest.update(part)
            if self._fits:
                self._keep(self._compress.compress(part))

    def _keep(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > STORED_MAX_BYTES:
            self._fits = False
            self._kept.clear()

    @property
    def digest(self) -> bytes:
        """SHA-256 over the document so far."""
        return self._digest.digest()

    def pieces(self) -> list[bytes]:
        """Ends the document, and returns it compressed, in pieces; none if it is too large to be kept."""
        if self._fits:
            self._keep(self._compress.flush())
        return [bytes(self._kept[start : start + PIECE_BYTES]) for start in range(0, len(self._kept), PIECE_BYTES)]


def unpack(pieces: Sequence[bytes]) -> bytes:
    """Returns the document of pieces.

    Raises:
        HistoryDamaged: They are not whole.
    """
    reading = zlib.decompressobj()
    try:
        document = reading.decompress(b"".join(pieces), READ_MAX_BYTES)
    except zlib.error as error:
        raise HistoryDamaged(f"the stored history cannot be decompressed: {error}") from None
    if not reading.eof or reading.unused_data:
        raise HistoryDamaged("the stored history is not whole")
    return document


def digest_of(document: bytes) -> str:
    """Returns SHA-256 over a document, hex."""
    return hashlib.sha256(document).hexdigest()


def opened(pieces: Sequence[bytes], digest: str, workflow_id: str) -> list[Execution]:
    """Reads what is kept of a workflow's history, once it is known to be the one whose digest the log has.

    Args:
        pieces: What is kept.
        digest: SHA-256 over the document, hex, as the log has it.
        workflow_id: The workflow.

    Raises:
        HistoryDamaged: It is not whole, not the one of that digest, or another workflow's.
    """
    document = unpack(pieces)
    if digest_of(document) != digest:
        raise HistoryDamaged(f"the stored history is not the one whose digest is {digest}")
    executions = read(document, workflow_id)
    for execution in executions:
        started = (
            execution.history.events[0].workflow_execution_started_event_attributes
            if execution.history.events
            else None
        )
        if started is None or started.workflow_id != workflow_id:
            raise HistoryDamaged(f"the stored history is not one of the workflow {workflow_id}")
    return executions


def read(document: bytes, workflow_id: str) -> list[Execution]:
    """Reads a document.

    Raises:
        HistoryDamaged: It is none.
    """
    parts = list(_parts(document))
    if len(parts) % 2:
        raise HistoryDamaged("the stored history ends in the middle")
    found = []
    for run_id, events in zip(parts[::2], parts[1::2], strict=True):
        try:
            history = WorkflowHistory(workflow_id, list(History.FromString(events).events))
            found.append(Execution(run_id.decode("ascii"), history))
        except (DecodeError, UnicodeDecodeError):
            raise HistoryDamaged("an execution of the stored history cannot be read") from None
    return found


def _parts(document: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(document):
        begin = place + _LENGTH_BYTES
        place = begin + int.from_bytes(document[place:begin], "big")
        if begin > len(document) or place > len(document):
            raise HistoryDamaged("the stored history ends in the middle")
        yield document[begin:place]
