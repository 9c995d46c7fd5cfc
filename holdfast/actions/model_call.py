"""A try of a model call: which target it goes to, how much it may write, what it can cost at worst.

A try that is decided already, or that an approver has consented to, keeps what was chosen for it. Everything else is chosen
from what stands in the database: the target from the failures of earlier tries, the output bound from what the caps have left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.actions.build import llm_action, model_action, model_request
from holdfast.actions.form import Action
from holdfast.actions.run_facts import RunFacts
from holdfast.errors import ContentUnsupported, HoldfastError, PriceUnknown
from holdfast.ledger.budget import read_applicable_caps
from holdfast.pricing.estimate import Estimate
from holdfast.pricing.headroom import DEFAULT_MAX_TOKENS, UNITS, USEFUL_MAX_TOKENS_MIN, Headroom, fitted, headroom_of
from holdfast.pricing.prices import price_of
from holdfast.providers.model import ModelRequest, Wire
from holdfast.runs.definition import AgentDefinition, ModelTarget
from holdfast_verdict.canonical import JsonValue

_STANDING = text("""
    SELECT part_a FROM decisions
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND step = :step AND try = :try AND kind = 'llm.call' AND superseded_at IS NULL
""")

_CONSENTED = text("""
    SELECT action FROM approvals
    WHERE tenant_id = :tenant_id AND approval_id = :approval_id AND run_id = :run_id AND step = :step
""")

# Only what a provider did counts: a try that was handed back, or whose executor died, says nothing about the provider. What was
# superseded was never executed; saying so lets the index of keys serve.
_FAILURES = text("""
    SELECT count(*) FROM holds h JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
    WHERE h.tenant_id = :tenant_id AND h.run_id = :run_id AND h.step = :step AND h.try < :try AND h.superseded_at IS NULL
      AND h.kind = 'llm.call' AND NOT o.ok AND o.retryable AND starts_with(o.error_code, 'provider.')
""")

_GOES_ELSEWHERE = text("""
    SELECT d.approval_id IS NULL AND jsonb_array_length(coalesce(a.definition #> '{model,fallbacks}', '[]')) > 0
    FROM decisions d JOIN runs r ON r.tenant_id = d.tenant_id AND r.run_id = d.run_id
    JOIN agents a ON a.tenant_id = r.tenant_id AND a.name = r.agent_name AND a.version = r.agent_version
    WHERE d.tenant_id = :tenant_id AND d.decision_id = :decision_id
""")


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A model call, ready to be decided.

    Attributes:
        action: The action, whose request is what will be sent.
        estimate: Its worst case; None if it cannot be bounded.
        refusal: Why there is no estimate.
        shrinkable: Whether its output bound is ours and can be smaller still, so that a refusal by a cap may pass.
    """

    action: Action
    estimate: Estimate | None
    refusal: HoldfastError | None
    shrinkable: bool


async def build(
    connection: AsyncConnection, run: RunFacts, head: bytes, *, step: int, try_number: int, approval_id: str
) -> ModelCall:
    """Builds a try of a model call.

    INVARIANT (LAW 9): asked again for a try that is decided, it returns what was decided, whatever has changed meanwhile:
    an answer that was lost must not look like other arguments. Where two attempts race, the one that reads too early is
    turned away by the run's history version, and comes back here.

    Args:
        connection: The transaction in which the run was read.
        run: The run.
        head: The conversation to continue.
        step: Number of the action.
        try_number: Number of the try.
        approval_id: The approval that the try cites, or empty.

    Raises:
        TranscriptBroken: The transcript does not hash to `head`.
    """
    agent = run.agent
    request = await model_request(
        connection,
        run.tenant_id,
        run.run_id,
        agent,
        run.tools,
        head,
        wire=agent.model.wire,
        model=agent.model.name,
        max_tokens=agent.max_tokens or DEFAULT_MAX_TOKENS,
    )
    if agent.max_tokens is not None and not agent.model.fallbacks:
        return await _priced(connection, run, request, head, agent.max_tokens)  # nothing is left to choose
    key = {"tenant_id": run.tenant_id, "run_id": run.run_id, "step": step, "try": try_number}
    chosen = await _chosen(connection, key, approval_id)
    same = None if chosen is None else _as_chosen(request, head, agent, chosen)
    if same is not None:
        call = await _priced(connection, run, same, head, same.max_tokens)
        # a consent is for one bound: asked again, the same would come out
        return replace(call, shrinkable=not approval_id and _shrinkable(agent, same.max_tokens))
    failures: int = (await connection.execute(_FAILURES, key)).scalar_one() if try_number > 1 else 0
    target = target_after(agent, failures)
    request = replace(request, wire=target.wire, model=target.name)
    return await _priced(connection, run, request, head, agent.max_tokens)


def _shrinkable(agent: AgentDefinition, max_tokens: int) -> bool:
    return agent.max_tokens is None and max_tokens > USEFUL_MAX_TOKENS_MIN


def target_after(agent: AgentDefinition, failures: int) -> ModelTarget:
    """Returns whom to ask when providers have failed a step so many times."""
    targets = agent.model.targets
    return targets[failures % len(targets)]


async def goes_elsewhere(connection: AsyncConnection, tenant_id: UUID, decision_id: UUID) -> bool:
    """Says whether the try after a failed one goes to another target, for which a provider's wish to wait means nothing."""
    found = await connection.scalar(_GOES_ELSEWHERE, {"tenant_id": tenant_id, "decision_id": decision_id})
    return found is True


async def _chosen(
    connection: AsyncConnection, key: Mapping[str, object], approval_id: str
) -> Mapping[str, JsonValue] | None:
    """Returns the action of the decision that stands for the try, else the one that an approver was shown for the step."""
    part_a: bytes | None = await connection.scalar(_STANDING, key)
    if part_a is not None:
        return cast("Mapping[str, JsonValue]", orjson.loads(part_a)["action"])
    if not approval_id:
        return None
    action: bytes | None = await connection.scalar(_CONSENTED, {**key, "approval_id": UUID(approval_id)})
    return None if action is None else cast("Mapping[str, JsonValue]", orjson.loads(action))


def _as_chosen(
    request: ModelRequest, head: bytes, agent: AgentDefinition, chosen: Mapping[str, JsonValue]
) -> ModelRequest | None:
    """Returns the request with the target and the bound of an earlier choice; None if that was another conversation."""
    args = chosen.get("args")
    if not isinstance(args, dict) or not isinstance(args.get("max_tokens"), int):
        return None
    wire, model, max_tokens = cast("Wire", args.get("wire")), str(args.get("model")), cast(int, args["max_tokens"])
    same = replace(request, wire=wire, model=model, max_tokens=max_tokens)
    offered = any((target.wire, target.name) == (wire, model) for target in agent.model.targets)
    return same if offered and llm_action(same, head) == chosen else None


async def _priced(
    connection: AsyncConnection, run: RunFacts, request: ModelRequest, head: bytes, max_tokens: int | None
) -> ModelCall:
    """Returns the call with its worst case; without `max_tokens` its output bound is chosen by what the caps have left."""
    headroom, default = Headroom(), run.policy.max_tokens_default or DEFAULT_MAX_TOKENS
    try:
        price = price_of(request.wire, request.model, run.now)
        if max_tokens is None or price.tokenizer is not None:
            caps = await read_applicable_caps(connection, run.tenant_id, run.scopes, UNITS)
            headroom = headroom_of(caps, funded=run.funded)
        if price.tokenizer is None:
            estimate = fitted(request, price, headroom, max_tokens, default=default)
        else:  # there may be much to count: others reserve meanwhile
            estimate = await asyncio.to_thread(fitted, request, price, headroom, max_tokens, default=default)
    except (PriceUnknown, ContentUnsupported) as refusal:
        return ModelCall(model_action(request, head), None, refusal, shrinkable=False)
    request = replace(request, max_tokens=estimate.output_tokens_bound)
    shrinkable = headroom.calls != 0 and _shrinkable(run.agent, request.max_tokens)
    return ModelCall(model_action(request, head), estimate, None, shrinkable)
