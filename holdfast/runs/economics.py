"""The economics of a run before it is admitted: is there a cap, and does every cap that applies still afford something useful?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from holdfast.actions.build import tool_specs
from holdfast.errors import PriceUnknown
from holdfast.ledger import core
from holdfast.ledger.types import CALLS, NANO_USD, SLOTS, TOKENS, CapView
from holdfast.money import format_usd
from holdfast.pricing.estimate import Estimate
from holdfast.pricing.headroom import DEFAULT_MAX_TOKENS, USEFUL_MAX_TOKENS_MIN, Headroom, fitted, headroom_of
from holdfast.pricing.prices import price_of
from holdfast.providers.model import ModelRequest
from holdfast.runs.definition import AgentDefinition
from holdfast.tools.toolset import Toolset

AFFORDABLE: Final = "admission.affordable"
BUDGET_INSUFFICIENT: Final = "budget.insufficient"


@dataclass(frozen=True, slots=True)
class Economics:
    """What was judged.

    Attributes:
        code: `admission.affordable`, or why the run is not admitted.
        message: A sentence.
        floor_nano_usd: Worst case of a smallest useful call: the first request with 256 tokens of output.
    """

    code: str
    message: str
    floor_nano_usd: int

    @property
    def affordable(self) -> bool:
        """Whether the run is admitted."""
        return self.code == AFFORDABLE


@dataclass(frozen=True, slots=True)
class CapShare:
    """What a first call would take from one cap that applies.

    Attributes:
        cap: The cap as it stands.
        needed: What the call would hold there, in the cap's unit.
    """

    cap: CapView
    needed: int

    @property
    def available(self) -> int | None:
        """What a new hold could take; None if the cap is unlimited."""
        cap = self.cap
        return None if cap.unlimited else max(cap.limit_amount - cap.reserved - cap.committed - cap.debt, 0)

    @property
    def affords(self) -> bool:
        """Whether the cap could give that much now."""
        return self.available is None or self.needed <= self.available


def first_calls(
    agent: AgentDefinition,
    tools: Toolset,
    content: str,
    at: datetime,
    headroom: Headroom,
    max_tokens: int | None,
    *,
    default: int = DEFAULT_MAX_TOKENS,
) -> list[Estimate]:
    """Returns the worst case of the agent's first call on each of its targets, the first choice first.

    Args:
        agent: What is to run.
        tools: The tools of the run.
        content: Its input.
        at: Time of the prices.
        headroom: What the caps have left.
        max_tokens: The output bound; None for what a call without one would get.
        default: The role's bound for such calls.

    Raises:
        PriceUnknown: A target has no known price.
    """
    return [
        fitted(
            ModelRequest(
                wire=target.wire,
                model=target.name,
                max_tokens=USEFUL_MAX_TOKENS_MIN,  # `fitted` gives it its own
                system=agent.instructions,
                entries=[{"kind": "user", "text": content}],
                tools=tool_specs(agent, tools),
            ),
            price_of(target.wire, target.name, at),
            headroom,
            max_tokens,
            default=default,
        )
        for target in agent.model.targets
    ]


def dearest(calls: Sequence[Estimate]) -> Estimate:
    """Returns the call that could cost most."""
    return max(calls, key=lambda call: call.max_cost_nano_usd)


def smallest_useful_call_nano_usd(
    agent: AgentDefinition, tools: Toolset, content: str, at: datetime, headroom: Headroom
) -> int:
    """Returns the worst case of the agent's first call with the least output that is of use, on its dearest target.

    Raises:
        PriceUnknown: A target has no known price.
    """
    max_tokens = min(agent.max_tokens or USEFUL_MAX_TOKENS_MIN, USEFUL_MAX_TOKENS_MIN)
    return dearest(first_calls(agent, tools, content, at, headroom, max_tokens)).max_cost_nano_usd


def headroom_before(caps: Sequence[CapView], run_cap_nano_usd: int) -> Headroom:
    """Returns what the caps above a run that is not admitted yet have left, and the run's own cap."""
    left = headroom_of(caps)
    return replace(left, nano_usd=min(run_cap_nano_usd, run_cap_nano_usd if left.nano_usd is None else left.nano_usd))


def shares(caps: Sequence[CapView], calls: Sequence[Estimate]) -> list[CapShare]:
    """Returns what a call would take from each cap, on whichever target takes most of its unit."""
    amounts: Mapping[str, int] = {
        NANO_USD: max(call.max_cost_nano_usd for call in calls),
        TOKENS: max(call.max_tokens_total for call in calls),
        CALLS: 1,
        SLOTS: 1,
    }
    return [CapShare(cap, amounts[cap.unit]) for cap in caps if cap.unit in amounts]


def judge(
    agent: AgentDefinition,
    tools: Toolset,
    content: str,
    at: datetime,
    caps: Sequence[CapView],
    run_cap_nano_usd: int,
    *,
    guaranteed: bool,
    funded: bool = False,
) -> Economics:
    """Judges whether a run could do anything useful with what the caps have left.

    Args:
        agent: What is to run.
        tools: The tools of the run.
        content: Its input.
        at: Time of the prices.
        caps: Money caps that would apply, as they stand.
        run_cap_nano_usd: The run's own cap.
        guaranteed: Whether the caps have to give the run's whole cap at once.
        funded: Whether a parent run with a guaranteed budget gives it, so that only that run's cap has to.
    """
    headroom = headroom_before(caps, run_cap_nano_usd)
    try:
        floor = smallest_useful_call_nano_usd(agent, tools, content, at, headroom)
    except PriceUnknown as unknown:
        return Economics(unknown.code, unknown.message, 0)
    if run_cap_nano_usd < floor:
        message = f"the run's cap of {format_usd(run_cap_nano_usd)} does not afford its first call, which may take {format_usd(floor)}"
        return Economics(BUDGET_INSUFFICIENT, message, floor)
    refusal = core.refusal_for(caps, {NANO_USD: run_cap_nano_usd if guaranteed else floor}, funded=funded)
    if refusal is not None:
        return Economics(BUDGET_INSUFFICIENT, refusal.message, floor)
    return Economics(AFFORDABLE, "every cap that applies affords a useful call", floor)
