"""What one evaluation knows and what it has read so far. Conditions read facts only through here, so that none is read unrecorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from holdfast_verdict.engine.facts import Facts, HistoryFacts, LocalTime, Release
from holdfast_verdict.engine.numbers import Number
from holdfast_verdict.engine.unknown import UNKNOWN, Unknown
from holdfast_verdict.provenance.leaves import Path, constants_in, leaves_of, shown
from holdfast_verdict.provenance.origin import CONSTANT, Origin

if TYPE_CHECKING:
    from holdfast_verdict.engine.program import Program

MAX_STEPS: Final = 200_000
"""Members of lists that one decision may look at, over all of its rules; beyond, it denies."""


_LABELS: Final = ("labels", "")


class TooMuchWork(Exception):  # an error of the evaluation, never seen outside of it
    """A decision would look at more members of lists than it may."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A value and where in the arguments it stands; `None` for one that stands elsewhere."""

    value: object
    path: Path | None


class Context:
    """One evaluation.

    Attributes:
        name: The action's name.
        external: Whether the action leaves the tenant's boundary.
        args: Its arguments.
        facts: What was given.
        program: The policy by which it is decided; without, nothing can be asked of history.
        parameters: The schema of the arguments, where it is known.
        read: What was read of it so far, by the names under which it is recorded.
        missing: Facts that were asked for and not given, in the order of asking.
        variables: What `every` and `some` have bound.
        steps: Members of lists looked at so far.
        constants: Paths of arguments whose values the schema lists, once somebody asked.
    """

    __slots__ = (
        "args",
        "constants",
        "external",
        "facts",
        "missing",
        "name",
        "parameters",
        "program",
        "read",
        "steps",
        "variables",
    )

    def __init__(  # one is made for each decision, and a dataclass would take three times as long
        self,
        name: str,
        external: bool,
        args: Mapping[str, object],
        facts: Facts,
        program: Program | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        self.name = name
        self.external = external
        self.args = args
        self.facts = facts
        self.program = program
        self.parameters = parameters
        self.read: dict[tuple[str, str], object] = {}
        self.missing: list[str] = []
        self.variables: dict[str, Bound] = {}
        self.steps = 0
        self.constants: set[str] | None = None

    def step(self, count: int) -> None:
        """Counts work that grows with the action's size.

        Raises:
            TooMuchWork: It is more than one decision may do.
        """
        self.steps += count
        if self.steps > MAX_STEPS:
            raise TooMuchWork

    def _lacks(self, name: str) -> Unknown:
        self.missing.append(name)
        return UNKNOWN

    def principal(self, name: str) -> object:
        """Reads a member of the principal."""
        value = self.facts.principal.get(name)
        if value is None:
            return self._lacks(f"principal.{name}")
        if type(value) is not str and not _is_names(value):
            raise TypeError(f"principal.{name} is neither a name nor a list of names")
        self.read["principal", name] = value
        return value

    def now_ms(self) -> int | Unknown:
        """Reads the time."""
        now_ms = self.facts.now_ms
        if type(now_ms) is not int:
            return self._lacks("now_ms")
        self.read["now_ms", ""] = now_ms
        return now_ms

    def local(self, zone: str) -> LocalTime | Unknown:
        """Reads the time on the clocks of a zone."""
        local = self.facts.zones.get(zone)
        if not isinstance(local, LocalTime):
            return self._lacks(f"zones.{zone}")
        self.read["zones", zone] = local
        return local

    def labels(self) -> frozenset[str] | Unknown:
        """Reads the run's labels; where they were not given, those of the sources that were."""
        labels = self.labels_given()
        return self._lacks("labels") if labels is None else labels

    def labels_given(self) -> frozenset[str] | None:
        """Reads the run's labels, if they were given."""
        known = self.read.get(_LABELS)
        if known is None:
            known = self.facts.run_labels()
            if known is not None:
                self.read[_LABELS] = known
        return known  # type: ignore[return-value]  # only this function writes under that name

    def released(self) -> tuple[Release, ...]:
        """Reads the releases that were recorded."""
        self.read["released", ""] = self.facts.released
        return self.facts.released

    def leaves(self, value: object, path: Path) -> dict[str, list[object]]:
        """Returns the leaves below a value by their paths as text."""
        found: dict[str, list[object]] = {}
        for leaf_path, leaf in leaves_of(value, path):
            self.step(1)
            found.setdefault(shown(leaf_path), []).append(leaf)
        return found

    def origin(self, path: str, leaves: list[object]) -> Origin | Unknown:
        """Reads where the leaves at a path of the arguments are from."""
        known = self.read.get(("origins", path))
        if known is not None:
            return known  # type: ignore[return-value]  # only this function writes under that name
        origin = self.facts.origin(path, leaves) if path not in self._constants_of_schema() else CONSTANT
        if origin is None:
            return self._lacks(f"sources of args.{path}")
        self.read["origins", path] = origin
        return origin

    def _constants_of_schema(self) -> set[str]:
        """Returns the paths of values that the schema lists itself: choosing one of them carries nobody's words."""
        if self.parameters is None or self.facts.origins is not None:
            return set()  # who gave the origins has looked at the schema
        if self.constants is None:
            self.constants = constants_in(self.args, self.parameters)
        return self.constants

    def watch(self, watch_id: str) -> Number | Unknown:
        """Reads what history says for this action."""
        watch = None if self.program is None else self.program.watches.get(watch_id)
        key = UNKNOWN if watch is None else watch.present_key(self)
        if watch is None or isinstance(key, Unknown):
            return UNKNOWN
        history = self.facts.history
        value: object = None
        if isinstance(history, HistoryFacts):
            value = history.watches.get(watch_id)
        elif history is not None:
            value = history.value(watch, key, self.facts)  # type: ignore[union-attr]  # a list was made a History before
        if value is None:
            return self._lacks(f"history.{watch_id}")
        self.read["history", watch_id] = value
        if isinstance(value, str):
            return self._lacks(value)
        return value  # type: ignore[return-value]  # a number, or UNKNOWN

    def estimate(self, unit: str) -> int | Unknown:
        """Reads what the action may cost at worst."""
        estimate = self.facts.estimate
        amount = None if estimate is None else estimate.of(unit)
        if type(amount) is not int:
            return self._lacks(f"estimate.{unit}")
        self.read["estimate", unit] = amount
        return amount


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
