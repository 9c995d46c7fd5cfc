"""Codes with which the API refuses a request."""

from __future__ import annotations

from typing import Final

from holdfast.codes.entry import Code, Place

CODES: Final = (
    Code(
        "auth.not_authenticated",
        (Place.API,),
        "No valid API key came with the request.",
        "Send `Authorization: Bearer hf_…` with a key that is neither revoked nor expired; `POST /v1/keys` makes a new one.",
        status=401,
    ),
    Code(
        "auth.not_permitted",
        (Place.API,),
        "The key is valid, and its roles do not include what the operation needs.",
        "Use a key with the role that the sentence names, or have a tenant administrator make one.",
        status=403,
    ),
    Code(
        "budget.insufficient",
        (Place.API, Place.DECISION),
        "The caps have too little left for even one useful call of the run, so it is not admitted.",
        "Raise the cap that the sentence names, wait for holds that are open to be settled, or ask for less.",
        status=402,
        verdict="deny",
    ),
    Code(
        "request.invalid",
        (Place.API, Place.COMMAND),
        "What was sent does not have the documented form; `errors` names each field that is wrong.",
        "Mend the fields that are named; `/openapi.json` and docs/reference/api.md show the forms.",
        status=422,
    ),
    Code(
        "request.too_large",
        (Place.API,),
        "A body, its depth, a count or a text is over its documented bound.",
        "Send less; large values belong into the systems that tools read them from.",
        status=413,
    ),
    Code(
        "request.method_not_allowed",
        (Place.API,),
        "The path exists, but not with this method.",
        "Look the operation up in `/openapi.json`.",
        status=405,
    ),
    Code(
        "resource.not_found",
        (Place.API, Place.COMMAND),
        "There is no such thing in the caller's tenant; another tenant's things look the same.",
        "Check the id or name, and whether the key belongs to the tenant that you mean.",
        status=404,
    ),
    Code(
        "resource.conflict",
        (Place.API,),
        "The thing is not in a state that allows this, or one of that name is there already.",
        "Read it again and decide anew; nothing was changed.",
        status=409,
    ),
    Code(
        "idempotency.conflict",
        (Place.API,),
        "An Idempotency-Key came again with a different request.",
        "Take a new key for a new request, and the old key only to repeat the same one.",
        status=409,
    ),
    Code(
        "service.unavailable",
        (Place.API, Place.DECISION, Place.RESULT, Place.RUN),
        "A part that Holdfast needs does not answer; nothing was decided or executed.",
        "Send it again, under the same Idempotency-Key; `GET /readyz` says which part is away.",
        status=503,
    ),
    Code(
        "ledger.busy",
        (Place.API, Place.RUN, Place.COMMAND),
        "More operations wait for the ledger than it takes; nothing was decided.",
        "Send it again in some seconds; if it goes on, add processes or give PostgreSQL faster storage.",
        status=503,
    ),
    Code(
        "internal.error",
        (Place.API, Place.RUN, Place.COMMAND),
        "An error that nobody foresaw; nothing is allowed because of it.",
        "Find the `request_id`, or the run's id, in the process's log, and report what stands there.",
        status=500,
    ),
    Code(
        "approval.not_eligible",
        (Place.API, Place.DECISION),
        "Who decides does not have the role that the gate asks for, or has started the run.",
        "Let somebody with the role decide; nobody consents to a run of their own.",
        status=403,
        verdict="deny",
    ),
    Code(
        "approval.decided",
        (Place.API, Place.RESULT),
        "Somebody has decided otherwise before.",
        "Read the approval: the first verdict stands, and a new try of the step asks anew.",
        status=409,
    ),
    Code(
        "approval.changed",
        (Place.API, Place.RESULT),
        "An approver has edited the arguments since they were shown, and a consent is for exactly what was shown.",
        "Look at the approval again, and decide with the `binding` that it shows now.",
        status=409,
    ),
    Code(
        "approval.vote_stands",
        (Place.API, Place.RESULT),
        "The same voter has voted otherwise or handed the vote to somebody else, or the one it was handed to has voted.",
        "Withdraw the vote or the delegation first, as long as the approval is not decided.",
        status=409,
    ),
    Code(
        "approval.no_vote",
        (Place.API,),
        "There is no vote, delegation or request of the caller's that could be withdrawn.",
        "Look at the approval: it lists who has voted and who has delegated.",
        status=409,
    ),
    Code(
        "approval.replayed",
        (Place.API,),
        "The same signature was counted before, and each counts once.",
        "Sign anew with the time of now, if the signer means to vote once more; if it does not, somebody replays its messages.",
        status=409,
    ),
    Code(
        "approval.signature_refused",
        (Place.API,),
        "What came is no fresh signature of a registered signer over this approval.",
        "Check the seven signed lines, the signer's clock and its registered key: `GET /v1/signers`.",
        status=403,
    ),
    Code(
        "approval.link_invalid",
        (Place.API,),
        "The link was never given out, was used, is too old, or its approver has no key in force any more.",
        "Make a new one, `POST /v1/approvals/{approval_id}/links`, or decide with a key.",
        status=403,
    ),
    Code(
        "codec.refused",
        (Place.API, Place.COMMAND),
        "A payload claims to be encrypted by Holdfast, but was altered or is of another key.",
        "Give this process the codec key under which the run began; if it has it, somebody has altered the history.",
        status=422,
    ),
)
