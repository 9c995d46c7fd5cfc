"""What of the decision log goes, and when: retention, erasure and legal holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sdk.calls import Calls
from sdk.types import Json, read_answer


@dataclass(frozen=True, slots=True)
class Retention:
    """For how long what was evaluated is kept, and how far the deleting is.

    Attributes:
        days: None: for ever.
        records: Records whose part A was deleted; their hashes and verdicts stay.
        kept: Records that the last pass had to leave: of runs that had not ended, or on legal hold.
        through: The last pass has looked at all that is older than this.
        before: A pass is under way, and deletes what is older than this.
        pass_records: What that pass has deleted so far.
    """

    days: int | None
    set_by: str
    set_at: datetime | None
    records: int
    kept: int
    through: datetime | None
    finished_at: datetime | None
    before: datetime | None
    pass_records: int


@dataclass(frozen=True, slots=True)
class LegalHold:
    """While it stands, neither retention nor erasure takes anything of a run, or of the tenant.

    Attributes:
        run_id: None: on the whole tenant.
        lifted_at: None while it stands.
    """

    legal_hold_id: str
    run_id: str | None
    reason: str
    placed_by: str
    placed_at: datetime
    lifted_at: datetime | None
    lifted_by: str
    lift_reason: str


@dataclass(frozen=True, slots=True)
class PlacedLegalHold(LegalHold):
    """A legal hold that was placed.

    Attributes:
        stood: Whether it stood already; then nothing was changed.
    """

    stood: bool


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure of personal values.

    Attributes:
        user: Of whose runs; with neither it nor `run_id` it is of the whole tenant.
        runs: Runs whose salt was deleted.
        records: Records whose personal values went with it.
        held: Runs that were left because of a legal hold.
        open: Runs that were left because they had not ended.
        ended_at: None while it goes on.
    """

    erasure_id: str
    user: str | None
    run_id: str | None
    reason: str
    asked_by: str
    asked_at: datetime
    runs: int
    records: int
    held: int
    open: int
    ended_at: datetime | None


class RetentionCalls(Calls):
    """What the client can do about what the decision log keeps."""

    def retention(self) -> Retention:
        """Returns for how long what was evaluated is kept."""
        return read_answer(Retention, self._transport.request("GET", "/v1/audit/retention"))

    def set_retention(self, days: int | None) -> Retention:
        """Sets for how many days what was evaluated is kept; None for ever. What is older goes, and cannot be brought back."""
        return read_answer(Retention, self._transport.request("PUT", "/v1/audit/retention", body={"days": days}))

    def place_legal_hold(self, *, run_id: str | None = None, reason: str) -> PlacedLegalHold:
        """Places a legal hold on a run, or on the whole tenant: from the answer on nothing of it is taken."""
        answer = self._transport.request("POST", "/v1/audit/legal-holds", body={"run": run_id, "reason": reason})
        return read_answer(PlacedLegalHold, answer)

    def legal_holds(self, *, lifted: bool = False, count: int | None = None) -> list[LegalHold]:
        """Returns legal holds, newest first: those that stand, and with `lifted` those that stood."""
        return self._list(LegalHold, "/v1/audit/legal-holds", {"all": lifted}, count)

    def lift_legal_hold(self, legal_hold_id: str, *, reason: str) -> LegalHold:
        """Lifts a legal hold."""
        path = f"/v1/audit/legal-holds/{legal_hold_id}/lift"
        return read_answer(LegalHold, self._transport.request("POST", path, body={"reason": reason}))

    def erase(
        self, *, user: str | None = None, run_id: str | None = None, tenant: bool = False, reason: str
    ) -> Erasure:
        """Begins to erase the personal values in decision records; `erasure` says how far it is.

        Args:
            user: Of this user's runs.
            run_id: Of this run.
            tenant: Of the whole tenant.
            reason: Stands in the record.
        """
        body: Json = {"user": user, "run": run_id, "tenant": tenant, "reason": reason}
        return read_answer(Erasure, self._transport.request("POST", "/v1/audit/erasures", body=body))

    def erasure(self, erasure_id: str) -> Erasure:
        """Returns how far an erasure is."""
        return read_answer(Erasure, self._transport.request("GET", f"/v1/audit/erasures/{erasure_id}"))

    def erasures(self, *, count: int | None = None) -> list[Erasure]:
        """Returns erasures, newest first."""
        return self._list(Erasure, "/v1/audit/erasures", {}, count)
