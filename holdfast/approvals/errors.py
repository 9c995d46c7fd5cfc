"""Why a consent does not count."""

from __future__ import annotations

from holdfast.errors import Conflict, NotPermitted


class ApprovalExpired(Conflict):
    """Nobody consented in time, or the step that asked has changed or ended; the gate stays shut."""

    code = "approval.expired"


class ApprovalDecided(Conflict):
    """Somebody has decided otherwise before."""

    code = "approval.decided"


class ApprovalChanged(Conflict):
    """The arguments were edited since: a consent is for what was shown."""

    code = "approval.changed"


class VoteStands(Conflict):
    """The same person has voted, or handed the vote to somebody, and nothing of it was withdrawn."""

    code = "approval.vote_stands"


class NothingToWithdraw(Conflict):
    """There is no vote of the caller's that could be taken back."""

    code = "approval.no_vote"


class SignatureReplayed(Conflict):
    """The same signature was counted before: each counts once."""

    code = "approval.replayed"


class ApproverRefused(NotPermitted):
    """Who decides is not one whom the gate asks, or has started the run."""

    code = "approval.not_eligible"


class SignatureRefused(NotPermitted):
    """What came with the callback is no fresh signature of a signer in force over this approval."""

    code = "approval.signature_refused"


class LinkInvalid(NotPermitted):
    """The link was never given out, was used, is too old, or its approver has no key in force any more."""

    code = "approval.link_invalid"
