"""Checks of the ledger's auditor and of the verifier of bundles: each names what cannot be right."""

from __future__ import annotations

from typing import Final

from holdfast.codes.entry import Code, Place
from holdfast.histories import differences
from holdfast_verdict.verify.findings import MEANINGS

_REMEDY: Final = (
    "Stop admitting runs of this tenant, keep the database as it is, and compare with a backup: only a write past Holdfast, or "
    "an error of it, does this. Please report it."
)

_BUNDLE_REMEDY: Final = (
    "Do not rely on what the finding names. Keep the file, have it exported again with your own checkpoint and key, and ask whoever "
    "runs the server why the two differ."
)


_WITNESS_REMEDY: Final = (
    "Look at what the difference names in Temporal and in the database. Only somebody who writes to one of them past Holdfast, or an "
    "error of Holdfast, does this; a history that is missing may also have outlived Temporal's retention before it was kept."
)


def _check(code: str, cause: str) -> Code:
    return Code(code, (Place.AUDIT,), cause, _REMEDY)


CODES: Final = (
    _check("cap.balance", "A cap's balances are not what its journal adds up to."),
    _check("cap.limit", "A cap's limit is not what its newest journal entry says."),
    _check("cap.windows", "Windows of one cap overlap, or another than the last of them is in force."),
    _check("cap.ceiling", "A cap has more reserved and committed than its ceiling, or a ceiling that is too high."),
    _check("cap.carried", "A rolling cap's newest bucket carries something else than the older ones that count have."),
    _check("cap.reserved", "A cap has not reserved what its open holds come to."),
    _check("journal.overdrawn", "A journal entry reserved more than its cap had left."),
    _check(
        "journal.rolling", "A journal entry reserved more than a rolling cap had left in the hours that counted then."
    ),
    _check("journal.leg", "A journal entry belongs to no leg of a hold."),
    _check("leg.journal", "A leg of a hold was not reserved and settled exactly once, with its amount."),
    _check("hold.cost", "A hold's cost is not what its caps were charged."),
    _check(
        "rollup.journal", "What a run spent on a day is booked otherwise than its settlements in the journal add up to."
    ),
    _check("hold.decision", "No decision that allows stands behind a hold."),
    _check("hold.outcome", "A hold is executed and has no outcome."),
    _check("decision.hold", "A decision allowed a hold that does not exist."),
    _check("archive.file", "The file of an archived month is not the one that was written."),
    _check("archive.sums", "What is kept of archived months is not what their files add up to."),
    _check("archive.hold", "An entry of an archived month is not what its hold says, or is in the journal as well."),
    _check(
        "archive.rollup",
        "What a run spent on an archived day is booked otherwise than its settlements in the files add up to.",
    ),
    _check("decision.hash", "A decision's record does not hash to its record hash."),
    *(
        Code(code, (Place.AUDIT,), f"{meaning[0].upper()}{meaning[1:]}.", _BUNDLE_REMEDY)
        for code, meaning in MEANINGS.items()
    ),
    *(
        Code(code, (Place.AUDIT,), f"{meaning[0].upper()}{meaning[1:]}.", _WITNESS_REMEDY)
        for code, meaning in differences.MEANINGS.items()
    ),
)
