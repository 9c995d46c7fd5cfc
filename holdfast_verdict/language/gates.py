"""Gates: who has to consent, until when, and who is asked if nobody does."""

from __future__ import annotations

from typing import Final, cast, get_args

from holdfast_verdict.expressions import is_name
from holdfast_verdict.language import syntax as s
from holdfast_verdict.language.declarations import Declared, meant
from holdfast_verdict.language.history import span_of
from holdfast_verdict.policy import MAX_CONSENTS, Escalation, Gate, Need, NeedKind

DEFAULT_EXPIRES_MS: Final = 86_400_000
"""How long consents may take if a gate does not say."""
_KINDS: Final = get_args(NeedKind)


def gate_of(node: s.GateStatement, declared: Declared) -> Gate:
    """Returns what a gate needs; who asked for the run never consents."""
    problems = declared.problems
    needs = [_need(need, declared) for need in node.needs]
    for number, need in enumerate(needs):
        if (need.kind, need.name) in [(other.kind, other.name) for other in needs[:number]]:
            problems.add(f'`{need.kind}("{need.name}")` stands here twice.', node.needs[number].at, "Raise its number.")
    if not needs:
        problems.add(f"The gate `{node.name.text}` needs nobody.", node.at, 'Write `needs 1 of role("…")`.')
    for at in [each.at for each in node.expires[1:]] + [each.at for each in node.escalates[1:]]:
        problems.add("This is said already.", at, "Take one of them out.")
    expires_ms = span_of(node.expires[0], problems) if node.expires else DEFAULT_EXPIRES_MS
    escalate = None
    if node.escalates:
        later = node.escalates[0]
        after_ms = span_of(later.after, problems)
        if after_ms >= expires_ms:
            problems.add(
                "The gate has expired before it escalates.", later.after.at, "Expire later, or escalate earlier."
            )
        escalate = Escalation(after_ms, _need(later.to, declared))
    return Gate(tuple(needs), expires_ms, True, escalate)


def _need(node: s.NeedOf, declared: Declared) -> Need:
    kind, name = node.who.kind, node.who.name
    if kind not in _KINDS:
        declared.problems.add(f"`{kind}` cannot consent.", node.who.at, meant(kind, _KINDS), _KINDS)
        kind = "role"
    if not is_name(name):
        remedy = "A name is a letter, then letters, digits, `-` and `_`."
        declared.problems.add(f'"{name}" is no name.', node.who.at, remedy)
    count = int(node.count.text) if node.count.text.isdigit() and len(node.count.text) <= len(str(MAX_CONSENTS)) else 0
    if not 0 < count <= MAX_CONSENTS:
        declared.problems.add(f"The number is from 1 to {MAX_CONSENTS}.", node.count.at)
        count = 1
    return Need(count, cast("NeedKind", kind), name)
