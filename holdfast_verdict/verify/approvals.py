"""Consents: each was given for exactly the action that used it, by somebody who may, in time, and was used once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from holdfast_verdict.verify.across import Bundle, at
from holdfast_verdict.verify.findings import Finding
from holdfast_verdict.verify.records import Approved, Decided

_CODE: Final = "audit.approval"
_VOTES: Final = frozenset({"approval.approved", "approval.denied", "approval.voted"})
_RETURNED: Final = frozenset({"voided", "expired"})
"""A try that came to nothing leaves its consent for the next."""


def check_approvals(bundle: Bundle) -> Iterator[Finding]:
    """Checks what was asked for, what was given, and what was used."""
    lines = {line["approval_id"]: (number, line) for number, line in bundle.approvals}
    votes = _votes(bundle)
    used: dict[str, list[Decided]] = {}
    for one in bundle.decided:
        if one.verdict == "needs_approval" and not one.deleted:
            yield from _check_asked(bundle, one, lines)
        for approval in one.approvals:
            used.setdefault(approval.approval_id, []).append(one)
            yield from _check_used(bundle, one, approval, lines, votes)
    states = {line["hold_id"]: line for _, line in bundle.holds}
    for approval_id, users in used.items():
        for earlier in users[:-1]:
            hold = states.get(earlier.hold_id)
            if hold is not None and not (
                hold["state"] in _RETURNED or (hold["unknown_at_ms"] is not None and hold["idempotent"])
            ):
                wrong = f"it used approval {approval_id}, and so did decision {users[-1].decision_id} after it"
                yield at(earlier, _CODE, wrong)
    gone = {one.approval_id for one in bundle.decided if one.deleted and one.kind == "approval"}
    for approval_id, (number, line) in lines.items():
        if approval_id in gone:
            continue  # who decided so, its records said, and they were deleted
        if line["verdict"] is not None and not votes.get((line["binding"], line["verdict"])):
            wrong = f"it is {line['verdict']}, and no record says who decided so"
            yield Finding(_CODE, f"approval {approval_id}", wrong, number)


def _votes(bundle: Bundle) -> dict[tuple[str, str], list[Decided]]:
    """Returns the records of consents and refusals, by what they are bound to and what was said."""
    votes: dict[tuple[str, str], list[Decided]] = {}
    for one in bundle.decided:
        if one.kind == "approval" and one.facts is not None and one.code in _VOTES and "binding" in one.facts:
            said = "approved" if one.verdict == "allow" else "denied"
            votes.setdefault((str(one.facts["binding"]), said), []).append(one)
    return votes


def _check_asked(bundle: Bundle, one: Decided, lines: dict[str, tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    found = lines.get(one.approval_id)
    if found is None:
        yield at(one, _CODE, f"it asked for approval {one.approval_id or 'none'}, which is not in the file")
        return
    line = found[1]
    if (line["run_id"], line["step"], line["rule"]) != (one.run_id, one.step, one.rule_id):
        yield at(one, _CODE, f"approval {one.approval_id} is of another step or rule than it asked for")
    elif line["action_digest"] != one.digest:
        yield at(one, _CODE, f"approval {one.approval_id} shows another action than the one that was decided on")
    policy = bundle.policies.get(one.policy_hash)
    shown = line["edited_digest"] or line["action_digest"]
    bound = policy and policy.binding(line["rule"], line["approver_role"], shown, line["expires_at_ms"])
    if bound != line["binding"]:
        yield at(one, _CODE, f"approval {one.approval_id} is not bound to this policy, action, gate and expiry")


def _check_used(
    bundle: Bundle,
    one: Decided,
    approval: Approved,
    lines: dict[str, tuple[int, dict[str, Any]]],
    votes: dict[tuple[str, str], list[Decided]],
) -> Iterator[Finding]:
    found = lines.get(approval.approval_id)
    if found is None:
        yield at(one, _CODE, f"it used approval {approval.approval_id}, which is not in the file")
        return
    line = found[1]
    if (line["run_id"], line["step"]) != (one.run_id, one.step):
        yield at(one, _CODE, f"it used approval {approval.approval_id}, which is of another step or run")
    said = (line["binding"], line["rule"], line["expires_at_ms"], line["verdict"])
    if said != (approval.binding, approval.rule_id, approval.expires_at_ms, "approved"):
        yield at(one, _CODE, f"it read approval {approval.approval_id} otherwise than it stands in the file")
    given = votes.get((approval.binding, "approved"), [])
    if not given:
        yield at(one, _CODE, f"no record says that anybody consented to approval {approval.approval_id}")
    people = {str(_subject(vote).get("user")) for vote in given if not _is_agents(vote)}
    agents = {str((vote.facts or {})["agent"]) for vote in given if _is_agents(vote)}
    missing = [
        *sorted(set(approval.consents) - people),
        *(f"the agent {name}" for name in sorted(set(approval.agents) - agents)),
    ]
    for name in missing:
        yield at(
            one, _CODE, f"it counted a consent of {name} to approval {approval.approval_id}, and no record has one"
        )
    for vote in given:
        yield from _check_vote(one, approval, line, vote)
        if _is_agents(vote):
            yield from _check_agents(bundle, one, vote)


def _check_vote(one: Decided, approval: Approved, line: dict[str, Any], vote: Decided) -> Iterator[Finding]:
    facts = vote.facts or {}
    voter = _subject(vote)
    by_user = facts.get("voter", "user") == "user" and not _is_agents(vote)
    if facts.get("action_digest") != one.digest:
        yield at(one, _CODE, f"the consent in decision {vote.decision_id} was given for another action")
    if not _is_brief(vote) and (facts.get("step"), facts.get("rule")) != (one.step, approval.rule_id):
        yield at(one, _CODE, f"the consent in decision {vote.decision_id} was given at another gate or step")
    if not vote.time_ms <= one.time_ms or vote.time_ms >= approval.expires_at_ms:
        yield at(one, _CODE, f"the consent in decision {vote.decision_id} came too late")
    if by_user and voter.get("user_id") in (one.user_id, line["requester_id"], None):
        yield at(one, _CODE, f"the consent in decision {vote.decision_id} is by the one who asked for it")
    roles = voter.get("roles")
    # what several people have to consent to is written out; whose consent met which need was evaluated with the record
    if isinstance(roles, list) and not line["approver_role"].startswith("{") and line["approver_role"] not in roles:
        wrong = f"who consented in decision {vote.decision_id} does not have the role {line['approver_role']}"
        yield at(one, _CODE, wrong)


def _check_agents(bundle: Bundle, one: Decided, vote: Decided) -> Iterator[Finding]:
    """An agent's vote is an action of a run of its own, which a decision allowed; that is looked at if it is in the file."""
    facts = vote.facts or {}
    if facts["agent"] == one.agent or facts.get("run_id") == one.run_id:
        yield at(one, _CODE, f"the consent in decision {vote.decision_id} is by the agent that asked for it")
    subject = _subject(vote)
    said = (subject.get("agent"), subject.get("run_id"))
    if not _is_brief(vote) and said != (facts["agent"], facts.get("run_id")):
        yield at(one, _CODE, f"the consent in decision {vote.decision_id} names another agent or run than its subject")
    allowed = bundle.by_id.get(str(facts.get("decision_id")))
    if allowed is None:
        return  # of another run than the one that was exported
    was = (allowed.verdict, allowed.tool, allowed.agent, allowed.run_id)
    if was != ("allow", "approval.vote", facts["agent"], facts.get("run_id")) or allowed.time_ms > vote.time_ms:
        wrong = f"the consent in decision {vote.decision_id} cites decision {allowed.decision_id}, which allowed no such vote"
        yield at(one, _CODE, wrong)
    elif not _is_brief(vote) and (subject.get("step"), subject.get("try")) != (allowed.step, allowed.try_number):
        yield at(one, _CODE, f"the consent in decision {vote.decision_id} cites another step than its subject's")


def _is_agents(vote: Decided) -> bool:
    """Whether an agent has voted."""
    return isinstance((vote.facts or {}).get("agent"), str)


def _is_brief(vote: Decided) -> bool:
    """Whether it is an agent's vote of the time when its record had neither subject nor step nor rule: these cannot be looked at."""
    return _is_agents(vote) and "voter" not in (vote.facts or {})


def _subject(vote: Decided) -> dict[str, Any]:
    subject = (vote.facts or {}).get("subject")
    return subject if isinstance(subject, dict) else {}
