"""Reason codes of decisions on actions, and of the permits that they yield."""

from __future__ import annotations

from typing import Final

from holdfast.codes.entry import NOTHING, Code, Place, denied

CODES: Final = (
    Code(
        "policy.permitted",
        (Place.DECISION,),
        "A rule permits it and nothing stands against it.",
        "Nothing: the action may be executed.",
        verdict="allow",
    ),
    denied(
        "policy.forbidden",
        "A forbid rule without a code of its own fired.",
        "Look at the rule that the decision names; no permit and no approval overrides a forbid.",
    ),
    denied(
        "policy.not_permitted",
        "No rule of the role permits it.",
        "Add a permit rule for this tool and these arguments to the role, if it is meant to be allowed.",
    ),
    denied(
        "policy.invariant",
        "An invariant does not hold: a step that is required was not taken, one that forbids it was, or it happened too often.",
        "Take the step that the sentence names first. If the invariant asks for too much, change it; no approval overrides it.",
    ),
    denied(
        "policy.label",
        "The run carries a label that stands against the action, such as that of a secret it has read.",
        "Have somebody of the role that the rule names release the label, or do it in a run that has not read such a thing.",
    ),
    denied(
        "policy.provenance",
        "An argument is from where this action may not take it from, such as from a web page.",
        "Say the value yourself, in the run's own task, if it is right. Often it is not: injected instructions look like this.",
    ),
    denied(
        "policy.limit",
        "A limit of the policy has less left than the action takes, or what it takes cannot be told.",
        "Wait until the limit's window has passed, or raise the limit that the sentence names.",
    ),
    denied(
        "policy.empty",
        "The policy has no rules, and what nobody permits is denied.",
        "Write a policy with a permit for each action that the role is to have.",
    ),
    denied(
        "policy.role_unknown",
        "The policy has no role of this name, or no role was said.",
        "Add the role to the policy, or give the agent one that it has.",
    ),
    Code(
        "policy.broken",
        (Place.API,),
        "A stored policy is not what was accepted: its form cannot be read, or its hash is another. Nothing is decided by it.",
        "Restore the database from a backup, or push the policy's text again and activate it.",
        500,
    ),
    Code(
        "policy.refused",
        (Place.API, Place.COMMAND),
        "A policy is not well-formed or not well-typed.",
        "Mend what the problems name: each has line, column and what was expected.",
        status=422,
    ),
    Code(
        "policy.source",
        (Place.API, Place.COMMAND),
        "A policy's text cannot be read: it is no UTF-8, too long, or holds characters that show as something else.",
        "Save it as plain UTF-8 text; the problem names line and column.",
        status=422,
    ),
    Code(
        "policy.syntax",
        (Place.API, Place.COMMAND),
        "A policy's text is not of the language's grammar.",
        "Mend what the problem marks: it says what was expected there.",
        status=422,
    ),
    Code(
        "policy.meaning",
        (Place.API, Place.COMMAND),
        "A policy speaks of actions, arguments, roles or types that there are not, or that do not go together.",
        "Mend what the problem marks, or add the action to the catalogue.",
        status=422,
    ),
    Code(
        "policy.form",
        (Place.API, Place.COMMAND),
        "The compiled form of a policy holds what is not known here: it is of another version, or was altered.",
        "Compile the policy from its text again.",
        status=422,
    ),
    denied(
        "facts.missing",
        "A rule asks about something that was not given with the decision: history, labels, sources, time, an estimate, who asks.",
        "Give the fact that the sentence names. What is not known is never taken for nothing.",
    ),
    denied(
        "policy.gates_conflict",
        "Two gates fired that ask for different approver roles.",
        "Narrow the conditions of one of them, so that at most one approver role is asked.",
    ),
    denied(
        "policy.gate_unsupported",
        "A gate of the policy asks for more than one person of one role, which this server cannot ask for.",
        "Let the gate ask for one person of one role.",
    ),
    denied(
        "policy.limit_unsupported",
        "A limit of the policy applies, and this server cannot hold actions to it.",
        "Set a cap instead, and take the limit out of the policy.",
    ),
    denied(
        "policy.error",
        "The rules could not be evaluated.",
        "Put the policy anew, and report the trace of the decision: a policy that was accepted should evaluate.",
    ),
    denied(
        "action.unknown",
        "The agent has no such action or tool.",
        "Add the tool to the agent, or nothing: models invent tools, and read this refusal.",
    ),
    denied(
        "action.malformed",
        "The arguments are not what the tool takes.",
        "Nothing as a rule: the model reads what is wrong and proposes again. If it never succeeds, describe the tool better.",
    ),
    Code(
        "action.unbuildable",
        (Place.RUN, Place.API),
        "A reference points at nothing in the run's transcript.",
        "Start the run again, and report it: this happens only if rows were removed by hand or a message was forged.",
        status=500,
    ),
    Code(
        "approval.required",
        (Place.DECISION,),
        "A gate asks for consent.",
        "Decide on it: `holdfast approvals` lists what waits.",
        verdict="needs_approval",
    ),
    Code(
        "approval.approved",
        (Place.DECISION,),
        "An approver has consented.",
        NOTHING,
        verdict="allow",
    ),
    denied(
        "approval.pending",
        "The approval that the step cites is not decided yet.",
        "Decide on it; the run asks again by itself.",
    ),
    denied("approval.denied", "The approver refused.", "Nothing: the model reads the refusal. A new run asks anew."),
    Code(
        "approval.expired",
        (Place.API, Place.DECISION, Place.RUN),
        "Nobody consented in time, or the step that asked has changed or ended; the gate stays shut.",
        "Start it again, and give the gate a longer `expires_s` if approvers need more time.",
        status=409,
        verdict="deny",
    ),
    denied(
        "approval.consumed",
        "The approval was used already: one consent is for one action.",
        "Have the step ask anew; if nobody used it knowingly, look at the decision that consumed it.",
    ),
    denied(
        "approval.withdrawn",
        "Who asked for the consent has withdrawn the request.",
        "Have the step ask anew, if it is still wanted.",
    ),
    denied(
        "approval.mismatch",
        "The approval was given for other arguments than these.",
        "Have the step ask anew: a consent is bound to exact arguments and to the rule that asked.",
    ),
    denied(
        "budget.no_cap",
        "There is no money cap on the tenant, and nothing is unlimited by omission.",
        "Put a cap on the tenant, `PUT /v1/caps`; an unlimited one, if you mean it, says so itself.",
    ),
    denied(
        "budget.cap_exceeded",
        "A cap has less left than the action may cost at worst.",
        "Raise the cap that the sentence names, lower the agent's `max_tokens`, or wait for open holds to be settled.",
    ),
    Code(
        "stop.active",
        (Place.API, Place.DECISION, Place.RUN),
        "An emergency stop is on for the tenant, or for the agent, role or tool of the action.",
        "When its reason, which the sentence quotes, is gone: `holdfast stops` names it, `holdfast stops lift STOP` lifts it. Runs "
        "that it ended are started anew.",
        status=403,
        verdict="deny",
    ),
    Code(
        "price.unknown",
        (Place.API, Place.DECISION, Place.RUN),
        "No price is known for a model, so its cost cannot be bounded.",
        "Name a model whose price is known: a newer `genai-prices` knows newer models.",
        status=422,
        verdict="deny",
    ),
    denied(
        "content.unsupported",
        "A model call carries something other than text, such as an image or sound, which no wire here has a form for.",
        "Say it in words, or give the agent a tool that looks at it and answers in words.",
    ),
    Code(
        "vault.credential_missing",
        (Place.API, Place.RESULT, Place.RUN),
        "The vault has no entry for what an action needs, or what it holds is not of the form that is needed.",
        "Put it: `holdfast vault put NAME`; the sentence says which name.",
        status=424,
    ),
    Code(
        "hold.key_conflict",
        (Place.DECISION, Place.API),
        "This try was executed before with other arguments: an alarm.",
        "Nothing was executed a second time. Look at the run's timeline; its workflow was reset or replayed with other code.",
        status=409,
        verdict="deny",
    ),
    Code(
        "admission.affordable",
        (Place.DECISION,),
        "Every cap that applies affords a useful call, so the run is admitted.",
        NOTHING,
        verdict="allow",
    ),
    Code(
        "permit.invalid",
        (Place.DECISION, Place.RUN, Place.RESULT),
        "A permit is malformed, altered, expired, of another run, or not for these arguments.",
        "If it expired, the executors are too few or too slow: the run reserves anew. Otherwise somebody tried to go past the gate.",
        status=403,
        verdict="deny",
    ),
    Code(
        "permit.used",
        (Place.DECISION, Place.RUN, Place.RESULT),
        "A permit was redeemed before, or its hold is no longer held.",
        "Nothing: a permit is for one use, and the second was refused. Many of these mean that executors are lost in mid-call.",
        status=403,
        verdict="deny",
    ),
    Code(
        "lease.lost",
        (Place.RESULT, Place.RUN),
        "The executor's lease on a hold has run out or was revoked, so nothing was sent any more.",
        "Nothing: the run reserves anew. If it comes often, give calls more time: `HOLDFAST_LEASE_LLM_MS`, `HOLDFAST_LEASE_TOOL_MS`.",
        status=500,
    ),
    Code(
        "executor.stopped",
        (Place.RESULT, Place.RUN),
        "The executor was told to stop and handed back what could not end within its grace; the run tries again at once.",
        "Nothing. If calls often take longer than a restart waits, raise `HOLDFAST_SHUTDOWN_GRACE_MS`.",
        status=500,
    ),
)
