"""Plays cases through the deciding core: what policies, roles' texts and tables were meant to say, before they are put."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cli.project.files import CaseFile, ProjectInvalid, Role, WrittenPolicy
from holdfast.errors import HoldfastError, RequestInvalid
from holdfast.policies.tables import policy_text
from holdfast.tools.toolset import Toolset
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine.deciding import decide
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.language.compiler import compile_policy
from holdfast_verdict.policy import Policy

_PRINCIPAL: Final = {"tenant": "default", "project": "default", "user": "owner", "agent": "agent"}


def play(role: Role, case: CaseFile, tools: Toolset) -> Verdict:
    """Returns what the role's rules decide on the case.

    Args:
        role: The role.
        case: The case.
        tools: All tools that there are: arguments are brought to their form first, as for a real action.
    """
    action: dict[str, JsonValue] = {"kind": "llm.call", "args": dict(case.arguments)}
    if case.tool is not None:
        if case.tool not in tools:
            return Verdict("deny", "action.unknown", f"{case.tool} is no action that this agent has")
        try:
            action = {"kind": "tool.call", "tool": case.tool, "args": tools[case.tool].validate(case.arguments)}
        except RequestInvalid as error:
            return Verdict("deny", "action.malformed", error.message)
    principal = {**_PRINCIPAL, "role": role.name, **case.principal}
    return decide(compile_policy(policy_text({role.name: role.rules})), action, Facts(principal=principal))


def _differs(case: CaseFile, verdict: Verdict) -> bool:
    return verdict.verdict != case.verdict or case.code not in (None, verdict.code)


def failures(role: Role, tools: Toolset) -> Iterator[str]:
    """Yields a sentence for each case that does not come out as it says."""
    for number, case in enumerate(role.cases, 1):
        verdict = play(role, case, tools)
        if _differs(case, verdict):
            expected = case.verdict + (f" with {case.code}" if case.code else "")
            yield (
                f"{role.place}: case {number} ({case.tool or 'llm.call'}): expected {expected}, but the rules say "
                f"{verdict.verdict} with {verdict.code}: {verdict.message}"
            )


def check_policy(written: WrittenPolicy, tools: Toolset) -> tuple[Policy, int]:
    """Compiles a policy against all tools that there will be, plays the cases beside it, and says how many there were.

    Raises:
        ProjectInvalid: It cannot be used, or a case did not come out as it says.
    """
    from holdfast.policies import accepting
    from holdfast.policies.catalogue import catalogue_of

    try:
        catalogue = catalogue_of(tools.values())
        policy = accepting.compiled(written.source, catalogue, written.place)
        played = accepting.played(policy, written.cases, catalogue) if written.cases else []
        accepting.require_passed(played)
    except HoldfastError as error:
        raise ProjectInvalid(f"{written.place}: {error.message}", remedy=error.remedy) from None
    return policy, len(played)


def check(roles: list[Role], tools: Toolset) -> int:
    """Compiles what roles say, plays all their cases and returns how many there were.

    Raises:
        ProjectInvalid: A text cannot be used, or some cases did not come out as they say.
    """
    played = sum(_check_text(role.name, role.text, tools) for role in roles if role.text is not None)
    found = [sentence for role in roles for sentence in failures(role, tools)]
    if found:
        raise ProjectInvalid("\n  ".join(["rules do not decide as their cases say:", *found]))
    return played + sum(len(role.cases) for role in roles)


def _check_text(name: str, said: WrittenPolicy, tools: Toolset) -> int:
    from holdfast.policies.catalogue import catalogue_of
    from holdfast.policies.of_roles import accepted

    _, played = check_policy(said, tools)
    try:
        accepted(name, said.source, "", catalogue_of(tools.values()))
    except HoldfastError as error:
        raise ProjectInvalid(f"{said.place}: {error.message}", remedy=error.remedy) from None
    return played
