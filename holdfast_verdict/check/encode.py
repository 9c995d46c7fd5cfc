"""Conditions of a compiled policy as formulas, operator by operator with the engine's own meaning, unknown included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, cast

import z3

from holdfast_verdict.canonical import canonical_bytes
from holdfast_verdict.check.formulas import (
    NO,
    UNKNOWN,
    YES,
    Answer,
    Formula,
    Integer,
    all_of,
    any_of,
    conj,
    disj,
    either,
    guarded,
    neg,
    negated,
)
from holdfast_verdict.check.shape import Kind
from holdfast_verdict.check.world import NANO, Symbol, World
from holdfast_verdict.engine.numbers import NANO_PER
from holdfast_verdict.expressions import to_json
from holdfast_verdict.policy import Watch

Node = tuple[object, ...]

HOLE: Final[Node] = ("arg", "x")
"""Where the text stands in the condition of a predicate."""
_TOTAL_FORMATS: Final[Mapping[str, frozenset[str]]] = {
    "domain": frozenset({"email", "idn-email"}),
    "host": frozenset({"uri", "url", "iri", "hostname", "host", "idn-hostname"}),
}
_ORDERS: Final[Mapping[str, Callable[[Integer, Integer], Formula]]] = {
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}
_NUMBERS: Final = ("hour", "minute", "minute_of_day", "weekday")


@dataclass(frozen=True)
class Term:
    """A value that an expression speaks of.

    Attributes:
        is_: When it is of which kind; of none if it is unknown.
        truth: Its value as a bool.
        nano: Its value as a number, in billionths.
        text: Its value as a text, if that has a number of its own.
        symbol: The symbol that it is, or that it is derived from.
        hole: For what is derived from a text, the value with a hole where the text stands; the hole itself for the text.
        constant: The text that it is, if the policy writes it.
    """

    is_: Mapping[Kind, Formula]
    truth: Formula = False
    nano: Integer = 0
    text: Integer | None = None
    symbol: Symbol | None = None
    hole: Node | None = None
    constant: str | None = None

    def of(self, kind: Kind) -> Formula:
        """Says when it is of a kind."""
        return self.is_.get(kind, False)

    @property
    def known(self) -> Formula:
        """When it is known at all."""
        return disj(*self.is_.values())


_NOTHING: Final = Term({})


@dataclass
class Encoder:
    """Turns the conditions of one policy into formulas over a world.

    Attributes:
        world: The action's unknowns.
        watches: The policy's watches, by id.
        asked: What was asked of which symbol's text since this was last emptied.
    """

    world: World
    watches: Mapping[str, Watch]
    asked: set[tuple[str, Node]] = field(default_factory=set)
    _bound: dict[str, Symbol] = field(default_factory=dict)

    def answer(self, node: Node) -> Answer:
        """Returns when a condition is true, and when it is false."""
        operator, operands = str(node[0]), node[1:]
        match operator:
            case "true":
                return YES
            case "false":
                return NO
            case "and":
                return all_of(self.answer(cast("Node", each)) for each in operands)
            case "or":
                return any_of(self.answer(cast("Node", each)) for each in operands)
            case "not":
                return negated(self.answer(cast("Node", operands[0])))
            case "==":
                return self._equal(self.term(operands[0]), self.term(operands[1]), node)
            case "!=":
                return negated(self._equal(self.term(operands[0]), self.term(operands[1]), node))
            case "<" | "<=" | ">" | ">=":
                return self._ordered(operator, self.term(operands[0]), self.term(operands[1]), node)
            case _:
                return self._of_texts_and_lists(operator, operands, node)

    def _of_texts_and_lists(self, operator: str, operands: Node, node: Node) -> Answer:
        match operator:
            case "in":
                term = self.term(operands[0])
                return guarded(neg(term.of("list")), self._matches(term, _nodes(operands[1])))
            case "all_in" | "any_in" | "none_in":
                return self._membership(operator, self.term(operands[0]), _nodes(operands[1]))
            case "starts" | "ends":
                return self._text_test(operator, self.term(operands[0]), self.term(operands[1]), node)
            case "contains":
                return self._contains(self.term(operands[0]), self.term(operands[1]), node)
            case "present":
                return self._present(cast("Node", operands[0]))
            case "every" | "some":
                return self._quantified(operator, operands)
            case _:
                return self._of_facts(operator, operands)

    def _of_facts(self, operator: str, operands: Node) -> Answer:
        match operator:
            case "from":
                return self._from(cast("Node", operands[0]), operands[1])
            case "only_from":
                return self._from(cast("Node", operands[0]), ("only", operands[1]))
            case "run_has":
                return either(self.world.run_has(str(operands[0])))
            case "released":
                return either(self.world.released(str(operands[0]), str(operands[1])))
            case "happened":
                return guarded(self._same_known(operands[0]), either(self._watch(operands[0]) > 0))
            case "count<=":
                fits = self._watch(operands[0]) + 1 <= operands[1]
                return guarded(self._same_known(operands[0]), either(fits))
            case "sum<=":
                present = self.term(operands[1])
                amount = z3.If(present.nano > 0, present.nano, 0)
                fits = self._watch(operands[0]) * NANO + amount <= cast("int", operands[2]) * NANO
                return guarded(conj(self._same_known(operands[0]), present.of("number")), either(fits))
        raise ValueError(f"there is no condition {operator!r}")

    def term(self, node: object) -> Term:
        """Returns what a value is."""
        operator, operands = str(cast("Node", node)[0]), cast("Node", node)[1:]
        match operator:
            case "arg" | "var":
                return self._read(self._symbol(cast("Node", node)))
            case "principal":
                return self._read(self.world.who(str(operands[0])))
            case "bytes" | "chars":
                return self._length(operator, self.term(operands[0]), node)
            case "size":
                return self._size(self.term(operands[0]), node)
            case "host" | "domain" | "lower":
                return self._derived(operator, self.term(operands[0]))
            case "local":
                return self._local(str(operands[0]), str(operands[1]))
            case "estimate":
                return Term({"number": True}, nano=self.world.estimate(str(operands[0])) * NANO)
            case "as_money":
                return self._money(self.term(operands[0]), str(operands[1]))
            case _:
                return self._constant(operator, operands)

    def _constant(self, operator: str, operands: Node) -> Term:
        match operator, operands:
            case (("int" | "money"), (int(number),)):
                return Term({"number": True}, nano=number * NANO)
            case "number", (str(digits),):
                return Term({"number": True}, nano=int(Fraction(digits) * NANO))
            case "text", (str(words),):
                return Term({"text": True}, text=self.world.number_of(words), constant=words)
            case "bool", (bool(truth),):
                return Term({"bool": True}, truth=truth)
            case "null", ():
                return Term({"null": True})
        raise ValueError(f"there is no value {operator!r}")

    def _symbol(self, node: Node) -> Symbol:
        names = [str(name) for name in node[1:]]
        symbol = self.world.args if node[0] == "arg" else self._bound[names.pop(0)]
        for name in names:
            symbol = self.world.field(symbol, name)
        return symbol

    def _read(self, symbol: Symbol) -> Term:
        return Term(symbol.is_, symbol.truth, symbol.nano, symbol.text, symbol, HOLE)

    def _length(self, unit: str, base: Term, node: object) -> Term:
        if base.constant is not None:
            length = len(base.constant) if unit == "chars" else len(base.constant.encode())
            return Term({"number": True}, nano=length * NANO)
        if base.symbol is None or base.hole != HOLE:
            known = base.of("text")
            return Term({"number": known}, nano=self._some_number(node) * NANO)
        return Term({"number": base.of("text")}, nano=self.world.length(base.symbol, unit) * NANO)

    def _size(self, base: Term, node: object) -> Term:
        if base.symbol is None:
            return _NOTHING
        self.world.members_of(base.symbol)
        is_object = base.of("object")
        fields = False if is_object is False else self._some_number(node)
        size = base.symbol.size if fields is False else z3.If(is_object, fields, base.symbol.size)
        return Term({"number": disj(base.of("list"), is_object)}, nano=size * NANO)

    def _some_number(self, node: object) -> Integer:
        number = z3.Int(f"number {canonical_bytes(to_json(node)).decode()}")
        self.world.say(number >= 0)
        self.world.free.setdefault(("number", node), YES)
        return number

    def _derived(self, operator: str, base: Term) -> Term:
        if base.symbol is None or base.hole is None:
            return Term({"text": z3.FreshBool()})
        hole = (operator, base.hole)
        known: Formula = True
        if operator != "lower":
            known = self._asked(("present", hole), base.symbol, total=self._is_total(operator, base)).true
        return Term({"text": conj(base.of("text"), known)}, symbol=base.symbol, hole=hole)

    def _is_total(self, operator: str, base: Term) -> bool:
        assert base.symbol is not None
        return base.hole == HOLE and base.symbol.shape.format in _TOTAL_FORMATS.get(operator, ())

    def _money(self, base: Term, unit: str) -> Term:
        factor = NANO_PER[unit]
        if factor == 1:  # finer than a nano-dollar is unknown
            whole = base.nano % NANO == 0 if base.symbol is not None and base.symbol.places else True
            return Term({"number": conj(base.of("number"), whole)}, nano=base.nano)
        return Term({"number": base.of("number")}, nano=base.nano * factor)

    def _local(self, zone: str, part: str) -> Term:
        clock = self.world.local(zone)
        if part in _NUMBERS:
            return Term({"number": True}, nano=clock[part] * NANO)
        return Term({"text": True}, text=clock[part], symbol=self.world.symbols[f"{zone} date"], hole=HOLE)

    def _watch(self, watch_id: object) -> Integer:
        return self.world.watch(watch_key(self.watches[str(watch_id)]))

    def _same_known(self, watch_id: object) -> Formula:
        """What past and present action must have in common has to be known of the present one."""
        return conj(*(self.term(present).known for _, present in self.watches[str(watch_id)].same))

    def _asked(self, condition: Node, symbol: Symbol, *, total: bool) -> Answer:
        self.asked.add((symbol.name, condition))
        return self.world.predicate(condition, symbol, total=total)

    def _equal(self, left: Term, right: Term, node: Node) -> Answer:
        numbers = conj(left.of("number"), right.of("number"))
        truths = conj(left.of("bool"), right.of("bool"))
        texts = self._same_text(left, right, node)
        lists = disj(conj(left.of("list"), right.of("list")), conj(left.of("object"), right.of("object")))
        whole = UNKNOWN if lists is False else guarded(lists, self.world.freely(self._key(node)))
        same_number = left.nano == right.nano
        same_truth = left.truth == right.truth
        one_null = disj(
            conj(left.of("null"), right.known, neg(right.of("null"))),
            conj(right.of("null"), left.known, neg(left.of("null"))),
        )
        return Answer(
            disj(
                conj(left.of("null"), right.of("null")),
                conj(numbers, same_number),
                conj(truths, same_truth),
                texts.true,
                whole.true,
            ),
            disj(one_null, conj(numbers, neg(same_number)), conj(truths, neg(same_truth)), texts.false, whole.false),
        )

    def _same_text(self, left: Term, right: Term, node: Node) -> Answer:
        both = conj(left.of("text"), right.of("text"))
        if both is False:
            return UNKNOWN
        if left.text is not None and right.text is not None:
            return guarded(both, either(left.text == right.text))
        derived, other = (left, right) if left.text is None else (right, left)
        if other.constant is not None and derived.symbol is not None and derived.hole is not None:
            condition = ("==", derived.hole, ("text", other.constant))
            return guarded(both, self._asked(condition, derived.symbol, total=derived.hole[0] == "lower"))
        numbers = [self._number(each) for each in (left, right)]
        return guarded(
            both, self.world.freely(self._key(node)) if None in numbers else either(numbers[0] == numbers[1])
        )

    def _number(self, term: Term) -> Integer | None:
        if term.text is not None or term.symbol is None or term.hole is None:
            return term.text
        return self.world.derived(term.hole, term.symbol)

    def _ordered(self, order: str, left: Term, right: Term, node: Node) -> Answer:
        numbers = guarded(conj(left.of("number"), right.of("number")), either(_ORDERS[order](left.nano, right.nano)))
        return self._either_kind(numbers, self._text_question(order, left, right, node))

    def _text_test(self, operator: str, whole: Term, part: Term, node: Node) -> Answer:
        return self._text_question(operator, whole, part, node)

    def _text_question(self, operator: str, left: Term, right: Term, node: Node) -> Answer:
        """A question about two texts: a predicate of the one if the policy writes the other."""
        both = conj(left.of("text"), right.of("text"))
        if both is False:
            return UNKNOWN
        if right.constant is not None and left.symbol is not None and left.hole is not None:
            condition: Node = (operator, left.hole, ("text", right.constant))
            return guarded(both, self._asked(condition, left.symbol, total=left.hole in (HOLE, ("lower", HOLE))))
        if left.constant is not None and right.symbol is not None and right.hole is not None:
            condition = (operator, ("text", left.constant), right.hole)
            return guarded(both, self._asked(condition, right.symbol, total=right.hole in (HOLE, ("lower", HOLE))))
        return guarded(both, self.world.freely(self._key(node)))

    def _either_kind(self, one: Answer, other: Answer) -> Answer:
        return Answer(disj(one.true, other.true), disj(one.false, other.false))

    def _contains(self, whole: Term, part: Term, node: Node) -> Answer:
        in_text = self._text_question("contains", whole, part, node)
        if whole.symbol is None or whole.of("list") is False:
            return in_text
        members = self.world.members_of(whole.symbol)
        in_list = self._any_member(
            (there, self._equal(self._read(member), part, (*node, index)))
            for index, (there, member) in enumerate(members)
        )
        return self._either_kind(in_text, guarded(whole.of("list"), in_list))

    def _any_member(self, answers: Iterable[tuple[Formula, Answer]]) -> Answer:
        return any_of(Answer(conj(there, answer.true), disj(neg(there), answer.false)) for there, answer in answers)

    def _all_members(self, answers: Iterable[tuple[Formula, Answer]]) -> Answer:
        return all_of(Answer(disj(neg(there), answer.true), conj(there, answer.false)) for there, answer in answers)

    def _present(self, node: Node) -> Answer:
        if node[0] not in ("arg", "var"):
            term = self.term(node)
            return Answer(term.known, False)
        names = [str(name) for name in node[1:]]
        symbol = self.world.args if node[0] == "arg" else self._bound[names.pop(0)]
        if not names:
            return either(conj(symbol.there, neg(symbol.is_.get("null", False))))
        false: list[Formula] = []
        reached: Formula = True
        for name in names:
            false.append(conj(reached, disj(neg(symbol.there), symbol.is_.get("null", False))))
            reached = conj(reached, symbol.is_.get("object", False))
            symbol = self.world.field(symbol, name)
        stands = conj(symbol.there, neg(symbol.is_.get("null", False)))
        return Answer(conj(reached, stands), disj(*false, conj(reached, neg(stands))))

    def _quantified(self, operator: str, operands: Node) -> Answer:
        term, variable = self.term(operands[0]), str(operands[1])
        if term.symbol is None or term.hole != HOLE:
            return UNKNOWN
        answers = []
        for there, member in self.world.members_of(term.symbol):
            self._bound[variable] = member
            answers.append((there, self.answer(cast("Node", operands[2]))))
        self._bound.pop(variable, None)
        if operator == "some":
            return guarded(term.of("list"), self._any_member(answers))
        return guarded(conj(term.of("list"), term.symbol.size > 0), self._all_members(answers))

    def _membership(self, operator: str, term: Term, matchers: Sequence[Node]) -> Answer:
        alone = self._matches(term, matchers)
        alone = guarded(disj(term.of("text"), term.of("number")), negated(alone) if operator == "none_in" else alone)
        if term.symbol is None or term.hole != HOLE or term.of("list") is False:
            return alone
        answers = [
            (there, self._matches(self._read(member), matchers)) for there, member in self.world.members_of(term.symbol)
        ]
        is_list = term.of("list")
        if operator == "all_in":
            listed = guarded(conj(is_list, term.symbol.size > 0), self._all_members(answers))
        elif operator == "any_in":
            listed = guarded(is_list, self._any_member(answers))
        else:
            listed = guarded(is_list, negated(self._any_member(answers)))
        return self._either_kind(alone, listed)

    def _matches(self, term: Term, matchers: Sequence[Node]) -> Answer:
        return guarded(term.known, any_of(self._match(term, matcher) for matcher in matchers))

    def _match(self, term: Term, matcher: Node) -> Answer:
        operator, operands = str(matcher[0]), matcher[1:]
        if operator == "is":
            return self._equal(term, self.term(operands[0]), ("in", term.symbol and term.symbol.name, matcher))
        if operator == "range":
            above = self._ordered(">=", term, self.term(operands[0]), ("in", term.symbol and term.symbol.name, matcher))
            below = self._ordered("<=", term, self.term(operands[1]), ("in", term.symbol and term.symbol.name, matcher))
            return all_of((above, below))
        is_text = term.of("text")
        if is_text is False:
            return UNKNOWN
        if term.symbol is None or term.hole is None:
            return guarded(is_text, self.world.freely(("in", str(term.text), matcher)))
        total = operator == "glob" or (operator in ("domain", "host") and self._is_total(operator, term))
        return guarded(is_text, self._asked(("in", term.hole, (matcher,)), term.symbol, total=total))

    def _from(self, node: Node, origin: object) -> Answer:
        while node[0] not in ("arg", "var"):
            node = cast("Node", node[1])
        return self._origin(self._symbol(node), origin)

    def _origin(self, symbol: Symbol, origin: object) -> Answer:
        """Where all leaves are from (`user`, `only_from`), or any of them (all else). A value without leaves is from nowhere."""
        world = self.world
        scalar = conj(symbol.there, neg(symbol.is_.get("list", False)), neg(symbol.is_.get("object", False)))
        parts = [self._either_kind(UNKNOWN, guarded(scalar, self._leaf_origin(symbol, origin)))]
        of_all = _is_of_all(origin)
        join = all_of if of_all else any_of
        if "list" in symbol.shape.kinds:
            members = [(there, self._origin(member, origin)) for there, member in world.members_of(symbol)]
            joined = self._all_members(members) if of_all else self._any_member(members)
            parts.append(guarded(conj(symbol.is_.get("list", False), symbol.size > 0), joined))
        if "object" in symbol.shape.kinds:
            names = dict.fromkeys([*symbol.shape.fields, *symbol.fields]) or ("something",)
            fields = [world.field(symbol, name) for name in names]
            answers = [self._if_there(each, self._origin(each, origin), of_all=of_all) for each in fields]
            some = conj(symbol.is_.get("object", False), disj(*(each.there for each in fields)))
            parts.append(guarded(some, join(answers)))
        return Answer(disj(*(each.true for each in parts)), disj(*(each.false for each in parts)))

    def _if_there(self, symbol: Symbol, answer: Answer, *, of_all: bool) -> Answer:
        gone = neg(symbol.there)
        return (
            Answer(disj(gone, answer.true), answer.false) if of_all else Answer(answer.true, disj(gone, answer.false))
        )

    def _leaf_origin(self, leaf: Symbol, origin: object) -> Answer:
        constant = self.world.is_constant(leaf)
        kinds = {kind: self.world.origin(leaf, kind) for kind in ("user", "tool", "model")}
        if origin == "user":
            return either(conj(neg(constant), kinds["user"], neg(kinds["tool"]), neg(kinds["model"])))
        if isinstance(origin, tuple) and origin[0] == "only":
            return either(disj(constant, self._is_only(leaf, kinds, cast("Sequence[object]", origin[1]))))
        return either(conj(neg(constant), self.world.origin(leaf, origin)))

    def _is_only(self, leaf: Symbol, kinds: Mapping[str, Formula], named: Sequence[object]) -> Formula:
        tools = [("tool", str(each[1])) for each in named if isinstance(each, tuple)]
        of_tool: Formula = "tool" in named
        if tools:
            listed = disj(*(self.world.origin(leaf, tool) for tool in tools))
            strange = disj(
                *(flag for each, flag in leaf.origins.items() if isinstance(each, tuple) and each not in tools)
            )
            of_tool = disj(of_tool, conj(listed, neg(strange)))
        return conj(
            disj("user" in named, neg(kinds["user"])),
            disj("model" in named, neg(kinds["model"])),
            disj(of_tool, neg(kinds["tool"])),
        )

    def _key(self, node: object) -> object:
        bound = tuple(sorted((name, symbol.name) for name, symbol in self._bound.items()))
        return (node, bound)


def _is_of_all(origin: object) -> bool:
    return origin == "user" or (isinstance(origin, tuple) and origin[0] == "only")


def watch_key(watch: Watch) -> object:
    """Returns what two watches share that keep the same, whatever they are called."""
    kept = watch.to_json()
    del kept["id"]
    return canonical_bytes(kept)


def _nodes(operand: object) -> Sequence[Node]:
    return cast("Sequence[Node]", operand)
