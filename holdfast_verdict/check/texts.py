"""Finds a text of which everything is so that a solver has chosen, or proves that there is none.

Candidates are put together from what the questions themselves mention, and asked with the engine's own conditions. Only where none
fits is z3's theory of strings asked for a proof; without one nobody knows, and nothing is claimed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, product
from typing import Any, Final, cast

import z3

from holdfast_verdict.actions.formats import FORMATS
from holdfast_verdict.check.shape import Shape
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.expressions import Ask, compile_expression
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.engine.unknown import Truth
from holdfast_verdict.engine.values import compile_value

Node = tuple[object, ...]
HOLE: Final[Node] = ("arg", "x")
CANDIDATES_MAX: Final = 4_000
CANDIDATES_FIRST: Final = 200
"""So many texts are tried before somebody asks for a proof that there is none."""
PROOF_MS: Final = 400
_TOP: Final = ".example"
_CORES: Final = ("something", "another", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_DEFAULTS: Final = {
    "email": ("someone@example.org", "somebody@example.net"),
    "uri": ("https://example.org/", "http://example.net/"),
    "hostname": ("example.org", "www.example.net"),
    "path": ("/somewhere/file", "somewhere/file"),
    "date": ("2026-01-05", "0001-01-01", "9999-12-31"),
    "date-time": ("2026-01-05T12:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T00:00:00Z"),
    "uuid": ("00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001"),
    "decimal": ("1", "-1", "1000000"),
}
_FAMILY: Final = {
    "idn-email": "email",
    "url": "uri",
    "iri": "uri",
    "idn-hostname": "hostname",
    "host": "hostname",
    "file-path": "path",
    "directory-path": "path",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What must be so of a text.

    Attributes:
        questions: Conditions with the text as `args.x`, each with the answer that it must have.
        shapes: What it must be.
        chars: Its length in characters, if that matters.
        bytes: Its length in bytes, if that matters.
        avoid: Texts that it must not be.
        hint: What it is called, for examples that people read.
    """

    questions: tuple[tuple[Node, Truth], ...]
    shapes: tuple[Shape, ...]
    chars: int | None = None
    bytes: int | None = None
    avoid: frozenset[str] = frozenset()
    hint: str = ""


@lru_cache(maxsize=4096)
def _ask(condition: Node) -> Ask:
    return compile_expression(condition)


def answer_of(condition: Node, words: str) -> Truth:
    """Asks the engine's own condition of a text."""
    return _ask(condition)(Context("x", external=False, args={"x": words}, facts=Facts()))


def derive(hole: Node, words: str) -> str | None:
    """Returns what the engine derives from a text, such as its host; `None` if that has no such thing."""
    value = compile_value(hole)(Context("x", external=False, args={"x": words}, facts=Facts()))
    return value if isinstance(value, str) else None


def canonical(shapes: Iterable[Shape], words: str) -> str | None:
    """Returns the text in the form that actions have it in, or `None` if it is none of the shapes' texts."""
    for shape in shapes:
        normalise = FORMATS.get(shape.format)
        if normalise is not None:
            try:
                words = normalise(words)
            except ValueError:
                return None
        if not shape.chars_least <= len(words) <= (len(words) if shape.chars_most is None else shape.chars_most):
            return None
        if "text" in shape.listed and words not in (shape.choices or ()):
            return None
    return words


def find(wanted: Wanted, candidates_max: int = CANDIDATES_MAX) -> str | None:
    """Returns a text of which everything is so, or `None` if none was found.

    Args:
        wanted: What must be so.
        candidates_max: How many texts are tried.
    """
    for candidate in islice(_candidates(wanted), candidates_max):
        words = canonical(wanted.shapes, candidate)
        if words is not None and _fits(wanted, words):
            return words
    return _by_solver(wanted) if candidates_max == CANDIDATES_MAX else None


def _fits(wanted: Wanted, words: str) -> bool:
    return (
        words not in wanted.avoid
        and (wanted.chars is None or len(words) == wanted.chars)
        and (wanted.bytes is None or len(words.encode()) == wanted.bytes)
        and all(answer_of(condition, words) is truth for condition, truth in wanted.questions)
    )


@dataclass(slots=True)
class _Pieces:
    """What questions mention."""

    starts: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    middles: list[str] = field(default_factory=list)
    wholes: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def take(self, condition: Node) -> None:
        """Takes in what a question mentions."""
        operator, subject = str(condition[0]), condition[1]
        if operator == "in":
            for matcher in cast("Sequence[Node]", condition[2]):
                self._matcher(matcher)
            return
        constants = [cast("str", each[1]) for each in condition[1:] if isinstance(each, tuple) and each[0] == "text"]
        for words in constants:
            if isinstance(subject, tuple) and subject[0] in ("host", "domain") and operator in ("==", "<=", ">="):
                self.hosts.append(words)
            elif isinstance(subject, tuple) and subject[0] in ("host", "domain"):
                self.hosts.append(
                    {"starts": words + _TOP, "ends": f"a{words}", "contains": words + _TOP}.get(operator, words)
                )
            else:
                {"starts": self.starts, "ends": self.ends, "contains": self.middles}.get(operator, self.wholes).append(
                    words
                )
            if operator in ("<", "<=", ">", ">="):
                self.wholes += _neighbours(words)

    def _matcher(self, matcher: Node) -> None:
        match matcher:
            case "glob", str(pattern):
                first, _, last = pattern.partition("*")
                self.starts.append(first)
                self.ends.append(last)
            case (("domain" | "host"), str(pattern)):
                self.hosts += ["www" + pattern[1:]] if pattern.startswith("*.") else [pattern]
            case "path", str(folder):
                self.folders.append(folder.rstrip("/"))
            case "cidr", str(network):
                self.hosts.append(str(ipaddress.ip_network(network, strict=False)[0]))
            case "is", ("text", str(words)):
                self.wholes.append(words)


def _neighbours(words: str) -> list[str]:
    """Returns texts just before and just behind a text."""
    last = ord(words[-1]) if words else 0
    before = [words[:-1] + chr(last - 1)] if last > ord("!") else [words[:-1]] if words else []
    return [words + "!", words[:-1] + chr(last + 1) if words and last < ord("~") else words + "~", *before]


def _candidates(wanted: Wanted) -> Iterator[str]:
    yes, all_of = _Pieces(), _Pieces()
    for condition, truth in wanted.questions:
        all_of.take(condition)
        if truth is True:
            yes.take(condition)
    for shape in wanted.shapes:
        yield from (example for example in (*shape.examples, *(shape.choices or ())) if isinstance(example, str))
    families = {_FAMILY.get(shape.format, shape.format) for shape in wanted.shapes if shape.format}
    for pieces in (yes, all_of):
        for core in _cores(wanted):
            yield from _built(pieces, core, families)
        yield from pieces.wholes
        for words in pieces.wholes:
            yield from (words.upper(), words.lower(), words.title())
    for family in families or _DEFAULTS:
        yield from _DEFAULTS.get(family, ())
    yield ""


def _cores(wanted: Wanted) -> Iterator[str]:
    """Yields the part of a text that nobody asks about, as long as it has to be."""
    if wanted.chars is None and wanted.bytes is None:
        if wanted.hint.isascii() and wanted.hint:
            yield from (f"{wanted.hint}-{number}" for number in (1, 2, 3))
        yield from _CORES
        yield from (f"something{number}" for number in range(1, len(wanted.avoid) + 2))
        return
    chars = wanted.chars if wanted.chars is not None else cast("int", wanted.bytes)
    fixed = sorted({0, *(len(words) for words in _mentioned(wanted))})
    for used in fixed:
        for letter in ("a", "x"):
            yield _of_length(letter, chars - used, None if wanted.bytes is None else wanted.bytes - used)


def _mentioned(wanted: Wanted) -> Iterator[str]:
    """Yields what stands beside the core in texts that are built, so that its length can be taken off."""
    yes = _Pieces()
    for condition, truth in wanted.questions:
        if truth is True:
            yes.take(condition)
    families = {_FAMILY.get(shape.format, shape.format) for shape in wanted.shapes if shape.format}
    yield from _built(yes, "", families)


def _of_length(letter: str, chars: int, size: int | None) -> str:
    if chars <= 0:
        return ""
    extra = 0 if size is None else max(size - chars, 0)
    wide = min(chars, -(-extra // 3))
    rest = extra - 3 * (wide - 1) if wide else 0
    last = {0: letter, 1: "é", 2: "€", 3: "𐍈"}.get(rest, "𐍈")
    return letter * (chars - wide) + "𐍈" * max(wide - 1, 0) + (last if wide else "")


def _built(pieces: _Pieces, core: str, families: set[str]) -> Iterator[str]:
    if not families:
        yield from _plain(pieces, core)
    if "email" in families or not families:
        yield from _mails(pieces, core)
    if "uri" in families or not families:
        yield from _urls(pieces, core)
    if "hostname" in families or not families:
        for host in [*pieces.hosts, "example.org"]:
            yield from (host, f"{core}.{host}")
    if "path" in families or not families:
        for folder, end in product([*pieces.folders, "/somewhere", "somewhere"], ["", *pieces.ends]):
            yield from (f"{folder}/{core}{end}", folder)
    if families:
        yield from _plain(pieces, core)


def _plain(pieces: _Pieces, core: str) -> Iterator[str]:
    middle = "".join(dict.fromkeys(pieces.middles))
    plain = (core, middle + core, core + middle, middle)
    yield from (
        f"{start}{body}{end}"
        for start, body, end in product(["", *_longest(pieces.starts)], plain, ["", *_longest(pieces.ends)])
    )
    yield from (
        f"{start}{core}{each}{end}"
        for start, each, end in product(["", *pieces.starts], pieces.middles, ["", *pieces.ends])
    )


def _longest(words: list[str]) -> list[str]:
    return sorted(dict.fromkeys(words), key=len, reverse=True)


def _mails(pieces: _Pieces, core: str) -> Iterator[str]:
    domains = [*pieces.hosts, *(end.rpartition("@")[2] for end in pieces.ends if "@" in end), "example.org"]
    domains += [f"example{end}" for end in pieces.ends if end.startswith(".")]
    names = [core, *(start.partition("@")[0] + core for start in pieces.starts if start)]
    names += [f"{core}{middle}" for middle in pieces.middles if "@" not in middle]
    yield from (f"{name}@{domain}" for name, domain in product(names, dict.fromkeys(domains)))


def _urls(pieces: _Pieces, core: str) -> Iterator[str]:
    hosts = dict.fromkeys([*pieces.hosts, core + _TOP, "example.org"])
    tails = ["", *pieces.ends, *(f"/{middle.lstrip('/')}" for middle in pieces.middles)]
    for start in [start for start in pieces.starts if "://" in start]:
        yield from (start + body for body in (core, core + ".example/", f"/{core}", *pieces.hosts, *tails))
    for scheme, host, tail in product(("https", "http"), hosts, tails):
        name = f"[{host}]" if ":" in host else host
        yield from (f"{scheme}://{name}/{tail.lstrip('/')}", f"{scheme}://{name}/{core}{tail}")


def contradiction(wanted: Wanted) -> tuple[Node, ...] | None:
    """Returns conditions that no text can answer as wanted all at once, or `None` if that was not proved."""
    solver, texts, tracked = _question(wanted)
    if not texts or solver.check() != z3.unsat:
        return None
    return tuple(tracked[str(each)] for each in solver.unsat_core())


LENGTH: Final[Node] = ("chars", HOLE)
"""Stands for the length among conditions that contradict each other."""


def _by_solver(wanted: Wanted) -> str | None:
    if wanted.chars is not None or wanted.bytes is not None:
        return None
    solver, texts, _ = _question(wanted)
    if set(texts) != {HOLE} or solver.check() != z3.sat:
        return None
    found = solver.model()[texts[HOLE]]
    if found is None:
        return None
    words = canonical(wanted.shapes, found.as_string())
    return words if words is not None and _fits(wanted, words) else None


# Any: z3 ships no types
def _question(wanted: Wanted) -> tuple[Any, dict[Node, Any], dict[str, Node]]:
    """Puts the questions to z3's theory of strings: each thing that is derived from the text is a text of its own there."""
    solver = z3.Solver()
    solver.set("timeout", PROOF_MS)
    texts: dict[Node, Any] = {}
    tracked: dict[str, Node] = {}
    for number, (condition, truth) in enumerate(wanted.questions):
        if truth is None:
            continue
        subject, test = _as_string_test(condition, texts)
        if test is None:
            continue
        name = f"question {number} of {subject}"
        tracked[name] = condition
        solver.assert_and_track(test if truth else z3.Not(test), name)
    if wanted.chars is not None and HOLE in texts:
        tracked["length"] = LENGTH
        solver.assert_and_track(z3.Length(texts[HOLE]) == wanted.chars, "length")
    return solver, texts, tracked


def _as_string_test(condition: Node, texts: dict[Node, Any]) -> tuple[Node, Any]:
    operator = str(condition[0])
    if operator == "in":
        matchers = cast("Sequence[Node]", condition[2])
        matcher, subject = matchers[0], cast("Node", condition[1])
        if matcher[0] in ("domain", "host", "path"):
            subject = (str(matcher[0]), subject)
        string = texts.setdefault(subject, z3.String(f"text {len(texts)}"))
        return subject, _matcher_test(matcher, string)
    if operator == "present" or not isinstance(condition[1], tuple):
        return HOLE, None
    subject, other = cast("Node", condition[1]), cast("Node", condition[2])
    if other[0] != "text":
        return HOLE, None
    string = texts.setdefault(subject, z3.String(f"text {len(texts)}"))
    words = _string(str(other[1]))
    match operator:
        case "==":
            return subject, string == words
        case "starts":
            return subject, z3.PrefixOf(words, string)
        case "ends":
            return subject, z3.SuffixOf(words, string)
        case "contains":
            return subject, z3.Contains(string, words)
        case "<":
            return subject, string < words
        case "<=":
            return subject, string <= words
        case ">":
            return subject, words < string
        case ">=":
            return subject, words <= string
    return HOLE, None


def _string(words: str) -> Any:  # Any: z3 ships no types
    return z3.StringVal(words.replace("\\", "\\u{5c}"))  # a backslash would begin an escape there


def _matcher_test(matcher: Node, string: Any) -> Any:  # Any: z3 ships no types
    match matcher:
        case "glob", str(pattern):
            first, _, last = pattern.partition("*")
            length = z3.Length(string) >= len(first) + len(last)
            return z3.And(z3.PrefixOf(_string(first), string), z3.SuffixOf(_string(last), string), length)
        case (("domain" | "host"), str(pattern)):
            if pattern.startswith("*."):
                return z3.And(z3.SuffixOf(_string(pattern[1:]), string), z3.Length(string) > len(pattern) - 1)
            return string == _string(pattern)
        case "path", str(folder):
            top = folder.rstrip("/")
            return z3.Or(string == _string(top), z3.PrefixOf(_string(f"{top}/"), string))
    return None
