"""The unknowns of one action: its arguments, who acts, and what happened before, as variables of a solver.

A text is a number: equal texts have equal numbers, and each text that a policy compares with has one of its own. What else a policy
asks of texts (a prefix, a domain, a pattern) is a predicate over these numbers, of which the solver knows nothing; `texts` finds a
text of which all that the solver chose is so, or proves that there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import z3

from holdfast_verdict.check.formulas import Answer, Formula, Integer, conj, disj, implies, neg
from holdfast_verdict.check.shape import ANY, ITEM, KINDS, LEAF, Kind, Shape, kind_of, text

NANO: Final = 10**9
MAX_WHOLE: Final = 2**53 - 1
MEMBERS_MAX: Final = 6
"""Members of a list that are told apart; a longer list repeats the last of them."""
OPEN: Final = 100_000
"""Numbers from here on are of texts that no policy mentions. All readers read these alike; of others the engine answers as it does."""
_PLAIN: Final = 1_000_000
_DEPTH_MAX: Final = 4
"""Of arguments without a schema, what is nested deeper is a text, a number or a truth."""
_MINUTES: Final = 60
_HOURS: Final = 24
_WEEKDAYS: Final = 7
_ORIGIN_KINDS: Final = ("user", "tool", "model")

Path = tuple[str | int, ...]
PRINCIPAL: Final = ("tenant", "project", "user", "agent", "run")


@dataclass(eq=False)
class Symbol:
    """A value that is open.

    Attributes:
        name: Name of its variables; unique in its world.
        path: Where it stands: `("args", "to", 0)`, `("principal", "tenant")`.
        shape: What it may be.
        is_: When it is of which kind; never of two, and of none if it is not there.
        truth: Its value as a bool.
        number: Its value as a number, in steps of 1 or, if it may be a fraction, of `10 ** -places`.
        places: Decimal places of `number`.
        text: Its value as a text.
        size: How many members it has as a list.
        members: The members that are told apart.
        fields: Its fields as an object, as far as somebody asked for them.
        origins: Where it is from, by origin, as far as somebody asked.
    """

    name: str
    path: Path
    shape: Shape
    is_: dict[Kind, Formula]
    truth: Formula
    number: Integer
    places: int
    text: Integer
    size: Integer
    members: list[Symbol] = field(default_factory=list)
    fields: dict[str, Symbol] = field(default_factory=dict)
    origins: dict[object, Formula] = field(default_factory=dict)

    @property
    def there(self) -> Formula:
        """When it is there at all; null is there."""
        return disj(*self.is_.values())

    @property
    def nano(self) -> Integer:
        """Its value as a number, in billionths."""
        return self.number * 10 ** (9 - self.places)


@dataclass(eq=False)
class Predicate:
    """A question about one text: a condition with `("arg", "x")` where the text stands.

    Attributes:
        condition: The condition.
        true: When it is true of a text, by its number.
        false: When it is false.
    """

    condition: tuple[object, ...]
    true: Any  # z3 ships no types: a function of texts to truths
    false: Any  # the same

    def of(self, number: Integer) -> Answer:
        """Returns what it is of a text."""
        return Answer(self.true(number), self.false(number))


@dataclass(eq=False)
class World:
    """One action's unknowns.

    Attributes:
        action: The action's name.
        external: Whether it leaves the tenant's boundary.
        arguments: What its arguments may be.
        places: Decimal places that fractions have.
        list_questions: How many different things are asked of the members of a list, by its path; `()` for lists inside of others.
        facts: What always holds of the unknowns.
        texts: Numbers of the texts that the policy compares with.
        predicates: What is asked of texts, by condition.
        asked: Which predicates were asked of which symbol's text.
        symbols: All symbols, by their name.
        derivations: What was derived from which symbol's text and compared with a text that is open, too.
        free: Conditions that the solver may answer as it likes.
        lengths: Symbols of whose text the length was asked, with the unit.
        watches: What watches have counted, by what they keep.
        labels: Whether the run carries them.
        releases: Whether a label was released by somebody of a role.
        zones: What the clocks of a zone say.
        estimates: What the action may cost at worst, by unit.
        shortened: Whether lists may have to tell apart more members than they do here.
        args: The arguments.
        principal: Who acts, by field.
        constants: How many texts have a number of their own; a search says how many there are by now.
        chars: Length of a text in characters, by its number.
        bytes: Length of a text in bytes, by its number.
    """

    action: str
    arguments: Shape
    external: bool
    places: int = 3
    list_questions: Mapping[Path, int] = field(default_factory=dict)
    facts: list[Formula] = field(default_factory=list)
    texts: dict[str, int] = field(default_factory=dict)
    predicates: dict[tuple[object, ...], Predicate] = field(default_factory=dict)
    asked: dict[str, list[Predicate]] = field(default_factory=dict)
    symbols: dict[str, Symbol] = field(default_factory=dict)
    derivations: dict[tuple[tuple[object, ...], str], Any] = field(default_factory=dict)  # z3 ships no types
    free: dict[object, Answer] = field(default_factory=dict)
    lengths: set[tuple[str, str]] = field(default_factory=set)
    watches: dict[object, Integer] = field(default_factory=dict)
    labels: dict[str, Formula] = field(default_factory=dict)
    releases: dict[tuple[str, str], Formula] = field(default_factory=dict)
    zones: dict[str, dict[str, Integer]] = field(default_factory=dict)
    estimates: dict[str, Integer] = field(default_factory=dict)
    shortened: bool = False
    _wishes: list[Formula] = field(default_factory=list)
    _wished: int = 0
    args: Symbol = field(init=False)
    principal: dict[str, Symbol] = field(init=False)
    constants: Integer = field(init=False)
    chars: Any = field(init=False)  # z3 ships no types: a function of texts to whole numbers
    bytes: Any = field(init=False)  # the same

    def __post_init__(self) -> None:
        # no z3 object may outlive or meet another world's: names keep them apart, the context is one
        self.chars = z3.Function("chars", z3.IntSort(), z3.IntSort())
        self.bytes = z3.Function("bytes", z3.IntSort(), z3.IntSort())
        self.constants = z3.Int("constants")
        self.principal = {}
        whole = Shape(
            kinds=frozenset({"object"}), fields=self.arguments.fields, required=self.arguments.required, size_least=0
        )
        self.args = self.symbol("args", ("args",), whole, missing=False)
        for name in PRINCIPAL:
            self.principal[name] = self.symbol(f"principal.{name}", ("principal", name), text(1), missing=False)
        self.principal["role"] = self.symbol("principal.role", ("principal", "role"), text(1), missing=False)

    def say(self, *formulas: Formula) -> None:
        """Adds what always holds."""
        self.facts.extend(each for each in formulas if each is not True)

    def number_of(self, words: str) -> int:
        """Returns the number of a text that is written in a policy."""
        return self.texts.setdefault(words, len(self.texts))

    def symbol(self, name: str, path: Path, shape: Shape, *, missing: Formula) -> Symbol:
        """Makes a symbol.

        Args:
            name: Its name.
            path: Where it stands.
            shape: What it may be.
            missing: When it may be missing.
        """
        possible = [kind for kind in KINDS if kind in shape.kinds]
        flags: dict[Kind, Formula] = {kind: z3.Bool(f"{name} is {kind}") for kind in possible}
        if missing is False and len(possible) == 1:
            flags = {possible[0]: True}
        else:
            self.say(*(disj(neg(flags[a]), neg(flags[b])) for n, a in enumerate(possible) for b in possible[:n]))
            self.say(disj(missing, *flags.values()))
        places = 0 if shape.whole or "number" not in shape.kinds else self.places
        symbol = Symbol(
            name,
            path,
            shape,
            flags,
            z3.Bool(f"{name} is true"),
            z3.Int(f"{name} as number"),
            places,
            z3.Int(f"{name} as text"),
            z3.Int(f"{name} size"),
        )
        self.symbols[name] = symbol
        self._bounds(symbol)
        return symbol

    def is_kind(self, symbol: Symbol, kind: Kind) -> Formula:
        """Says when a symbol is of a kind."""
        return symbol.is_.get(kind, False)

    def _bounds(self, symbol: Symbol) -> None:
        shape, step = symbol.shape, 10**symbol.places
        if "number" in shape.kinds:
            least = -MAX_WHOLE if shape.least is None else shape.least
            most = MAX_WHOLE if shape.most is None else shape.most
            self.say(symbol.number >= -int(-least * step // 1), symbol.number <= int(most * step // 1))
        if "text" in shape.kinds:
            self.say(symbol.text >= 0, disj(symbol.text >= OPEN, symbol.text < self.constants))
        if "list" in shape.kinds:
            self.say(symbol.size >= shape.size_least)
            if shape.size_most is not None:
                self.say(symbol.size <= shape.size_most)
        if shape.choices is not None:
            self._choose(symbol, shape.choices)

    def _choose(self, symbol: Symbol, choices: Iterable[object]) -> None:
        step = 10**symbol.places
        allowed = []
        for choice in choices:
            match kind_of(choice):
                case "null":
                    allowed.append(self.is_kind(symbol, "null"))
                case "bool":
                    allowed.append(conj(self.is_kind(symbol, "bool"), symbol.truth == choice))
                case "text":
                    number = self.number_of(str(choice))
                    allowed.append(conj(self.is_kind(symbol, "text"), symbol.text == number))
                case "number" if isinstance(choice, int):
                    allowed.append(conj(self.is_kind(symbol, "number"), symbol.number == choice * step))
                case kind:
                    allowed.append(self.is_kind(symbol, kind))
        allowed += [flag for kind, flag in symbol.is_.items() if kind not in symbol.shape.listed]
        self.say(disj(neg(symbol.there), *allowed))

    def field(self, symbol: Symbol, name: str) -> Symbol:
        """Returns a field of an object."""
        found = symbol.fields.get(name)
        if found is None:
            is_object = self.is_kind(symbol, "object")
            required = name in symbol.shape.required
            missing = neg(is_object) if required else True
            shape = symbol.shape.field(name)
            if shape is ANY and len(symbol.path) >= _DEPTH_MAX:
                shape = LEAF
            found = self.symbol(f"{symbol.name}.{name}", (*symbol.path, name), shape, missing=missing)
            self.say(implies(found.there, is_object))
            symbol.fields[name] = found
        return found

    def members_of(self, symbol: Symbol) -> list[tuple[Formula, Symbol]]:
        """Returns the members of a list that are told apart, each with when it is there."""
        if "list" not in symbol.shape.kinds:
            self.shortened = self.shortened or symbol.shape in (ITEM, LEAF)
            return []
        if not symbol.members:
            shape = symbol.shape.items or ITEM
            # one member for each thing that is asked of some member, and one more, are as good as any number of them
            questions = self.list_questions.get(symbol.path, self.list_questions.get((), 0))
            self.shortened = self.shortened or questions >= MEMBERS_MAX
            for index in range(min(questions + 1, MEMBERS_MAX)):
                symbol.members.append(
                    self.symbol(f"{symbol.name}[{index}]", (*symbol.path, index), shape, missing=False)
                )
        is_list = self.is_kind(symbol, "list")
        return [(conj(is_list, symbol.size > index), member) for index, member in enumerate(symbol.members)]

    def who(self, name: str) -> Symbol:
        """Returns a member of the principal."""
        found = self.principal.get(name)
        if found is None:  # `roles`, of which there may be several
            shape = Shape(kinds=frozenset({"list"}), items=text(1))
            found = self.principal[name] = self.symbol(f"principal.{name}", ("principal", name), shape, missing=False)
        return found

    def predicate(self, condition: tuple[object, ...], symbol: Symbol, *, total: bool) -> Answer:
        """Returns the answer to a question about a symbol's text.

        Args:
            condition: The question.
            symbol: The symbol.
            total: Whether every text that this symbol may be is one or the other.
        """
        found = self.predicates.get(condition)
        if found is None:
            name = f"predicate {len(self.predicates)}"
            found = self.predicates[condition] = Predicate(
                condition,
                z3.Function(name, z3.IntSort(), z3.BoolSort()),
                z3.Function(f"not {name}", z3.IntSort(), z3.BoolSort()),
            )
        asked = self.asked.setdefault(symbol.name, [])
        if found not in asked:
            asked.append(found)
            answer = found.of(symbol.text)
            self.say(disj(neg(answer.true), neg(answer.false)))
            if total:
                self.say(disj(neg(self.is_kind(symbol, "text")), answer.true, answer.false, symbol.text < OPEN))
        return found.of(symbol.text)

    def derived(self, hole: tuple[object, ...], symbol: Symbol) -> Integer:
        """Returns the number of the text that is derived from a symbol's text."""
        function = z3.Function(f"derived {hole}", z3.IntSort(), z3.IntSort())
        return self.derivations.setdefault((hole, symbol.name), function(symbol.text))

    def length(self, symbol: Symbol, unit: str) -> Integer:
        """Returns how long a symbol's text is, in `chars` or `bytes`."""
        chars, size = self.chars(symbol.text), self.bytes(symbol.text)
        if not any(name == symbol.name for name, _ in self.lengths):
            is_text = self.is_kind(symbol, "text")
            least = max(symbol.shape.chars_least, 0)
            self.say(chars >= 0, size >= chars, size <= 4 * chars, implies(is_text, chars >= least))
            if symbol.shape.chars_most is not None:
                self.say(implies(is_text, chars <= symbol.shape.chars_most))
        self.lengths.add((symbol.name, unit))
        return chars if unit == "chars" else size

    def freely(self, key: object) -> Answer:
        """Returns an answer that the solver may choose; the evaluator says afterwards whether it chose well."""
        found = self.free.get(key)
        if found is None:
            name = f"free {len(self.free)}"
            found = self.free[key] = Answer(z3.Bool(name), z3.Bool(f"not {name}"))
            self.say(disj(neg(found.true), neg(found.false)))
        return found

    def watch(self, key: object) -> Integer:
        """Returns what a watch has counted."""
        found = self.watches.get(key)
        if found is None:
            found = self.watches[key] = z3.Int(f"watch {len(self.watches)}")
            self.say(found >= 0, found <= MAX_WHOLE)
        return found

    def run_has(self, label: str) -> Formula:
        """Says when the run carries a label."""
        return self.labels.setdefault(label, z3.Bool(f"run has {label}"))

    def released(self, label: str, role: str) -> Formula:
        """Says when somebody of a role has released a label."""
        return self.releases.setdefault((label, role), z3.Bool(f"{label} released by {role}"))

    def local(self, zone: str) -> dict[str, Integer]:
        """Returns what the clocks of a zone say."""
        found = self.zones.get(zone)
        if found is None:
            hour, minute, weekday = (z3.Int(f"{zone} {part}") for part in ("hour", "minute", "weekday"))
            self.say(hour >= 0, hour < _HOURS, minute >= 0, minute < _MINUTES, weekday >= 1, weekday <= _WEEKDAYS)
            date = self.symbol(
                f"{zone} date", ("zones", zone, "date"), Shape(kinds=frozenset({"text"}), format="date"), missing=False
            )
            found = self.zones[zone] = {
                "hour": hour,
                "minute": minute,
                "minute_of_day": _MINUTES * hour + minute,
                "weekday": weekday,
                "date": date.text,
            }
        return found

    def estimate(self, unit: str) -> Integer:
        """Returns what the action may cost at worst."""
        found = self.estimates.get(unit)
        if found is None:
            found = self.estimates[unit] = z3.Int(f"estimate {unit}")
            self.say(found >= 0, found <= MAX_WHOLE)
        return found

    def origin(self, leaf: Symbol, origin: object) -> Formula:
        """Says when one leaf of the arguments is from somewhere."""
        kinds = leaf.origins
        if not kinds:
            for kind in _ORIGIN_KINDS:
                kinds[kind] = z3.Bool(f"{leaf.name} from {kind}")
            self.say(z3.Or(list(kinds.values())))
            self._wishes += [neg(kinds["tool"]), neg(kinds["model"])]
        if origin not in kinds:
            kinds[origin] = z3.Bool(f"{leaf.name} from {origin}")
            self._wishes.append(neg(kinds[origin]))
            source = kinds["tool"] if isinstance(origin, tuple) else disj(kinds["tool"], kinds["model"])
            self.say(implies(kinds[origin], source))
        return kinds[origin]

    def wishes(self) -> list[Formula]:
        """Returns what makes an example plain to read, and is given up where it cannot be.

        What need not be there is not, numbers are small, texts differ and are nobody's special ones, everything is the user's own
        word, and nothing happened before.
        """
        for symbol in list(self.symbols.values())[self._wished :]:
            self._wishes += self._wishes_of(symbol)
        self._wished = len(self.symbols)
        unlike = [neg(flag) for flag in (*self.labels.values(), *self.releases.values())]
        return [*self._wishes, *unlike, *(count == 0 for count in self.watches.values())]

    def _wishes_of(self, symbol: Symbol) -> list[Formula]:
        possible, wishes = symbol.shape.kinds, []
        if symbol.is_ and not any(flag is True for flag in symbol.is_.values()):
            wishes.append(neg(symbol.there))
        if "null" in symbol.is_ and len(possible) > 1:
            wishes.append(neg(symbol.is_["null"]))
        if "text" in possible:
            if len(possible) > 1:
                wishes.append(disj(neg(symbol.there), symbol.is_["text"]))
            number, length = symbol.text, self.chars(symbol.text)
            wishes += [
                number == _PLAIN + len(self.symbols) + len(self._wishes),
                self.bytes(number) == length,
                length > 0,
            ]
        if "number" in possible:
            step = 10**symbol.places
            wishes += [conj(symbol.number >= step, symbol.number <= 100 * step)]
            wishes += [symbol.number % step == 0] if step > 1 else []
        if "list" in possible:
            wishes += [symbol.size == 1, symbol.size <= 2]  # noqa: PLR2004 (one is plainer than two, two than many)
        return wishes

    def is_constant(self, leaf: Symbol) -> Formula:
        """Says when a leaf is nobody's words: a bool, null, or one of a list of choices."""
        return disj(*(flag for kind, flag in leaf.is_.items() if kind in ("bool", "null", *leaf.shape.listed)))


def place(path: Path) -> str:
    """Writes a path as people do: `args.items[2].price`."""
    words = ""
    for part in path:
        words += f"[{part}]" if isinstance(part, int) else f".{part}" if words else part
    return words
