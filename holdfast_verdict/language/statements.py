"""Statements as lines of text: one line if it fits, else a line for each clause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from holdfast_verdict.language import syntax as s
from holdfast_verdict.language import wording as w

WIDTH: Final = 100
INDENT: Final = "  "


def lines_of(node: s.Statement | s.SetStatement, width: int = WIDTH) -> list[str]:
    """Returns the lines of a statement, without the indentation of the block it stands in."""
    if isinstance(node, s.SetStatement):
        return _set(node, width)
    if isinstance(node, s.Invariant):
        return [f"invariant {w.name(node.name)}:", *_indented(_laid_out(_clauses(node.body), width - len(INDENT)))]
    if isinstance(node, s.GateStatement):
        body = _laid_out(_gate_body(node), width - len(INDENT))
        needs = _laid_out([*_needs(node), *_ending(node.ending)], width - len(INDENT))
        return [f"gate {w.name(node.name)}:", *_indented([*body, *needs])]
    return _laid_out(_clauses(node), width)


def fact(node: s.UnitOf | s.YieldsOf | s.Name) -> str:
    """Returns one line of an action's declaration."""
    if isinstance(node, s.Name):
        return w.name(node)
    if isinstance(node, s.YieldsOf):
        return f"{_field(node.field)}yields {w.names(node.labels)}"
    return f"{w.value(node.value)} is {' '.join(map(w.name, node.words))}"


def _field(name: s.Name | None) -> str:
    return "" if name is None else f"field {w.name(name)} "


def _indented(lines: Sequence[str]) -> list[str]:
    return [INDENT + line for line in lines]


def _laid_out(clauses: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lays out clauses; each is its first line, and how it goes on if it has to be broken."""
    whole = " ".join(" ".join(clause) for clause in clauses)
    if len(whole) <= width:
        return [whole]
    lines: list[str] = []
    for number, clause in enumerate(clauses):
        indent = INDENT if number else ""
        joined = indent + " ".join(clause)
        if len(joined) <= width:
            lines.append(joined)
        else:
            lines += [indent + clause[0], *(indent + INDENT + more for more in clause[1:])]
    return lines


def _set(node: s.SetStatement, width: int) -> list[str]:
    value = node.value
    whole = f"set {w.name(node.name)} = {w.matchers(value)}"
    if len(whole) <= width or not isinstance(value, s.Members):
        return [whole]
    rows = [f"{w.member(member)}," for member in value.members]
    return [f"set {w.name(node.name)} = [", *_indented(rows), "]"]


Clause = list[str]


def _condition(word: str, node: s.Condition | None) -> list[Clause]:
    if node is None:
        return []
    if isinstance(node, s.Joined):
        first, *rest = (w.part(part) for part in node.parts)
        return [[f"{word} {first}", *(f"{node.word} {part}" for part in rest)]]
    return [[f"{word} {w.condition(node)}"]]


def _guard(guard: s.Guard, word: str = "where") -> list[Clause]:
    return [*_condition(word, guard.where), *_condition("unless", guard.unless)]


def _ending(ending: s.Ending) -> list[Clause]:
    clauses = [] if ending.name is None else [[f"as {w.name(ending.name)}"]]
    if ending.code is not None:
        clauses.append([f"{w.name(ending.code.word)} {w.text(ending.code.text.value)}"])
    return clauses if ending.because is None else [*clauses, [f"because {w.text(ending.because.value)}"]]


def _reach(reach: s.Reach) -> list[Clause]:
    words = [f"within {span.text}" for span in reach.within] + [f"per {scope.text}" for scope in reach.scope]
    if reach.same:
        pairs = [
            w.value(pair.present) + ("" if pair.past is None else f" == its {w.value(pair.past)}")
            for pair in reach.same
        ]
        words.append(f"with same {', '.join(pairs)}")
    return [[" ".join(words)]] if words else []


def _past(word: str, past: s.Past) -> list[Clause]:
    event = "" if past.event is None else past.event.text
    how = " ".join([event, *(each for (each,) in _reach(past.reach))])
    return [[f"{word} {w.names(past.actions)}"], *_guard(past.guard), *([[how.strip()]] if how.strip() else [])]


def _clauses(node: s.Statement | s.Requires) -> list[Clause]:
    match node:
        case s.Permit():
            return [[f"permit {w.names(node.actions)}"], *_targets(node), *_guard(node.guard), *_ending(node.ending)]
        case s.Forbid():
            after = [] if node.after is None else _past("after", node.after)
            return [[f"forbid {w.names(node.actions)}"], *_guard(node.guard, "when"), *after, *_ending(node.ending)]
        case s.Requires():
            past = _past("requires", node.past)
            return [[w.names(node.actions)], *_guard(node.guard), *past, *_ending(node.ending)]
        case s.AtMost():
            counted = f"at most {w.number(node.count)} {w.names(node.actions)}"
            return [[counted], *_guard(node.guard), *_reach(node.reach), *_ending(node.ending)]
        case s.Total():
            summed = [f"sum({w.value(node.of)}) of {w.names(node.actions)}"]
            ceiling = [f"<= {w.value(node.ceiling)}"]
            return [summed, *_guard(node.guard), ceiling, *_reach(node.reach), *_ending(node.ending)]
        case s.Limit():
            return _limit(node)
        case s.LabelStatement():
            labelled = [f"label {w.names(node.actions)}{' ' + _field(node.field).rstrip() if node.field else ''}"]
            return [labelled, *_guard(node.guard), [f"yields {w.names(node.labels)}"]]
        case _:
            raise AssertionError(f"{type(node).__name__} has a layout of its own")


def _targets(node: s.Permit) -> list[Clause]:
    words = [f"{word.text} {w.members(members)}" for word, members in node.targets]
    return [[f"to {words[0]}", *words[1:]]] if words else []


def _limit(node: s.Limit) -> list[Clause]:
    per = " ".join("in total" if each.word == "total" else f"per {each.word}" for each in node.per)
    ceiling = f"<= {w.value(node.ceiling)} {per}"
    if node.measure.text in ("count", "sum"):
        head = [[f"limit {w.names(node.actions)}"], *_guard(node.guard)]
        measure = "count" if node.of is None else f"sum({w.value(node.of)})"
        return [*head, [f"{measure} {ceiling}"], *_ending(node.ending)]
    only = f" of {w.names(node.actions)}" if node.actions else ""
    return [[f"limit {node.measure.text}{only}"], *_guard(node.guard), [ceiling], *_ending(node.ending)]


def _gate_body(node: s.GateStatement) -> list[Clause]:
    return [[w.names(node.actions)], *_guard(node.guard)]


def _needs(node: s.GateStatement) -> list[Clause]:
    terms = [f"{w.number(need.count)} of {w.who(need.who)}" for need in node.needs]
    terms += [f"expires {span.text}" for span in node.expires]
    terms += ["not requester"] if node.not_requester else []
    terms += [
        f"escalate to {w.number(later.to.count)} of {w.who(later.to.who)} after {later.after.text}"
        for later in node.escalates
    ]
    return [
        [f"needs {terms[0]}{',' if len(terms) > 1 else ''}", *(f"{term}," for term in terms[1:-1]), *terms[1:][-1:]]
    ]
