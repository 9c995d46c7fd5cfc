"""The history of a run as the server keeps it, believed only once it is the one whose digest stands in the decision log."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError, NotFound

if TYPE_CHECKING:
    from holdfast.histories.fetching import Execution
    from sdk import DecisionDetail, Holdfast


class RecordAltered(HoldfastError):
    """A record of the log is not the one that it says it is."""

    code = "witness.record_altered"


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept history.

    Attributes:
        executions: Its executions, newest first.
        digest: SHA-256 over its document, hex, as the log has it.
        recorded_in: The decision whose record says so.
    """

    executions: list[Execution]
    digest: str
    recorded_in: str


def read(client: Holdfast, run_id: str) -> Kept:
    """Fetches what is kept of a run's history, and holds it against the log before anything is made of it.

    Raises:
        NotFound: None is kept.
        RecordAltered: The record of its digest was altered.
        HistoryDamaged: It was altered.
    """
    from holdfast.histories import document
    from holdfast.histories.storing import FORM
    from sdk import HoldfastApiError

    recorded = client.decisions(run_id=run_id, kind="run.history")
    if not recorded:
        raise NotFound(
            f"no history of a run {run_id} is kept",
            remedy="one is kept once the run has ended, with its digest in the log",
        )
    decision_id = recorded[-1].decision_id  # the first that was written: there is one for each run
    facts = _facts(client.decision(decision_id), decision_id)
    if facts.get("form") != FORM or not facts["stored"]:
        raise NotFound(f"no history of a run {run_id} is kept: decision {decision_id} has its digest alone")
    try:
        piece = client.history(run_id)
    except HoldfastApiError as error:
        if error.code != NotFound.code:
            raise
        said = f"decision {decision_id} says that the history of run {run_id} is kept, and nothing of it is there"
        raise document.HistoryDamaged(said) from None
    digest = str(facts["digest"])
    return Kept(document.opened([piece], digest, run_id), digest, decision_id)


def _facts(found: DecisionDetail, decision_id: str) -> dict[str, Any]:  # Any: JSON
    """A record that does not hash to its hash says nothing (LAW 7)."""
    from holdfast_verdict.record import record_hash

    if found.part_a_base64 is None:
        raise NotFound(
            f"what decision {decision_id} says of the history was deleted: it is older than the tenant keeps records"
        )
    try:
        part_a, part_b = (base64.b64decode(each, validate=True) for each in (found.part_a_base64, found.part_b_base64))
    except binascii.Error:
        part_a = part_b = b""
    if (
        record_hash(part_a, part_b).hex() != found.decision.record_hash
        or json.loads(part_b)["decision_id"] != decision_id
    ):
        raise RecordAltered(
            f"the record of decision {decision_id}, which has the history's digest, was altered",
            remedy="keep the database as it is, and look at it with `holdfast audit cross-check`",
        )
    facts: dict[str, Any] = json.loads(part_a)["facts"]  # Any: JSON
    return facts
