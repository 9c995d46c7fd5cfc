"""What a policy has to pass before it is stored: its language, the tenant's actions, and the cases that come with it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from holdfast.errors import HoldfastError, RequestInvalid
from holdfast.policies.clocks import clocks
from holdfast_verdict import Catalogue, Policy, PolicyRefused, compile_policy
from holdfast_verdict.actions import ActionRefused
from holdfast_verdict.check.cases import CasesInvalid, read_cases, read_request
from holdfast_verdict.check.explaining import Explanation, explain
from holdfast_verdict.check.playing import Result, Unplayable, play, prepare, propose, session_of


class PolicyInvalid(HoldfastError):
    """A policy is not well-formed or not well-typed.

    Attributes:
        problems: Everything that is wrong with it, as JSON.
    """

    code: ClassVar[str] = "policy.refused"
    status: ClassVar[int] = 422

    def __init__(self, message: str, problems: Sequence[Mapping[str, Any]], *, remedy: str = "") -> None:  # Any: JSON
        super().__init__(message, remedy=remedy)
        self.problems = problems


class PolicyCasesFailed(PolicyInvalid):
    """A policy decides otherwise than the cases that came with it expect."""

    code: ClassVar[str] = "policy.cases_failed"


def compiled(source: str, catalogue: Catalogue, file: str = "policy") -> Policy:
    """Compiles a policy against the actions that there are.

    Raises:
        PolicyInvalid: It is not well-formed or not well-typed.
    """
    try:
        return compile_policy(source, catalogue, file=file)
    except PolicyRefused as refused:
        raise PolicyInvalid(
            "\n".join(["the policy cannot be used:", *map(str, refused.problems)]),
            [problem.to_json() for problem in refused.problems],
        ) from None


def played(policy: Policy, cases: str, catalogue: Catalogue) -> list[Result]:
    """Plays cases.

    Args:
        policy: The policy.
        cases: The text of a cases file.
        catalogue: The actions there are.

    Raises:
        RequestInvalid: They have not the documented form.
    """
    try:
        document = tomllib.loads(cases)
        return [play(policy, case, catalogue, clocks) for case in read_cases(document).cases]
    except tomllib.TOMLDecodeError as error:
        raise RequestInvalid(f"cases: this is not TOML: {error}") from None
    except (CasesInvalid, Unplayable) as error:
        raise RequestInvalid(f"cases: {error}", remedy="docs/how-to/check-a-policy.md shows the form") from None


def require_passed(results: Sequence[Result]) -> None:
    """Makes sure that all cases came out as expected.

    Raises:
        PolicyCasesFailed: One did not.
    """
    failed = [result for result in results if not result.passed]
    if not failed:
        return
    lines = [
        f"case {result.case.name!r}: {step.step.action}: {difference}"
        for result in failed
        for step in result.steps
        for difference in step.differences
    ]
    raise PolicyCasesFailed(
        "\n".join([f"{len(failed)} of {len(results)} cases failed, so the policy was not stored:", *lines]),
        [result.to_json() for result in failed],
        remedy="mend the policy, or the cases if they ask for what is no longer meant",
    )


def explained(policy: Policy, request: Mapping[str, object], catalogue: Catalogue) -> Explanation:
    """Says which rule decides on an action and which nearly did.

    Args:
        policy: The policy.
        request: The action and what is known, with the keys of a case.
        catalogue: The actions there are.

    Raises:
        RequestInvalid: The request has not the documented form.
    """
    try:
        case = read_request(request, "the request")
    except CasesInvalid as error:
        raise RequestInvalid(str(error), remedy="docs/how-to/check-a-policy.md shows the keys") from None
    session = session_of(policy, catalogue, dict(case.principal), case.at_ms, clocks)
    step = case.steps[0]
    try:
        prepare(session, policy, step)
    except ActionRefused as refused:
        raise RequestInvalid(f"the request: {refused}") from None
    try:
        action = catalogue.action(step.action, step.arguments)
    except ActionRefused:
        return Explanation(propose(session, step), ())  # denied for its form: no rule was looked at
    facts = session.facts(step.estimate)
    return explain(policy, action, facts, propose(session, step))
