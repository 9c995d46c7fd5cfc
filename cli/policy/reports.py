"""What the commands on policies print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from cli.policy.files import PolicyFile
from cli.terminal import styled
from cli.text import columns, json_line, one_line
from holdfast_verdict.check.explaining import Asked, Considered, Explanation
from holdfast_verdict.check.finding import Example, Finding, Place, Report
from holdfast_verdict.engine.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from cli.policy.running import Line
    from holdfast_verdict.check.playing import Result

_STYLES: Final = {"allow": "green", "deny": "red", "needs_approval": "yellow"}
_CHANGES: Final = {"newly-allowed": "newly allowed", "newly-denied": "newly denied", "newly-gated": "newly gated"}


def _at(file: PolicyFile, place: Place | None) -> str:
    return f"{file.path}:{place.line}" if place is not None and place.line else str(file.path)


def _example(example: Example) -> Iterator[str]:
    about = example.to_json()
    yield f"    example: {about['action']} {json_line(about['args'])} as {about['role']}"
    for key in ("labels", "released", "origins", "history", "clocks", "estimate"):
        if key in about:
            yield f"      {key}: {json_line(about[key])}"
    decided = [
        f"{verdict} ({code}{f', {rule}' if rule else ''})"
        for verdict, code, rule in zip(example.verdicts, example.codes, example.rules, strict=True)
    ]
    yield f"      decided: {' → '.join(decided)}"


def _body(finding: Finding, file: PolicyFile) -> Iterator[str]:
    if finding.others:
        yield f"    with: {', '.join(f'{other.rule_id} (line {other.line})' for other in finding.others)}"
    if finding.example is not None:
        yield from _example(finding.example)
    if finding.standing == "unconfirmed":
        yield "    unconfirmed: the engine decides otherwise than this check expects; please report it"
    if finding.remedy:
        yield f"    to do: {finding.remedy}"


def check_lines(file: PolicyFile, report: Report) -> Iterator[str]:
    """Yields what a check found."""
    for finding in report.findings:
        yield f"{_at(file, finding.place)}: {styled(finding.kind, 'yellow')}: {finding.message}"
        yield from _body(finding, file)
    for each in report.undecided:
        yield f"{file.path}: not decided: {each}"
    among = "" if file.catalogue_path is None else f", with the actions of {file.catalogue_path}"
    count = len(report.findings)
    found = "nothing found" if not count else f"{count} finding{'s' if count > 1 else ''}"
    yield f"{file.path}: {found} in {len(file.policy.rules)} rules{among}"


def diff_lines(old: PolicyFile, new: PolicyFile, report: Report) -> Iterator[str]:
    """Yields what a change does."""
    for finding in report.findings:
        side = new if finding.example is not None and finding.example.rules[1] else old
        yield f"{_at(side, finding.place)}: {styled(_CHANGES[finding.kind], 'yellow')}: {finding.message}"
        yield from _body(finding, side)
    for each in report.undecided:
        yield f"not decided: {each}"
    if not report.findings and not report.undecided:
        yield "no difference: both decide everything alike"


def test_lines(path: Path, results: Sequence[Result]) -> Iterator[str]:
    """Yields how the cases of one policy came out."""
    yield str(path)
    for result in results:
        mark = styled("ok", "green") if result.passed else styled("FAILED", "red")
        yield f"  {mark}  {one_line(result.case.name)}"
        for number, played in enumerate(result.steps, 1):
            if not played.differences:
                continue
            where = f"step {number}, " if len(result.case.steps) > 1 else ""
            yield f"      {where}{played.step.action} {json_line(played.step.arguments)}"
            for difference in played.differences:
                yield f"      {difference}"
            verdict = played.verdict
            yield f"      decided: {verdict.verdict} {verdict.code} {verdict.rule_id}: {one_line(verdict.message)}"
            for looked in verdict.trace:
                yield f"        {one_line(str(looked))}"


def test_sum(results: Sequence[Result]) -> str:
    """Returns the last line of all cases."""
    failed = sum(not result.passed for result in results)
    return f"{len(results)} cases, {failed} failed" if failed else f"{len(results)} cases, all as expected"


def explain_lines(explanation: Explanation) -> Iterator[str]:
    """Yields why an action is decided as it is."""
    verdict = explanation.verdict
    yield f"{styled(verdict.verdict, _STYLES[verdict.verdict])}  {verdict.code}: {one_line(verdict.message)}"
    if explanation.decided is not None:
        yield "decided by"
        yield from _considered(explanation.decided)
    if explanation.nearly:
        yield "nearly decided by"
        for rule in explanation.nearly:
            yield from _considered(rule)
    told = {verdict.rule_id, *(rule.rule_id for rule in explanation.nearly)}
    rest = [rule for rule in explanation.rules if rule.rule_id not in told]
    if rest:
        yield "looked at"
        for rule in rest:
            yield from _considered(rule)


def recorded_lines(told: Mapping[str, Any]) -> Iterator[str]:  # Any: JSON, as the server answers
    """Yields why a recorded decision was decided as it was, in the same words."""
    version = (
        f"version {told['policy_version']} of the policy" if told["policy_version"] else "no kept version of the policy"
    )
    yield f"decided at {told['decided_at']} by {version}"
    yield from explain_lines(_explanation_of(told))
    yield from map(one_line, told["notes"])
    if told["cannot"]:
        yield "what cannot be said"
        yield from (f"  {one_line(each)}" for each in told["cannot"])


def _explanation_of(told: Mapping[str, Any]) -> Explanation:  # Any: as above
    rules = [
        Considered(
            rule["rule_id"],
            rule["line"],
            rule["effect"],
            rule["fires"],
            tuple(
                Asked(each["condition"], each["holds"], tuple(each["values"].items())) for each in rule["conditions"]
            ),
        )
        for rule in told["rules"]
    ]
    return Explanation(Verdict(told["verdict"], told["code"], told["message"], told["rule_id"]), tuple(rules))


def _considered(rule: Considered) -> Iterator[str]:
    line = f" (line {rule.line})" if rule.line else ""
    yield f"  {rule.effect} {rule.rule_id}{line} {'fires' if rule.fires else 'does not fire'}"
    for asked in rule.conditions:
        answer = {True: "true", False: "false", None: "unknown"}[asked.truth]
        values = ", ".join(f"{name} = {json_line(_plain(value))}" for name, value in asked.values)
        yield f"    {answer:7}  {one_line(asked.words)}{f'   [{values}]' if values else ''}"


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | bool | list | dict | None) else str(value)


def simulation_lines(lines: Sequence[Line]) -> Iterator[str]:
    """Yields a table of what was decided on each action of a sequence."""
    rows = [["line", "time (UTC)", "action", "verdict", "code", "rule", "outcome"]]
    for each in lines:
        verdict = each.played.verdict
        outcome = each.played.step.outcome if verdict.allowed else ""
        rows.append(
            [
                str(each.number),
                each.time,
                each.played.step.action,
                verdict.verdict,
                verdict.code,
                verdict.rule_id,
                outcome,
            ]
        )
    yield from columns(rows)
    for each in lines:
        if not each.played.verdict.allowed:
            yield f"line {each.number}: {one_line(each.played.verdict.message)}"
        yield from (f"line {each.number}: {difference}" for difference in each.differences)
