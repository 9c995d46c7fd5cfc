"""Plays cases, requests and sequences through the deciding core."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from cli.policy import files
from holdfast.errors import RequestInvalid
from holdfast.policies.clocks import clocks
from holdfast_verdict import PolicyRefused, format_policy
from holdfast_verdict.actions import ActionRefused
from holdfast_verdict.check.anything import ANYTHING
from holdfast_verdict.check.cases import Case, CasesInvalid, read_request
from holdfast_verdict.check.explaining import Explanation, explain
from holdfast_verdict.check.playing import (
    Played,
    Result,
    Unplayable,
    conclude,
    differences,
    play,
    prepare,
    propose,
    session_of,
)

if TYPE_CHECKING:
    from holdfast_verdict import Policy


def play_file(path: Path, actions: Path | None) -> list[Result]:
    """Plays the cases beside a policy.

    Raises:
        NotFound: It has none.
        RequestInvalid: The case file has not the documented form.
    """
    cases_path = files.beside(path, ".cases.toml")
    case_file = files.read_cases(cases_path)
    if actions is None and case_file.actions:
        actions = cases_path.parent / case_file.actions
    file = files.read_policy(path, actions)
    try:
        return [play(file.policy, case, file.catalogue, clocks) for case in case_file.cases]
    except Unplayable as error:
        raise RequestInvalid(f"{cases_path}: {error}") from None


def laid_out(text: str, path: Path) -> str:
    """Returns a policy's text in the one layout.

    Raises:
        PolicyUnusable: It cannot be parsed.
    """
    try:
        return format_policy(text, str(path))
    except PolicyRefused as refused:
        raise files.PolicyUnusable(refused.problems, path) from None


def _only_role(policy: Policy, role: str | None, given: object) -> str | None:
    if role is not None or given is not None:
        return role
    return next(iter(policy.roles)) if len(policy.roles) == 1 else None


def _request(policy: Policy, about: object, where: str, role: str | None) -> Case:
    if not isinstance(about, Mapping):
        raise RequestInvalid(
            f"{where} is no object", remedy='write {"action": "payment.refund", "args": {"amount": 50}}'
        )
    named = about.get("role") or (
        about["principal"].get("role") if isinstance(about.get("principal"), Mapping) else None
    )
    chosen = _only_role(policy, role, named)
    try:
        case = read_request({**about, **({} if chosen is None else {"role": chosen})}, where)
    except CasesInvalid as error:
        raise RequestInvalid(str(error)) from None
    if "role" not in case.principal:
        raise RequestInvalid(
            f"{where} does not say which role acts",
            remedy=f"add --role with one of {', '.join(policy.roles) or 'its roles'}",
        )
    return case


def decision_id_of(argument: Path) -> str | None:
    """Returns the id of a decision that stands in place of a file, if it is one."""
    try:
        found = UUID(str(argument))
    except ValueError:
        return None
    return None if argument.exists() else str(found)


def explain_request(file: files.PolicyFile, request: str, role: str | None) -> Explanation:
    """Explains the decision on a request.

    Args:
        file: The policy.
        request: A file, `-`, or JSON itself.
        role: The role that acts, if the request does not say.

    Raises:
        RequestInvalid: The request has not the documented form, or no canonical form.
    """
    about: Any  # JSON of any form, looked at below
    if request.lstrip().startswith("{"):
        try:
            about = json.loads(request)
        except json.JSONDecodeError as error:
            raise RequestInvalid(f"the request is not JSON: {error.msg} (column {error.colno})") from None
    else:
        about = files.read_document(Path(request))
    case = _request(file.policy, about, "the request", role)
    session = session_of(file.policy, file.catalogue, dict(case.principal), case.at_ms, clocks)
    step = case.steps[0]
    try:
        prepare(session, file.policy, step)
        action = (file.catalogue or ANYTHING).action(step.action, step.arguments)
    except ActionRefused as refused:
        verdict = propose(session, step)
        if verdict.code.startswith("action."):
            return Explanation(verdict, ())
        raise RequestInvalid(f"the request: {refused}") from None
    facts = session.facts(step.estimate)
    return explain(file.policy, action, facts, propose(session, step))


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a sequence as it came out.

    Attributes:
        number: Its line in the file.
        at_ms: When.
        played: What was decided.
    """

    number: int
    at_ms: int
    played: Played

    @property
    def differences(self) -> tuple[str, ...]:
        """In which ways it is not what the line expects."""
        return self.played.differences

    @property
    def time(self) -> str:
        """When, as people write it."""
        return f"{datetime.fromtimestamp(self.at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        verdict = self.played.verdict
        return {
            "line": self.number,
            "at": f"{datetime.fromtimestamp(self.at_ms / 1000, UTC).isoformat()}",
            "action": self.played.step.action,
            "verdict": verdict.verdict,
            "code": verdict.code,
            "rule_id": verdict.rule_id,
            "message": verdict.message,
            "outcome": self.played.step.outcome if verdict.allowed else None,
            "differences": list(self.differences),
        }


def simulate(file: files.PolicyFile, text: str, name: str, role: str | None) -> list[Line]:
    """Plays a sequence through one run.

    Raises:
        RequestInvalid: A line has not the documented form.
    """
    rows = [
        (number, _parsed(line, f"{name}:{number}")) for number, line in enumerate(text.splitlines(), 1) if line.strip()
    ]
    if not rows:
        raise RequestInvalid(
            f"{name} has no line", remedy='write one JSON object a line, such as {"action": "send_email", "args": {}}'
        )
    head = rows[0][1]
    begin = {key: head[key] for key in ("role", "principal", "at") if key in head}
    first = _request(file.policy, {"action": "none", **begin}, f"{name}:{rows[0][0]}", role)
    session = session_of(file.policy, file.catalogue, dict(first.principal), first.at_ms, clocks)
    lines: list[Line] = []
    for number, about in rows:
        where = f"{name}:{number}"
        if number != rows[0][0] and (odd := sorted({"role", "principal", "at"} & about.keys())):
            raise RequestInvalid(f"{where}: {odd[0]} belongs on the first line: it is one run")
        spoken = {key: value for key, value in about.items() if key not in begin or number != rows[0][0]}
        if not spoken:
            continue
        step = _request(file.policy, {"action": "none", **spoken}, where, str(first.principal["role"])).steps[0]
        try:
            prepare(session, file.policy, step)
        except ActionRefused as refused:
            raise RequestInvalid(f"{where}: {refused}") from None
        if "action" not in spoken:
            continue
        verdict = propose(session, step)
        found = tuple(differences(step, verdict)) if "expect" in spoken else ()
        lines.append(Line(number, session.now_ms, Played(step, verdict, found)))
        conclude(session, step, verdict)
    return lines


def _parsed(line: str, where: str) -> Mapping[str, Any]:  # Any: JSON of any form, looked at by its reader
    try:
        about = json.loads(line)
    except json.JSONDecodeError as error:
        raise RequestInvalid(f"{where} is not JSON: {error.msg} (column {error.colno})") from None
    if not isinstance(about, dict):
        raise RequestInvalid(f"{where} is no object")
    return about
