"""Looks for a request of which something is so, or for the proof that there is none.

The solver chooses, `texts` finds words for it, the engine has the last word: what it does not confirm is no example. Each time a
choice turns out to be impossible, the solver learns why. What it had to be told without a proof never counts as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import z3

from holdfast_verdict.actions import ActionRefused
from holdfast_verdict.check import texts
from holdfast_verdict.check.formulas import Formula, conj, disj, neg
from holdfast_verdict.check.request import Request
from holdfast_verdict.check.shape import ANY, Kind, Shape
from holdfast_verdict.check.world import OPEN, Symbol, World, place
from holdfast_verdict.engine.facts import LocalTime
from holdfast_verdict.engine.unknown import Truth
from holdfast_verdict.provenance.origin import CONSTANT, Origin

ROUNDS_MAX: Final = 60
DISAGREEMENTS_MAX: Final = 4
SOLVER_MS: Final = 5_000

Confirm = Callable[[Request], bool]
Question = tuple[str, tuple[object, ...]]
"""A symbol's name and a condition on its text."""


@dataclass(frozen=True, slots=True)
class Found:
    """A request of which it is so, as the engine confirms."""

    request: Request


@dataclass(frozen=True, slots=True)
class Impossible:
    """There is none, and these goals alone contradict each other."""

    because: frozenset[str]


@dataclass(frozen=True, slots=True)
class Undecided:
    """Nobody knows: neither an example that the engine confirms nor a proof was found.

    Attributes:
        why: What came in between.
        request: The request that the engine did not confirm, if there was one.
    """

    why: str
    request: Request | None = None


Outcome = Found | Impossible | Undecided


class _Learned(Exception):  # ends one round; never leaves the search
    """The solver's choice was impossible, and it was told why."""


_MISSING: Final = object()


@dataclass(eq=False)
class Search:
    """A solver over one world, which keeps what it has learned.

    Attributes:
        world: The unknowns.
    """

    world: World
    _solver: Any = field(init=False)  # z3 ships no types
    _added: int = 0
    _granted: int = 0
    _guards: dict[object, Any] = field(default_factory=dict)  # the same
    _unproved: list[Any] = field(default_factory=list)  # the same
    _words: dict[texts.Wanted, tuple[str | None, tuple[texts.Node, ...] | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._solver = z3.Solver()
        self._solver.set("timeout", SOLVER_MS)

    def find(self, goals: Mapping[str, Formula], questions: frozenset[Question], confirm: Confirm) -> Outcome:
        """Looks for a request.

        Args:
            goals: What must be so, by name.
            questions: What the goals ask of texts; all else that is asked of them may be as it likes.
            confirm: Asks the engine whether it is so.
        """
        named = {name: goal for name, goal in goals.items() if goal is not True}
        if lost := [name for name, goal in named.items() if goal is False]:
            return Impossible(frozenset(lost))
        guards = {name: self._guard(goal) for name, goal in named.items()}
        self._unproved = []  # what was taken for granted for another question is not for this one
        disagreed: Request | None = None
        disagreements = 0
        for _ in range(ROUNDS_MAX):
            answer = self._check(guards)
            if answer == z3.unsat:
                return self._refuted(guards, disagreed)
            if answer != z3.sat:
                return Undecided(f"the solver gave up ({self._solver.reason_unknown()})", disagreed)
            model = self._solver.model()
            try:
                request = _Reading(self, model, questions).request()
                if confirm(request):
                    return Found(request)
            except _Learned:
                continue
            except ActionRefused as refused:
                self._forbid_refused(model, refused, questions)
                continue
            disagreed = request
            disagreements += 1
            if disagreements == DISAGREEMENTS_MAX:
                return Undecided("the engine does not confirm it", disagreed)
            self._forbid_choice(model, questions)
        return Undecided(f"no example was found in {ROUNDS_MAX} rounds", disagreed)

    def _check(self, guards: Mapping[str, Any]) -> Any:
        """Asks the solver, for an example that is as plain as can be: wishes are given up one after the other."""
        self._take_in()
        constants = self._guard(self.world.constants == len(self.world.texts))
        wishes = {guard.get_id(): guard for guard in map(self._guard, self.world.wishes())}
        while True:
            answer = self._solver.check(*guards.values(), constants, *self._unproved, *wishes.values())
            if answer != z3.unsat:
                return answer
            lost = [each.get_id() for each in self._solver.unsat_core() if each.get_id() in wishes]
            if not lost:
                return answer
            for each in lost:
                del wishes[each]

    def _refuted(self, guards: Mapping[str, Any], disagreed: Request | None) -> Outcome:
        core = {each.get_id() for each in self._solver.unsat_core()}
        if self.world.shortened:
            return Undecided("too much is asked of one list to tell all its members apart", disagreed)
        if any(each.get_id() in core for each in self._unproved):
            return Undecided("all examples that were tried are refused for their form", disagreed)
        return Impossible(frozenset(name for name, guard in guards.items() if guard.get_id() in core))

    def _guard(self, goal: Formula) -> Any:
        key = goal.get_id()
        found = self._guards.get(key)
        if found is None:
            guard = z3.Bool(f"goal {len(self._guards)}")
            self._solver.add(z3.Implies(guard, goal))
            found = self._guards[key] = (guard, goal)  # the goal is kept, so that no other gets its id
        return found[0]

    def _take_in(self) -> None:
        new = self.world.facts[self._added :]
        self._added = len(self.world.facts)
        for each in new:
            self._solver.add(each)

    def learn(self, fact: Formula, *, proved: bool) -> None:
        """Tells the solver what its choice was wrong in."""
        if proved:
            self._solver.add(fact)
            return
        self._granted += 1
        guard = z3.Bool(f"unproved {self._granted}")
        self._solver.add(z3.Implies(guard, fact))
        self._unproved.append(guard)

    def words_for(self, wanted: texts.Wanted) -> tuple[str | None, tuple[texts.Node, ...] | None]:
        """Returns a text, or the questions that contradict each other, or neither."""
        found = self._words.get(wanted)
        if found is None:
            words = texts.find(wanted, texts.CANDIDATES_FIRST)
            proof = None if words is not None else texts.contradiction(wanted)
            if words is None and not proof:
                words = texts.find(wanted)
            found = self._words[wanted] = (words, proof)
        return found

    def _forbid_refused(self, model: Any, refused: ActionRefused, questions: frozenset[Question]) -> None:
        """The canonical form was refused: the value that was named may not be so again, or else nothing may."""
        symbol = next((each for each in self.world.symbols.values() if place(each.path) == refused.path), None)
        if symbol is None:
            self._forbid_choice(model, questions)
            return
        reading = _Reading(self, model, questions)
        self.learn(neg(conj(*reading.value_literals(symbol))), proved=False)

    def _forbid_choice(self, model: Any, questions: frozenset[Question]) -> None:
        reading = _Reading(self, model, questions)
        literals = [each for symbol in self.world.symbols.values() for each in reading.kind_literals(symbol)]
        literals += [each for name, condition in questions for each in reading.question_literals(name, condition)]
        for answer in self.world.free.values():
            literals += [reading.literal(answer.true), reading.literal(answer.false)]
        self.learn(neg(conj(*literals)), proved=False)


@dataclass(eq=False)
class _Reading:
    """A solver's model, read as a request."""

    search: Search
    model: Any  # z3 ships no types
    questions: frozenset[Question]
    _texts: dict[int, str] = field(default_factory=dict)
    _origins: dict[str, Origin] = field(default_factory=dict)

    @property
    def world(self) -> World:
        return self.search.world

    def is_so(self, formula: Formula) -> bool:
        if isinstance(formula, bool):
            return formula
        return bool(z3.is_true(self.model.eval(formula, model_completion=True)))

    def whole(self, number: Any) -> int:
        if isinstance(number, int):
            return number
        return int(self.model.eval(number, model_completion=True).as_long())

    def literal(self, formula: Formula) -> Formula:
        return formula if self.is_so(formula) else neg(formula)

    def kind(self, symbol: Symbol) -> Kind | None:
        return next((kind for kind, flag in symbol.is_.items() if self.is_so(flag)), None)

    def kind_literals(self, symbol: Symbol) -> list[Formula]:
        return [self.literal(flag) for flag in symbol.is_.values()]

    def question_literals(self, name: str, condition: tuple[object, ...]) -> list[Formula]:
        predicate, symbol = self.world.predicates[condition], self.world.symbols[name]
        answer = predicate.of(symbol.text)
        return [self.literal(answer.true), self.literal(answer.false)]

    def value_literals(self, symbol: Symbol) -> list[Formula]:
        literals = self.kind_literals(symbol)
        kind = self.kind(symbol)
        if kind == "number":
            literals.append(symbol.number == self.whole(symbol.number))
        elif kind == "text":
            number = self.whole(symbol.text)
            if number < OPEN:
                literals.append(symbol.text == number)
            else:
                asked = (each for each in self.questions if each[0] == symbol.name)
                literals += [each for name, condition in asked for each in self.question_literals(name, condition)]
        return literals

    def request(self) -> Request:
        self._name_texts()
        world = self.world
        args = self._value(world.args, with_origins=True)
        assert isinstance(args, dict)
        principal = {name: self._value(symbol, with_origins=False) for name, symbol in world.principal.items()}
        return Request(
            world.action,
            args,
            principal,
            frozenset(label for label, flag in world.labels.items() if self.is_so(flag)),
            tuple(key for key, flag in sorted(world.releases.items()) if self.is_so(flag)),
            self._origins,
            {key: self.whole(count) for key, count in world.watches.items()},
            {zone: self._local(zone) for zone in world.zones},
            {unit: self.whole(amount) for unit, amount in world.estimates.items()},
        )

    def _local(self, zone: str) -> LocalTime:
        clock = self.world.zones[zone]
        date = self._texts[self.whole(clock["date"])]
        return LocalTime(date, *(self.whole(clock[part]) for part in ("hour", "minute", "weekday")))

    def _reached(self, symbol: Symbol) -> Iterator[Symbol]:
        """Yields a symbol and what stands inside of it in this model."""
        kind = self.kind(symbol)
        if kind is None:
            return
        yield symbol
        if kind == "object":
            for each in symbol.fields.values():
                yield from self._reached(each)
        elif kind == "list":
            for each in symbol.members[: self.whole(symbol.size)]:
                yield from self._reached(each)

    def _name_texts(self) -> None:
        roots = [self.world.args, *self.world.principal.values()]
        roots += [self.world.symbols[f"{zone} date"] for zone in self.world.zones]
        groups: dict[int, list[Symbol]] = {}
        for root in roots:
            for symbol in self._reached(root):
                if self.kind(symbol) == "text":
                    groups.setdefault(self.whole(symbol.text), []).append(symbol)
        constants = list(self.world.texts)
        for number, symbols in groups.items():
            if number < OPEN:
                self._check_constant(number, constants[number], symbols)
                self._texts[number] = constants[number]
        self._check_derived(groups, constants)
        bases = {self.whole(self.world.symbols[name].text) for _, name in self.world.derivations}
        for number in sorted(
            groups, key=lambda number: number in bases
        ):  # what is derived from a text is named before the text
            if number not in self._texts:
                self._texts[number] = self._word(groups[number])

    def _check_derived(self, groups: Mapping[int, list[Symbol]], constants: list[str]) -> None:
        """Tells the solver what is derived from a text that the policy writes, where it has chosen otherwise."""
        for (hole, name), derived in self.world.derivations.items():
            base = self.whole(self.world.symbols[name].text)
            if base not in groups or base >= OPEN:
                continue
            words = texts.derive(hole, constants[base])
            if words is not None and self.whole(derived) != self.world.texts.get(words):
                number = self.world.number_of(words)
                same = self.world.symbols[name].text == base
                self.search.learn(disj(neg(same), derived == number), proved=True)
                raise _Learned

    def _check_constant(self, number: int, words: str, symbols: list[Symbol]) -> None:
        """Tells the solver what a text that the policy writes is, where it has chosen otherwise."""
        world, learned = self.world, False
        for symbol in symbols:
            if symbol.path[0] == "args" and texts.canonical([symbol.shape], words) != words:
                self.search.learn(neg(conj(symbol.is_["text"], symbol.text == number)), proved=True)
                learned = True
            for predicate in world.asked.get(symbol.name, ()):
                truth = texts.answer_of(predicate.condition, words)
                answer = predicate.of(z3.IntVal(number))
                facts = (answer.true == (truth is True), answer.false == (truth is False))
                if not all(self.is_so(fact) for fact in facts):
                    self.search.learn(conj(*facts), proved=True)
                    learned = True
            lengths = (world.chars(number) == len(words), world.bytes(number) == len(words.encode()))
            if self._length_of(symbol) and not all(self.is_so(length) for length in lengths):
                self.search.learn(conj(*lengths), proved=True)
                learned = True
        if learned:
            raise _Learned

    def _length_of(self, symbol: Symbol) -> set[str]:
        return {unit for name, unit in self.world.lengths if name == symbol.name}

    def _truth(self, name: str, condition: tuple[object, ...]) -> Truth:
        answer = self.world.predicates[condition].of(self.world.symbols[name].text)
        return True if self.is_so(answer.true) else False if self.is_so(answer.false) else None

    def _word(self, symbols: list[Symbol]) -> str:
        """Returns a text for symbols that the solver has chosen to be equal."""
        names = {symbol.name for symbol in symbols}
        asked = sorted((each for each in self.questions if each[0] in names), key=str)
        questions = tuple(dict.fromkeys((condition, self._truth(name, condition)) for name, condition in asked))
        questions += tuple(dict.fromkeys(self._derivations(names)))
        questions = tuple(
            sorted(questions, key=lambda question: question[1] is not True)
        )  # these fail the most candidates
        units = {unit for symbol in symbols for unit in self._length_of(symbol)}
        text = symbols[0].text
        wanted = texts.Wanted(
            questions,
            tuple(symbol.shape for symbol in symbols),
            self.whole(self.world.chars(text)) if "chars" in units else None,
            self.whole(self.world.bytes(text)) if "bytes" in units else None,
            frozenset(self.world.texts) | frozenset(self._texts.values()),
            next((str(part) for part in reversed(symbols[0].path) if isinstance(part, str)), ""),
        )
        words, contradiction = self.search.words_for(wanted)
        if words is not None:
            return words
        if contradiction:
            self._learn_contradiction(contradiction, dict(questions), wanted.chars)
        else:
            literals = [each for name, condition in asked for each in self.question_literals(name, condition)]
            literals += [symbol.is_["text"] for symbol in symbols]
            literals += [symbol.text == text for symbol in symbols[1:]]
            literals += [self.world.chars(text) == wanted.chars] if wanted.chars is not None else []
            literals += [self.world.bytes(text) == wanted.bytes] if wanted.bytes is not None else []
            self.search.learn(neg(conj(*literals)), proved=False)
        raise _Learned

    def _derivations(self, names: set[str]) -> Iterator[tuple[texts.Node, Truth]]:
        """Yields what a text must be so that what is derived from it is the text that it was compared with."""
        named = dict(self._texts)
        named.update(enumerate(self.world.texts))
        for (hole, name), derived in self.world.derivations.items():
            number = self.whole(derived)
            if name in names and number in named:
                yield ("==", hole, ("text", named[number])), True

    def _learn_contradiction(
        self, conditions: tuple[texts.Node, ...], truths: Mapping[texts.Node, Truth], chars: int | None
    ) -> None:
        """No text at all answers so: that holds of every symbol."""
        on_texts = [condition for condition in conditions if condition != texts.LENGTH]
        for name, asked in self.world.asked.items():
            known = {predicate.condition: predicate for predicate in asked}
            if all(condition in known for condition in on_texts):
                text = self.world.symbols[name].text
                answers = ((known[condition].of(text), truths[condition]) for condition in on_texts)
                literals = [answer.true if truth else answer.false for answer, truth in answers]
                literals += [self.world.chars(text) == chars] if texts.LENGTH in conditions else []
                self.search.learn(neg(conj(*literals)), proved=True)

    def _value(self, symbol: Symbol, *, with_origins: bool) -> object:
        match self.kind(symbol):
            case None:
                return _MISSING
            case "null":
                value: object = None
            case "bool":
                value = self.is_so(symbol.truth)
            case "number":
                value = _number(self.whole(symbol.number), symbol.places)
            case "text":
                value = self._texts[self.whole(symbol.text)]
            case "list":
                return self._list(symbol, with_origins=with_origins)
            case "object":
                return self._object(symbol, with_origins=with_origins)
        if with_origins and symbol.origins:
            self._origins[place(symbol.path[1:])] = self._origin(symbol)
        return value

    def _list(self, symbol: Symbol, *, with_origins: bool) -> list[object]:
        size = self.whole(symbol.size)
        members = [self._value(each, with_origins=with_origins) for each in symbol.members[:size]]
        if not symbol.members:
            return [sample(symbol.shape.items or ANY) for _ in range(size)]
        for index in range(len(members), min(size, _LONGEST_LIST)):
            members.append(members[-1])
            last = place((*symbol.path[1:], len(symbol.members) - 1))
            for path, origin in list(self._origins.items()):
                if path.startswith(last):
                    self._origins[place((*symbol.path[1:], index)) + path[len(last) :]] = origin
        return members

    def _object(self, symbol: Symbol, *, with_origins: bool) -> dict[str, object]:
        fields = {name: self._value(each, with_origins=with_origins) for name, each in symbol.fields.items()}
        for name in sorted(symbol.shape.required - set(fields)):
            fields[name] = sample(symbol.shape.field(name))
        return {name: value for name, value in fields.items() if value is not _MISSING}

    def _origin(self, symbol: Symbol) -> Origin:
        if self.is_so(self.world.is_constant(symbol)):
            return CONSTANT
        true = [origin for origin, flag in symbol.origins.items() if self.is_so(flag)]
        kinds = frozenset(kind for kind in ("user", "tool", "model") if kind in true)
        tools = [str(origin[1]).replace("*", "something") for origin in true if isinstance(origin, tuple)]
        if "tool" in kinds and not tools:
            tools = ["unlisted-tool"]
        labels = (str(each) for each in true if isinstance(each, str) and each not in ("user", "tool", "model"))
        return Origin(kinds, frozenset(labels), tuple(f"{tool}#1" for tool in tools))


_LONGEST_LIST: Final = 1_000


def _number(scaled: int, places: int) -> int | Decimal:
    number = Decimal(scaled).scaleb(-places)
    return int(number) if number == int(number) else number.normalize()


def sample(shape: Shape) -> object:
    """Returns some value of a shape that nobody asks about."""
    if shape.choices:
        return shape.choices[0]
    if shape.examples:
        return shape.examples[0]
    for kind in ("text", "number", "bool", "list", "object", "null"):
        if kind not in shape.kinds:
            continue
        if kind == "text":
            chars = shape.chars_least if shape.chars_least > len("something") else None
            wanted = texts.Wanted((), (shape,), chars)
            return texts.find(wanted) or "something"
        if kind == "number":
            least = 1 if shape.least is None else max(1, int(-(-shape.least // 1)))
            return least if shape.most is None or least <= shape.most else int(shape.most // 1)
        if kind == "list":
            return [sample(shape.items or ANY) for _ in range(shape.size_least)]
        if kind == "object":
            return {name: sample(shape.field(name)) for name in sorted(shape.required)}
        return True if kind == "bool" else None
    return "something"


__all__ = ["Found", "Impossible", "Outcome", "Question", "Search", "Undecided", "sample"]
