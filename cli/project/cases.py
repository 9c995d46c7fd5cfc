"""Plays cases through the deciding core: what policies and roles' texts were meant to say, before they are put."""

from __future__ import annotations

from cli.project.files import ProjectInvalid, Role, WrittenPolicy
from holdfast.errors import HoldfastError
from holdfast.tools.toolset import Toolset
from holdfast_verdict.policy import Policy


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
    return sum(_check_text(role.name, role.text, tools) for role in roles if role.text is not None)


def _check_text(name: str, said: WrittenPolicy, tools: Toolset) -> int:
    from holdfast.policies.catalogue import catalogue_of
    from holdfast.policies.of_roles import accepted

    _, played = check_policy(said, tools)
    try:
        accepted(name, said.source, "", catalogue_of(tools.values()))
    except HoldfastError as error:
        raise ProjectInvalid(f"{said.place}: {error.message}", remedy=error.remedy) from None
    return played
