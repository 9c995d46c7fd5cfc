"""`decide(policy, action, facts) -> Verdict`: pure and total. It never raises, and what it cannot tell it does not allow (LAW 7).

The order: the action's form → forbids → permits → limits → gates. The first permit that matches is enough; one forbid is, too. Every
limit that matches becomes a leg, and every gate that matches has to open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from holdfast_verdict.actions.refused import ActionRefused, shown
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Facts, HistoryFacts
from holdfast_verdict.engine.form import Action, Malformed, read_action
from holdfast_verdict.engine.gates import standing
from holdfast_verdict.engine.history import EventMalformed, History
from holdfast_verdict.engine.labels import labels_after, yields_of
from holdfast_verdict.engine.limits import Immeasurable, leg_of, shortage
from holdfast_verdict.engine.program import CompiledRule, Plan, Program, program_of
from holdfast_verdict.engine.recorded import FactsMalformed
from holdfast_verdict.engine.values import Unrunnable
from holdfast_verdict.engine.verdict import GateAsk, Leg, Looked, Verdict
from holdfast_verdict.policy import Policy
from holdfast_verdict.problems import PolicyRefused

if TYPE_CHECKING:
    from holdfast_verdict.actions.catalogue import Catalogue
    from holdfast_verdict.canonical import JsonValue

ENGINE_VERSION: Final = "policy/1"

_HISTORIES: Final = (HistoryFacts, History, type(None))
_SPOKEN: Final = (FactsMalformed, EventMalformed, Unrunnable, PolicyRefused)


def decide(policy: Policy | Mapping[str, object], action: object, facts: Facts | Mapping[str, JsonValue]) -> Verdict:
    """Decides on an action.

    Args:
        policy: The compiled policy, or its JSON.
        action: What `Catalogue.action` returned, or a canonical action as a plain mapping: `kind`, `tool` for tool calls, `args`.
        facts: What is known, or its JSON. What is left out is unknown, and stands against the action.

    Returns:
        The verdict. Whatever goes wrong inside is a deny, too: this function does not raise.
    """
    try:
        program = program_of(policy if isinstance(policy, Policy) else Policy.from_json(policy))
        read = read_action(action)
        known = facts if isinstance(facts, Facts) else Facts.from_json(facts)
    except Malformed as error:
        return Verdict("deny", "action.malformed", str(error))
    except Exception as error:  # noqa: BLE001 (LAW 7: whatever breaks in here is a deny with a code of its own)
        return _broken(error, [], None)
    return decide_read(program, read, known)


def decide_read(program: Program, action: Action, known: Facts) -> Verdict:
    """Decides on an action that was read and compared with its bytes before. It does not raise, like `decide`.

    Args:
        program: The policy, made ready to run.
        action: The action.
        known: What is known.
    """
    trace: list[Looked] = []
    context: Context | None = None
    try:
        if not isinstance(known.history, _HISTORIES):
            known = replace(known, history=_history(program, known))
        external = program.is_external(action.name, declared=action.external)
        context = Context(action.name, external, action.args, known, program, action.parameters)
        return _decide(program, action, context, trace)
    except Exception as error:  # noqa: BLE001 (LAW 7: as above)
        return _broken(error, trace, context)


def _broken(error: Exception, trace: list[Looked], context: Context | None) -> Verdict:
    what = shown(str(error)) if isinstance(error, _SPOKEN) else type(error).__name__
    message = f"the policy could not be evaluated, so it denies: {what}"
    return Verdict("deny", "policy.error", message, trace=tuple(trace), read={} if context is None else context.read)


def decide_call(
    policy: Policy | Mapping[str, object],
    catalogue: Catalogue,
    name: str,
    arguments: object,
    facts: Facts | Mapping[str, JsonValue],
) -> Verdict:
    """Gives a call its canonical form and decides on it; a call that has none is a deny. It does not raise, like `decide`.

    Args:
        policy: The compiled policy, or its JSON.
        catalogue: The actions there are.
        name: What is called.
        arguments: A mapping, or JSON text as a model wrote it.
        facts: What is known, or its JSON.
    """
    try:
        action = catalogue.action(name, arguments)  # type: ignore[arg-type]  # it refuses whatever is no arguments
    except Exception as error:  # noqa: BLE001 (LAW 7: a call that has no canonical form is a deny, whatever was wrong with it)
        if isinstance(error, ActionRefused):
            return Verdict("deny", error.verdict_code, str(error))
        return Verdict("deny", "policy.error", f"the call could not be read, so it is denied ({type(error).__name__})")
    return decide(policy, action, facts)


def _history(program: Program, facts: Facts) -> History:
    if not isinstance(facts.history, list | tuple):
        raise TypeError("a history is kept, was read from one that is, or is a list of events")
    return History.of(program.policy, facts.history, facts.principal)


def _decide(program: Program, action: Action, context: Context, trace: list[Looked]) -> Verdict:
    if not program.rules:
        return Verdict("deny", "policy.empty", "the policy has no rules, so it denies everything")
    role = context.principal("role")
    if not isinstance(role, str) or role not in program.policy.roles:
        named = f"the policy knows no role {shown(role)}" if isinstance(role, str) else "it was not said in which role"
        return Verdict("deny", "policy.role_unknown", named, read=context.read)
    plan = program.plan(role, action.name, external=context.external)
    forbidden = _forbidden(plan, context, trace)
    if forbidden is not None:
        return forbidden
    permit = _permit(plan, context, trace)
    if permit is None:
        return _not_permitted(role, context, trace)
    legs, short = _limits(plan, context, trace)
    if short is not None:
        return short
    return _gates(program, plan, action, context, trace, permit, legs)


def _deny(context: Context, trace: list[Looked], code: str, message: str, rule_id: str = "") -> Verdict:
    return Verdict("deny", code, message, rule_id, tuple(trace), read=context.read)


def _forbidden(plan: Plan, context: Context, trace: list[Looked]) -> Verdict | None:
    """Asks all forbids; one that matches decides before one of which that cannot be told."""
    doubtful: tuple[CompiledRule, Looked] | None = None
    fired: CompiledRule | None = None
    for rule in plan.forbids:
        truth, looked = rule.ask(context)
        trace.append(looked)
        if truth is True and fired is None:
            fired = rule
        # INVARIANT (LAW 7): a forbid of which nobody can tell whether it matches, does
        elif truth is None and doubtful is None:
            doubtful = (rule, looked)
    if fired is not None:
        rule_ = fired.rule
        message = rule_.message or f"{context.name} is forbidden by rule {rule_.id}"
        return _deny(context, trace, rule_.code, message, rule_.id)
    if doubtful is None:
        return None
    rule, looked = doubtful
    if looked.missing:
        message = f"rule {rule.rule.id} needs what was not given: {', '.join(looked.missing)}"
        return _deny(context, trace, "facts.missing", message, rule.rule.id)
    because = f"whether {looked.condition} cannot be told from these arguments, so rule {rule.rule.id} forbids it"
    message = f"{rule.rule.message} ({because})" if rule.rule.message else because
    return _deny(context, trace, rule.rule.code, message, rule.rule.id)


def _permit(plan: Plan, context: Context, trace: list[Looked]) -> CompiledRule | None:
    for rule in plan.permits:
        truth, looked = rule.ask(context)
        trace.append(looked)
        if truth is True:  # INVARIANT (LAW 7): unknown permits nothing
            return rule
    return None


def _not_permitted(role: str, context: Context, trace: list[Looked]) -> Verdict:
    permits = [looked for looked in trace if looked.effect == "permit"]
    lacking = next((looked for looked in permits if looked.missing), None)
    if lacking is not None:
        message = f"rule {lacking.rule_id} needs what was not given: {', '.join(lacking.missing)}"
        return _deny(context, trace, "facts.missing", message)
    message = f"role {role} may not use {context.name} like this"
    if not permits:
        message = f"no rule permits role {role} to use {context.name}"
    elif len(permits) == 1:
        message += f": rule {permits[0].rule_id} asks for {permits[0].condition}"
    return _deny(context, trace, "policy.not_permitted", message)


def _limits(plan: Plan, context: Context, trace: list[Looked]) -> tuple[tuple[Leg, ...], Verdict | None]:
    legs = []
    for rule in plan.limits:
        truth, looked = rule.ask(context)
        trace.append(looked)
        if truth is False:
            continue
        try:
            leg = leg_of(rule, context)
        except Immeasurable:
            message = f"what it takes of limit {rule.rule.id} cannot be told from its arguments"
            return (), _deny(context, trace, "policy.limit", message, rule.rule.id)
        short = shortage(leg, context)
        if short is not None:
            if short.startswith("?"):
                message = f"limit {rule.rule.id} needs what was not given: {short[1:]}"
                return (), _deny(context, trace, "facts.missing", message, rule.rule.id)
            message = f"limit {rule.rule.id} is reached: {short}"
            if rule.rule.message:
                message = f"{rule.rule.message} ({message})"
            return (), _deny(context, trace, rule.rule.code, message, rule.rule.id)
        legs.append(leg)
    return tuple(legs), None


def _gates(
    program: Program,
    plan: Plan,
    action: Action,
    context: Context,
    trace: list[Looked],
    permit: CompiledRule,
    legs: tuple[Leg, ...],
) -> Verdict:
    shut: list[GateAsk] = []
    used: list[str] = []
    why = ""
    for rule in plan.gates:
        truth, looked = rule.ask(context)
        trace.append(looked)
        if truth is False:
            continue
        gate = rule.rule.gate
        assert gate is not None  # the form of a policy says so
        stands = standing(rule.rule, context, program.policy_hash, action.digest)
        if stands.missing:
            message = f"gate {rule.rule.id} needs what was not given: {stands.missing}"
            return _deny(context, trace, "facts.missing", message, rule.rule.id)
        if stands.code == "approval.required":
            shut.append(GateAsk(rule.rule.id, gate, stands.waiting, rule.rule.message))
            why = why or (rule.rule.message or f"{stands.message} (rule {rule.rule.id})")
        elif stands.code:
            return _deny(context, trace, stands.code, stands.message, rule.rule.id)
        else:
            used.append(stands.approval_id)
    if shut:
        return Verdict(
            "needs_approval",
            "approval.required",
            why,
            shut[0].rule_id,
            tuple(trace),
            gates=tuple(shut),
            legs=legs,
            read=context.read,
        )
    return _allow(plan, action, context, trace, permit, legs, tuple(used))


def _allow(
    plan: Plan,
    action: Action,
    context: Context,
    trace: list[Looked],
    permit: CompiledRule,
    legs: tuple[Leg, ...],
    used: tuple[str, ...],
) -> Verdict:
    yields = yields_of(plan, action.yields, context)
    labels = context.labels_given() or frozenset()
    consented = ", with consent" if used else ""
    return Verdict(
        "allow",
        "policy.permitted",
        f"permitted by rule {permit.rule.id}{consented}",
        permit.rule.id,
        tuple(trace),
        (),
        legs,
        used,
        yields,
        labels_after(labels, yields),
        context.read,
    )
