"""Codes of decision records that are about people, keys and configuration, not about an action of a run."""

from __future__ import annotations

from typing import Final

from holdfast.codes.entry import NOTHING, Code, Place, changed


def _key_refused(code: str, cause: str, remedy: str) -> Code:
    return Code(code, (Place.DECISION,), cause, remedy, verdict="deny")


CODES: Final = (
    changed("bootstrap", "The first tenant, its user, key and cap were made."),
    changed("audit.exported", "Decisions were exported as a bundle that anybody can check."),
    changed("tenant.created", "A tenant was made."),
    changed("project.created", "A project was made."),
    changed("user.created", "A user was made."),
    changed("key.created", "An API key was made."),
    changed("key.revoked", "An API key was revoked."),
    changed("signer.added", "An external system was registered that may consent by its signature."),
    changed("signer.revoked", "A signer may consent no more."),
    changed("role.put", "The rules of a role were changed; running runs keep theirs."),
    changed("policy.put", "A version of the policy was stored; it decides nothing yet."),
    changed("policy.activate", "A version of the policy was made active: runs are pinned to it from then on."),
    changed("policy.roll_back", "An older version of the policy was made active again."),
    changed("policy.shadow", "A version of the policy is looked at beside the active one, or is so no longer."),
    changed("agent.put", "An agent was changed; running runs keep theirs."),
    changed("tool.put", "A tool was changed; running runs keep theirs."),
    changed("cap.set", "A cap was set."),
    changed(
        "tenant.time_zone",
        "A tenant's time zone was set: windows of its caps begin and end by it from the end of those in force on.",
    ),
    changed(
        "tenant.sandbox_tier",
        "A tenant or a role asks for another tier of isolation: code of runs that are admitted from then on has it, or is refused.",
    ),
    changed("stop.set", "An emergency stop was set: nothing of its scope begins any more."),
    changed("stop.lifted", "An emergency stop was lifted."),
    changed("webhook.added", "A webhook was added: its receiver is told of events from then on."),
    changed("webhook.enabled", "A webhook that had been given up was switched on again."),
    changed("webhook.removed", "A webhook was removed: its receiver is told nothing any more."),
    changed("log.key_added", "A further key signs the checkpoints of the decision log."),
    changed(
        "log.key_retired", "A key signs checkpoints of the decision log no more; its old signatures keep their worth."
    ),
    changed("log.witness_added", "A witness's key was made known: its cosignatures are taken from then on."),
    changed("log.witness_removed", "A witness's key was taken out: its cosignatures are taken no more."),
    changed("retention.set", "For how long what was evaluated is kept was changed."),
    changed(
        "retention.applied",
        "What was evaluated in records that are too old was deleted; their hashes and verdicts stay.",
    ),
    changed(
        "legal_hold.placed", "A legal hold was placed: nothing of what it is on is erased or deleted while it stands."
    ),
    changed("legal_hold.lifted", "A legal hold was lifted."),
    changed("erasure.asked", "Somebody has personal values of records erased."),
    changed("erasure.done", "An erasure is done; its record says of how many records, and what it had to leave."),
    Code(
        "erasure.legal_hold",
        (Place.API, Place.DECISION),
        "A legal hold stands on all that was to be erased.",
        "Look at it with `holdfast audit legal-hold list`; erase when it is lifted, by whoever may lift it.",
        status=409,
        verdict="deny",
    ),
    changed("vault.put", "A credential was stored in the vault."),
    changed("vault.deleted", "A credential was deleted from the vault."),
    Code(
        "label.released",
        (Place.DECISION,),
        "Somebody has released what a run had read under a label.",
        NOTHING,
        verdict="allow",
    ),
    Code(
        "hold.resolved",
        (Place.DECISION,),
        "A person said what became of an action whose outcome was unknown.",
        NOTHING,
        verdict="allow",
    ),
    _key_refused(
        "auth.malformed",
        "Something was sent as an API key that has not the form of one.",
        "Look at what the caller sends; the whole key is needed, `hf_…`.",
    ),
    _key_refused(
        "auth.unknown",
        "A key was sent that does not exist.",
        "If it was yours, make a new one; many of these are somebody who guesses.",
    ),
    _key_refused("auth.expired", "A key was sent that has expired.", "Make a new one: `POST /v1/keys`."),
    _key_refused(
        "auth.revoked",
        "A key was sent that is revoked.",
        "Find who still uses it; its prefix stands in the record.",
    ),
    _key_refused(
        "auth.flood",
        "So many wrong keys came at once that they were counted, and not recorded one by one.",
        "Find the sender in front of the API, and shut them out there.",
    ),
)
