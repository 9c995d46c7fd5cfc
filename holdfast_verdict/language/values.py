"""Values and matchers: syntax tree to the compiled form, with the shape of each value."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from holdfast_verdict.canonical import MAX_INTEGER
from holdfast_verdict.expressions import MAX_TEXT, PRINCIPAL_FIELDS, Matcher, Value
from holdfast_verdict.language import syntax as s
from holdfast_verdict.language.declarations import ROOTS, Declared, argument, meant, resolve
from holdfast_verdict.language.shapes import UNKNOWN, Shape, joined, of_kind

NANO: Final = 10**9
_MEASURES: Final = ("bytes", "chars")
_FUNCTIONS: Final = ("usd", "date", "exactly", "bytes", "chars", "size", "host", "domain", "lower")
MATCHER_FUNCTIONS: Final = ("domain", "host", "path", "cidr", "exactly")
_HOST: Final = re.compile(r"(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\Z")
_ZONE: Final = re.compile(r"UTC\Z|[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){1,2}\Z")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]+Z)?\Z")
_NOTHING: Final[Value] = ("null",)


@dataclass(frozen=True, slots=True)
class Typed:
    """A compiled value and what it may be."""

    value: Value
    shape: Shape


WRONG: Final = Typed(_NOTHING, UNKNOWN)
"""Stands for a value whose problem is noted already."""


def amount_of(number: str) -> int | None:
    """Returns nano-dollars of dollars written as a decimal; `None` if it has no whole number of them, or too many."""
    nano = Decimal(number).scaleb(9)
    return int(nano) if nano == nano.to_integral_value() and abs(nano) <= MAX_INTEGER else None


def zone_of(text: s.Text, declared: Declared) -> str:
    """Returns the name of a time zone."""
    if not _ZONE.match(text.value):
        remedy = "Write it as the tz database does: `Europe/Berlin`, `America/New_York`, `UTC`."
        declared.problems.add(f'"{text.value}" is no time zone.', text.at, remedy)
        return "UTC"
    return text.value


@dataclass(frozen=True, slots=True)
class Values:
    """Compiles the values of one rule.

    Attributes:
        declared: All names there are.
        actions: Patterns of the actions that the rule speaks of.
        bound: Shape of each name that `every` or `some` bound.
        guarded: Arguments that are known to be present where the value stands.
    """

    declared: Declared
    actions: tuple[str, ...]
    bound: Mapping[str, Shape]
    guarded: frozenset[tuple[str, ...]] = frozenset()

    def value(self, node: s.Value) -> Typed:
        """Returns a compiled value; what is wrong with it is noted."""
        if isinstance(node, s.Text):
            if len(node.value) > MAX_TEXT:
                return self._wrong(f"The text is longer than {MAX_TEXT} characters.", node.at)
            date = _DATE.match(node.value) is not None
            shape = replace(of_kind("text", literal=True, date=date), choices=frozenset({node.value}))
            return Typed(("text", node.value), shape)
        if isinstance(node, s.Flag):
            return Typed(("bool", node.value), of_kind("flag", literal=True))
        if isinstance(node, s.Number):
            return self._number(node)
        return self._call(node) if isinstance(node, s.Call) else self._path(node)

    def _wrong(self, message: str, at: s.Span, remedy: str = "", expected: Sequence[str] = ()) -> Typed:
        self.declared.problems.add(message, at, remedy, expected)
        return WRONG

    def _number(self, node: s.Number) -> Typed:
        number = Decimal(node.text)
        if abs(number) > MAX_INTEGER:
            return self._wrong("The number is outside of ±(2^53 - 1).", node.at)
        if number == number.to_integral_value():
            return Typed(("int", int(number)), of_kind("number", literal=True))
        text = f"{number:f}".rstrip("0")
        if len(text) > 60:  # noqa: PLR2004 (what the compiled form takes)
            return self._wrong("The number has too many digits.", node.at)
        return Typed(("number", text), of_kind("number", literal=True))

    # --- paths

    def _path(self, node: s.Path) -> Typed:
        root, *rest = node.parts
        if root in self.bound:
            return self._member(node, self.bound[root], ("var", root), tuple(rest))
        if root == "args":
            return self._argument(node, tuple(rest))
        if root == "principal":
            if len(rest) != 1 or rest[0] not in PRINCIPAL_FIELDS:
                remedy = meant(".".join(rest), PRINCIPAL_FIELDS)
                expected = [f"`principal.{name}`" for name in PRINCIPAL_FIELDS]
                return self._wrong("The principal has no such field.", node.at, remedy, expected)
            return Typed(("principal", rest[0]), of_kind("list" if rest[0] == "roles" else "text"))
        if root == "estimate":
            if rest == ["spend"]:
                return Typed(("estimate", "nano_usd"), of_kind("money"))
            if rest == ["tokens"]:
                return Typed(("estimate", "tokens"), of_kind("number"))
            return self._wrong(
                "There is no such estimate.", node.at, expected=("`estimate.spend`", "`estimate.tokens`")
            )
        if root == "model" and not rest and set(self.actions) == {"llm.call"}:
            return self._argument(node, ("model",))
        return self._stray(node, root)

    def _stray(self, node: s.Path, root: str) -> Typed:
        if root == "model":
            return self._wrong("`model` alone speaks of `llm.call` only.", node.at, "Write `args.model`.")
        if len(node.parts) == 1 and root in self.declared.sets:
            return self._wrong(f"`{root}` is a set.", node.at, f"Write `in {root}`, `all in {root}`, …")
        remedy = meant(root, (*ROOTS, *self.bound)) or f'An argument is `args.{root}`, text is `"{root}"`.'
        return self._wrong(f"Nothing here is called `{root}`.", node.at, remedy)

    def _argument(self, node: s.Path, path: tuple[str, ...]) -> Typed:
        if not path:
            return self._wrong("`args` alone is no value.", node.at, "Name the argument: `args.amount`.")
        whole = self._shape(path)
        if not node.keys and len(path) > 1 and path[-1] in _MEASURES:
            if whole is not None and whole.known:
                remedy = f'Write `{path[-1]}(args.{".".join(path[:-1])})`, or `args.{".".join(path[:-1])}["{path[-1]}"]` for the field.'
                return self._wrong(f"`.{path[-1]}` is a field here, and a measure of text.", node.at, remedy)
            inner = s.Path(node.parts[:-1], node.at)
            return self._measure(path[-1], self._argument(inner, path[:-1]), node.at)
        self._check_names(node, path)
        if whole is None:
            return self._absent(node, path)
        return Typed(("arg", *path), whole)

    def _check_names(self, node: s.Path, path: tuple[str, ...]) -> None:
        plain = path[: len(path) - node.keys]
        if any(part.isdigit() for part in plain):
            remedy = "Write `every args.items as item: (…)`, or `some …`."
            self.declared.problems.add("Members of lists have no names.", node.at, remedy)

    def _known(self) -> list[str]:
        return list(dict.fromkeys(name for pattern in self.actions for name in self.declared.matched(pattern)))

    def _shape(self, path: tuple[str, ...]) -> Shape | None:
        """Returns the shape of an argument over all actions that the rule speaks of; `None` if one of them has it not."""
        known = self._known()
        if not known:
            return UNKNOWN
        shapes = [argument(self.declared, action, path) for action in known]
        if self._is_guarded(path):
            shapes = [shape for shape in shapes if shape is not None]
        found = [shape for shape in shapes if shape is not None]
        return joined(found) if found and len(found) == len(shapes) else None

    def _is_guarded(self, path: tuple[str, ...]) -> bool:
        return any(path[: len(each)] == each for each in self.guarded)

    def units(self, path: tuple[str, ...]) -> set[str]:
        """Returns the units that an argument has among the actions; more than one cannot be compared."""
        known = self._known()
        shapes = [argument(self.declared, action, path) for action in known]
        found = {shape.unit for shape in shapes if shape is not None}
        others = not self.declared.complete and any(pattern not in self.declared.actions for pattern in self.actions)
        return found | {""} if not known or others else found

    def _absent(self, node: s.Path, path: tuple[str, ...]) -> Typed:
        name = ".".join(path)
        known = self._known()
        lacking = [action for action in known if argument(self.declared, action, path) is None]
        having = [action for action in known if action not in lacking]
        if having:
            what = f"`{lacking[0]}` has no argument `{name}`, and this rule speaks of it, too."
            remedy = f"Name the actions that are meant, or ask first: `args.{name} is present and …`."
            return self._wrong(what, node.at, remedy)
        parent = resolve(self.declared.shape(lacking[0]), path[:-1])
        if parent is not None and parent.known and parent.is_only("list"):
            remedy = f"Write `every args.{'.'.join(path[:-1])} as item: (item.{path[-1]} …)`, or `some …`."
            return self._wrong(f"`args.{'.'.join(path[:-1])}` is a list.", node.at, remedy)
        names = () if parent is None else tuple(parent.fields)
        return self._wrong(f"`{lacking[0]}` has no argument `{name}`.", node.at, _meant_path(path, names))

    def _member(self, node: s.Path, shape: Shape, value: Value, path: tuple[str, ...]) -> Typed:
        found = resolve(shape, path)
        if path and not node.keys and path[-1] in _MEASURES and (found is None or not found.known):
            inner = s.Path(node.parts[:-1], node.at)
            return self._measure(path[-1], self._member(inner, shape, value, path[:-1]), node.at)
        if found is None:
            return self._wrong(f"`{node.parts[0]}` has no `{'.'.join(path)}`.", node.at, meant(path[-1], shape.fields))
        return Typed((*value, *path), found)

    # --- functions

    def _measure(self, name: str, inner: Typed, at: s.Span) -> Typed:
        kind = {"size": ("list", "object")}.get(name, ("text",))
        if not inner.shape.may_be(*kind):
            return self._wrong(f"`{name}` is of {Shape(frozenset(kind)).says()}; this is {inner.shape.says()}.", at)
        if inner.shape.literal:
            return self._wrong("This is the same whatever the action is.", at, "Write what it comes to.")
        measured = of_kind("number") if name in ("bytes", "chars", "size") else of_kind("text")
        return Typed((name, inner.value), measured)

    def _call(self, node: s.Call) -> Typed:
        if node.name not in _FUNCTIONS:
            remedy = meant(node.name, _FUNCTIONS)
            if node.name in MATCHER_FUNCTIONS:
                remedy = f"`{node.name}(…)` stands behind `in`, `all in`, `any in`, `none in`."
            return self._wrong(f"There is no value `{node.name}(…)`.", node.at, remedy)
        if len(node.arguments) != 1:
            return self._wrong(f"`{node.name}(…)` takes one value.", node.at)
        (inner,) = node.arguments
        if node.name == "usd":
            return self._usd(node, inner)
        if node.name in ("date", "exactly"):
            if not isinstance(inner, s.Text):
                return self._wrong(f"`{node.name}(…)` takes text in quotes.", node.at)
            if node.name == "date":
                return Typed(("local", zone_of(inner, self.declared), "date"), of_kind("text", date=True))
            return self.value(inner)
        return self._measure(node.name, self.value(inner), node.at)

    def _usd(self, node: s.Call, inner: s.Value) -> Typed:
        if not isinstance(inner, s.Number):
            return self._wrong("`usd(…)` takes a number of dollars.", node.at, "Such as `usd(500)`, `usd(0.05)`.")
        nano = amount_of(inner.text)
        if nano is None:
            return self._wrong(
                "This is no whole number of nano-dollars within ±9007199.254740991 dollars.",
                node.at,
                "At most nine digits behind the point.",
            )
        return Typed(("money", nano), of_kind("money", literal=True))

    def as_money(self, typed: Typed, at: s.Span) -> Typed:
        """Returns a value as an amount of money; a number without a unit is dollars."""
        if typed.shape.is_only("money") or typed is WRONG:
            return typed
        if not typed.shape.may_be("number"):
            return self._wrong(f"This is {typed.shape.says()}, not an amount.", at)
        if typed.shape.literal:
            return self._wrong("A number without a unit is compared with money.", at, "Write `usd(…)`.")
        units = (
            self.units(tuple(str(part) for part in typed.value[1:])) if typed.value[0] == "arg" else {typed.shape.unit}
        )
        # undeclared, an amount that is compared with money is in dollars
        units = {unit or "usd" for unit in units}
        if len(units) > 1:
            message = f"The actions give this amount in different units: {', '.join(sorted(units))}."
            return self._wrong(message, at, "Write a rule for each of them.")
        (unit,) = units
        return Typed(("as_money", typed.value, unit), of_kind("money"))


def _meant_path(path: tuple[str, ...], names: Sequence[str]) -> str:
    close = meant(path[-1], names)
    if not close:
        return f"It has {', '.join(f'`{name}`' for name in sorted(names)[:12])}." if names else ""
    word = close.split("`")[1]
    return f"Did you mean `args.{'.'.join((*path[:-1], word))}`?"


@dataclass(frozen=True, slots=True)
class Matchers:
    """Compiles what stands behind `in`."""

    values: Values

    def of(self, node: s.Matchers, using: tuple[str, ...] = ()) -> list[tuple[Matcher, Shape, s.Span]]:
        """Returns compiled matchers, each with the shape that a value needs to be asked."""
        if isinstance(node, s.Call):
            return self._function(node, using)
        if isinstance(node, s.Members):
            found = []
            for member in node.members:
                found += self._member(member, using)
            if not node.members:
                self._wrong("An empty list matches nothing.", node.at, "Take the rule out, or name what it allows.")
            self._check_twice(found)
            return found
        return self._set(node, using)

    def _wrong(self, message: str, at: s.Span, remedy: str = "") -> list[tuple[Matcher, Shape, s.Span]]:
        self.values.declared.problems.add(message, at, remedy)
        return []

    def _check_twice(self, found: Sequence[tuple[Matcher, Shape, s.Span]]) -> None:
        seen = set()
        for matcher, _, at in found:
            if matcher in seen:
                self._wrong("This stands in the list twice.", at, "Take one of them out.")
            seen.add(matcher)

    def _set(self, name: s.Name, using: tuple[str, ...]) -> list[tuple[Matcher, Shape, s.Span]]:
        sets = self.values.declared.sets
        if name.text not in sets:
            remedy = meant(name.text, sets) or 'A set is declared by `set NAME = ["…"]`; text stands in quotes.'
            return self._wrong(f"There is no set `{name.text}`.", name.at, remedy)
        if name.text in using:
            return self._wrong(f"The set `{name.text}` holds itself.", name.at)
        return [(matcher, shape, name.at) for matcher, shape, _ in self.of(sets[name.text].value, (*using, name.text))]

    def _member(self, node: s.Value | s.Range, using: tuple[str, ...]) -> list[tuple[Matcher, Shape, s.Span]]:
        if isinstance(node, s.Range):
            return self._range(node)
        if isinstance(node, s.Call) and node.name not in ("usd", "exactly"):
            return self._function(node, using)
        if isinstance(node, s.Path) and len(node.parts) == 1 and node.parts[0] not in self.values.bound:
            return self._set(s.Name(node.parts[0], node.at), using)
        if isinstance(node, s.Text) and "*" in node.value:
            if node.value.count("*") > 1:
                return self._wrong("A pattern has one `*`.", node.at, 'Literally, it is `exactly("…")`.')
            return [(("glob", node.value), of_kind("text"), node.at)]
        typed = self.values.value(node)
        if typed is WRONG:
            return []
        if typed.shape.is_only("list"):
            return self._wrong("This is a list itself.", node.at, "Write `… contains …`, the list first.")
        return [(("is", typed.value), typed.shape, node.at)]

    def _range(self, node: s.Range) -> list[tuple[Matcher, Shape, s.Span]]:
        low, high = self.values.value(node.low), self.values.value(node.high)
        if WRONG in (low, high):
            return []
        if not (low.shape.literal and high.shape.literal) or low.shape.kinds != high.shape.kinds:
            return self._wrong(
                "A range goes from one number to another, or from one amount of money to another.", node.at
            )
        if not low.shape.is_only("number", "money"):
            return self._wrong("A range is of numbers or of money.", node.at)
        if Decimal(str(low.value[1])) > Decimal(str(high.value[1])):
            return self._wrong("The range holds nothing: its first number is the larger one.", node.at)
        return [(("range", low.value, high.value), low.shape, node.at)]

    def _function(self, node: s.Call, using: tuple[str, ...]) -> list[tuple[Matcher, Shape, s.Span]]:
        if node.name not in MATCHER_FUNCTIONS:
            remedy = meant(node.name, MATCHER_FUNCTIONS)
            return self._wrong(f"`{node.name}(…)` is nothing that a value can be in.", node.at, remedy)
        found: list[tuple[Matcher, Shape, s.Span]] = []
        for text in self._texts(node, using):
            if node.name == "exactly":
                found.append((("is", ("text", text.value)), of_kind("text"), text.at))
                continue
            canonical = _CANONICAL[node.name](text.value)
            if canonical is None:
                self._wrong(f'"{text.value}" is no {_NAMED[node.name]}.', text.at, _REMEDY[node.name])
            else:
                found.append(((node.name, canonical), of_kind("text"), text.at))
        if not node.arguments:
            self._wrong(f"`{node.name}(…)` takes texts.", node.at)
        self._check_twice(found)
        return found

    def _texts(self, node: s.Call, using: tuple[str, ...]) -> list[s.Text]:
        """Returns the texts that are given to a function: written there, or as a set of texts."""
        texts: list[s.Text] = []
        for each in node.arguments:
            if isinstance(each, s.Text):
                texts.append(each)
            elif isinstance(each, s.Path) and len(each.parts) == 1 and each.parts[0] in self.values.declared.sets:
                value = self.values.declared.sets[each.parts[0]].value
                members = value.members if isinstance(value, s.Members) else ()
                plain = [s.Text(member.value, each.at) for member in members if isinstance(member, s.Text)]
                if not members or len(plain) < len(members) or each.parts[0] in using:
                    self._wrong(f"`{each.parts[0]}` is no list of texts.", each.at)
                texts += plain
            else:
                remedy = 'Such as `domain("acme.com")`, or `domain(internal)` after `set internal = ["acme.com"]`.'
                self._wrong(f"`{node.name}(…)` takes texts in quotes, or sets of them.", each.at, remedy)
        return texts


def _host(text: str) -> str | None:
    lowered = text.lower()
    return lowered if _HOST.match(lowered) and len(lowered) < 254 else None  # noqa: PLR2004 (what DNS takes)


def _path(text: str) -> str | None:
    parts = text.split("/")
    if not text.startswith("/") or ".." in parts or "." in parts or "//" in text or not text.isprintable():
        return None
    return text.rstrip("/") or "/"


def _cidr(text: str) -> str | None:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        return None


_CANONICAL: Final = {"domain": _host, "host": _host, "path": _path, "cidr": _cidr}
_NAMED: Final = {
    "domain": "domain of e-mail addresses",
    "host": "host",
    "path": "folder or file",
    "cidr": "range of IP addresses",
}
_REMEDY: Final = {
    "domain": "Write `acme.com` for it alone, `*.acme.com` for those below it, in ASCII (`xn--…`).",
    "host": "Write `api.acme.com`, or `*.acme.com` for those below it, without scheme or port, in ASCII (`xn--…`).",
    "path": "Write it from the root, `/srv/data`, without `.`, `..` and `//`; what is below it belongs to it.",
    "cidr": "Write `10.0.0.0/8` or `fd00::/8`, with no bit set behind the prefix.",
}
