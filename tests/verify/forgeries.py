"""What somebody could do who has the log's key: change the content, and have it numbered, sealed and signed anew.

Signatures and proofs hold then; only what the records say of each other, and what they evaluate to, can give it away. Each forgery
changes a bundle's content, and returns the code and the subject of the finding that it has to lead to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from holdfast_verdict.canonical import canonical_bytes, digest
from holdfast_verdict.verify.lines import Line

Content = list[dict[str, Any]]
Forgery = Callable[[Content], tuple[str, str]]


def _of(content: Content, kind: str, **members: object) -> dict[str, Any]:
    return next(
        line for line in content if line["type"] == kind and all(line[name] == value for name, value in members.items())
    )


def _records(content: Content, verdict: str, kind: str = "tool.call") -> list[dict[str, Any]]:
    return [
        line
        for line in content
        if line["type"] == "record" and line["kind"] == kind and orjson.loads(line["part_b"])["verdict"] == verdict
    ]


def _consented(content: Content) -> dict[str, Any]:
    """Returns the record of an action that used a consent, whose arguments were not edited."""
    return next(
        line
        for line in _records(content, "allow")
        if (approval := _approval(line))
        and _of(content, "approval", approval_id=approval["approval_id"])["edited_digest"] is None
    )


def _approval(line: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the approval that a record read."""
    facts = orjson.loads(line["part_a"])["facts"]
    found: dict[str, Any] | None = (
        facts["approval"] if "approval" in facts else next(iter(facts.get("approvals", ())), None)
    )
    return found


def _used(line: dict[str, Any]) -> dict[str, Any]:
    approval = _approval(line)
    assert approval is not None
    return approval


def _edit(line: dict[str, Any], part: str, change: Callable[[dict[str, Any]], object]) -> None:
    value = orjson.loads(line[part])
    change(value)
    line[part] = canonical_bytes(value).decode()


def _decision(line: dict[str, Any]) -> str:
    return f"decision {line['decision_id']}"


def _arguments(content: Content) -> tuple[str, str]:
    """Another amount than the one that was decided on."""
    line = _consented(content)

    def change(part: dict[str, Any]) -> None:
        part["action"]["args"]["amount_usd_cents"] = 1
        part["action_digest"] = digest(part["action"]).hex()

    _edit(line, "part_a", change)
    return "audit.verdict", _decision(line)  # the consent is bound to other arguments: evaluated again it is a deny


def _deny_to_allow(content: Content) -> tuple[str, str]:
    """A refusal that should have been an allow."""
    line = _records(content, "deny")[0]
    _edit(line, "part_b", lambda part: part.update(verdict="allow", reason_codes=["policy.permitted"]))
    return "audit.verdict", _decision(line)


def _allow_to_deny(content: Content) -> tuple[str, str]:
    """An allow that should have been a refusal."""
    line = _records(content, "allow")[0]
    _edit(line, "part_b", lambda part: part.update(verdict="deny", reason_codes=["policy.forbidden"], hold_id=None))
    return "audit.verdict", _decision(line)


def _evaluated(content: Content) -> tuple[str, str]:
    """A refusal that says of itself that the policy allowed."""
    line = _records(content, "deny")[0]
    _edit(line, "part_a", lambda part: part["evaluated"].update(verdict="allow", code="policy.permitted"))
    return "audit.verdict", _decision(line)


def _trace(content: Content) -> tuple[str, str]:
    """Another trace than the evaluation leaves."""
    line = _records(content, "allow")[0]
    _edit(line, "part_a", lambda part: part["trace"].pop())
    return "audit.verdict", _decision(line)


def _policy(content: Content) -> tuple[str, str]:
    """A policy in place of the one that decided, under its name."""
    line = _of(content, "policy", policy_hash=orjson.loads(_records(content, "allow")[0]["part_a"])["policy_hash"])
    (line["form"] if isinstance(line["form"], list) else line["form"]["rules"]).pop()
    return "audit.policy_hash", f"policy {line['policy_hash']}"


def _other_policy(content: Content) -> tuple[str, str]:
    """A record that cites another policy, which would have decided otherwise."""
    line = _records(content, "deny")[-1]
    mine = orjson.loads(line["part_a"])
    other = next(
        each["policy_hash"]
        for each in content
        if each["type"] == "policy" and each["engine"] == mine["engine"] and each["policy_hash"] != mine["policy_hash"]
    )
    _edit(line, "part_a", lambda part: part.update(policy_hash=other))
    return "audit.verdict", _decision(line)


def _engine(content: Content) -> tuple[str, str]:
    """A record of an engine that nobody knows."""
    line = _records(content, "allow")[0]
    _edit(line, "part_a", lambda part: part.update(engine="rules/3"))
    return "audit.engine", _decision(line)


def _fact(content: Content) -> tuple[str, str]:
    """Facts on which it would have come out otherwise."""
    line = _records(content, "allow")[0]
    _edit(line, "part_a", lambda part: part["facts"]["principal"].update(role="another"))
    _edit(line, "part_a", lambda part: part["facts"].update({"known": False} if "known" in part["facts"] else {}))
    return "audit.verdict", _decision(line)


def _tenant(content: Content) -> tuple[str, str]:
    """A record of another tenant."""
    line = _records(content, "allow")[0]
    _edit(line, "part_a", lambda part: part["subject"].update(tenant_id="01900000-0000-7000-8000-000000000001"))
    return "audit.record", _decision(line)


def _moved_approval(content: Content) -> tuple[str, str]:
    """A consent that was given for one action is used for another of the same arguments, in another step."""
    line = _consented(content)
    _of(content, "approval", approval_id=_used(line)["approval_id"])["step"] += 2
    return "audit.approval", _decision(line)


def _no_vote(content: Content) -> tuple[str, str]:
    """A consent that nobody gave: the record of it is gone."""
    line = _consented(content)
    binding = _used(line)["binding"]
    vote = next(each for each in content if each.get("kind") == "approval" and binding in each["part_a"])
    content.remove(vote)
    return "audit.approval", _decision(line)


def _own_vote(content: Content) -> tuple[str, str]:
    """A consent by the one who asked."""
    line = _consented(content)
    part = orjson.loads(line["part_a"])
    vote = next(each for each in content if each.get("kind") == "approval" and _used(line)["binding"] in each["part_a"])
    _edit(vote, "part_a", lambda a: a["facts"]["subject"].update(user_id=part["subject"]["user_id"]))
    return "audit.approval", _decision(line)


def _late_vote(content: Content) -> tuple[str, str]:
    """A consent that came after it was used: back-dated the action, or the consent."""
    line = _consented(content)
    _edit(line, "part_b", lambda part: part.update(time_ms=part["time_ms"] - 60_000))
    return "audit.approval", _decision(line)


def _refused_vote(content: Content) -> tuple[str, str]:
    """An approval that was denied, and stands as given."""
    line = next(each for each in content if each["type"] == "approval" and each["verdict"] == "denied")
    line["verdict"] = "approved"
    return "audit.approval", f"approval {line['approval_id']}"


def _used_twice(content: Content) -> tuple[str, str]:
    """One consent, two executions."""
    line = _consented(content)
    again = orjson.loads(orjson.dumps(line))
    again["decision_id"] = line["decision_id"][:-4] + "ffff"
    _edit(again, "part_b", lambda part: part.update(decision_id=again["decision_id"]))
    content.insert(content.index(line) + 1, again)
    return "audit.approval", _decision(line)


def _no_hold(content: Content) -> tuple[str, str]:
    """An allow of whose hold nothing is said."""
    line = _records(content, "allow")[0]
    content.remove(_of(content, "hold", decision_id=line["decision_id"]))
    return "audit.outcome", _decision(line)


def _no_allow(content: Content) -> tuple[str, str]:
    """Something was executed, and the record that allowed it is gone."""
    line = _records(content, "allow")[0]
    content.remove(line)
    return "audit.outcome", f"hold {_of(content, 'hold', decision_id=line['decision_id'])['hold_id']}"


def _no_outcome(content: Content) -> tuple[str, str]:
    """An execution without an outcome."""
    line = next(each for each in content if each["type"] == "hold" and each["outcome"] is not None)
    line["outcome"] = None
    return "audit.outcome", f"hold {line['hold_id']}"


def _other_action(content: Content) -> tuple[str, str]:
    """What was executed is another action than the one that was allowed."""
    line = _records(content, "allow")[0]
    _of(content, "hold", decision_id=line["decision_id"])["digest"] = "00" * 32
    return "audit.outcome", _decision(line)


def _paid(content: Content) -> Content:
    return [
        each
        for each in content
        if each["type"] == "journal" and each["kind"] == "commit" and each["cost_nano_usd"] != "0"
    ]


def _cheaper(content: Content) -> tuple[str, str]:
    """A cost that was made smaller wherever it stands: what the next decision read does not fit any more."""
    entry = _paid(content)[0]
    entry["cost_nano_usd"] = str(int(entry["cost_nano_usd"]) - 1)
    for leg in entry["legs"]:
        if leg["committed"] != "1":
            leg["committed"] = str(int(leg["committed"]) - 1)
    _of(content, "hold", hold_id=entry["hold_id"])["cost_nano_usd"] = entry["cost_nano_usd"]
    money = {each["cap_id"] for each in content if each["type"] == "cap" and each["unit"] == "nano_usd"}
    following = content[content.index(entry) + 1 :]
    nxt = next(
        each for each in following if each["kind"] == "reserve" and {leg["cap_id"] for leg in each["legs"]} & money
        and each["hold_id"] in {hold["hold_id"] for hold in content if hold["type"] == "hold" and hold["kind"] != "run.budget"}
    )  # fmt: skip
    return "audit.balance", f"decision {_of(content, 'hold', hold_id=nxt['hold_id'])['decision_id']}"


def _dropped_entry(content: Content) -> tuple[str, str]:
    """A payment that is not in the journal."""
    entry = _paid(content)[0]
    content.remove(entry)
    return "audit.balance", f"hold {entry['hold_id']}"


def _closing(content: Content) -> tuple[str, str]:
    """A cap that says another balance than its journal."""
    line = next(each for each in content if each["type"] == "cap" and each["closing"] and each["unit"] == "nano_usd")
    line["closing"]["committed"] = str(int(line["closing"]["committed"]) + 1)
    return "audit.balance", f"cap {line['cap_id']}"


def _over_limit(content: Content) -> tuple[str, str]:
    """An allow that went over a cap."""
    line = _records(content, "allow", "llm.call")[0]
    _edit(line, "part_b", lambda part: part["legs"][0].update(limit="1"))
    return "audit.balance", _decision(line)


def _other_unit(content: Content) -> tuple[str, str]:
    """A cap of money that calls itself one of calls, which nobody would have charged with what an action costs."""
    return _renamed(content, unit="calls")


def _other_scope(content: Content) -> tuple[str, str]:
    """A cap that calls itself somebody else's."""
    return _renamed(content, scope_kind="project", scope_id="another")


def _other_window(content: Content) -> tuple[str, str]:
    """A cap that calls itself one that begins anew each day."""
    return _renamed(content, window="day")


def _renamed(content: Content, **members: str) -> tuple[str, str]:
    read = {
        leg["cap_id"] for line in _records(content, "allow", "llm.call") for leg in orjson.loads(line["part_b"])["legs"]
    }
    line = next(
        each for each in content if each["type"] == "cap" and each["unit"] == "nano_usd" and each["cap_id"] in read
    )
    line |= members
    return "audit.balance", f"cap {line['cap_id']}"


def _denied_of_another(content: Content) -> tuple[str, str]:
    """A refusal that says it had read a cap in another unit."""
    line = next(line for line in _records(content, "deny") if orjson.loads(line["part_b"])["legs"])
    _edit(line, "part_b", lambda part: part["legs"][0].update(unit="slots"))
    return "audit.balance", f"cap {orjson.loads(line['part_b'])['legs'][0]['cap_id']}"


def _no_window(content: Content) -> tuple[str, str]:
    """A decision with a window that is none."""
    line = _records(content, "allow", "llm.call")[0]
    _edit(line, "part_b", lambda part: part["legs"][0].update(window=[]))
    return "audit.record", _decision(line)


FORGERIES: Final[tuple[Forgery, ...]] = (
    _arguments, _deny_to_allow, _allow_to_deny, _evaluated, _trace, _policy, _other_policy, _engine, _fact, _tenant, _moved_approval,
    _no_vote, _own_vote, _late_vote, _refused_vote, _used_twice, _no_hold, _no_allow, _no_outcome, _other_action, _cheaper,
    _dropped_entry, _closing, _over_limit, _other_unit, _other_scope, _other_window, _denied_of_another,
    _no_window,
)  # fmt: skip


def forged(content: list[Line], forgery: Forgery) -> tuple[list[Line], str, str]:
    """Returns forged content, and the code and subject of what has to be found."""
    copy: Content = orjson.loads(orjson.dumps(content))
    code, subject = forgery(copy)
    return list(copy), code, subject
