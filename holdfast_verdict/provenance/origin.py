"""Where a value is from, as far as its form can tell: kinds, labels, sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["user", "tool", "model", "constant"]

KINDS: Final[frozenset[str]] = frozenset({"user", "tool", "model", "constant"})
_TOOL_PAIR: Final = 2


class OriginInvalid(ValueError):
    """A recorded origin has not the form of one."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one value, or all values below a place, are from.

    Attributes:
        kinds: Whose words they are. More than one for a value that was put together.
        labels: What is said of those words. Model text has the labels of everything that the run had read.
        sources: Ids of the sources in which the value, or a part of it, was found, in their order.
        how: By what form it was found, such as `exact`, `base64`, `number`.
        read: Ids of the tools' outputs that model text may have drawn on without showing it: possible sources, not found ones.
    """

    kinds: frozenset[str]
    labels: frozenset[str] = frozenset()
    sources: tuple[str, ...] = ()
    how: tuple[str, ...] = ()
    read: tuple[str, ...] = ()

    def is_from(self, origin: str | Sequence[str]) -> bool | None:
        """Says whether this is from `user`, `model`, `tool`, a label, or `["tool", NAME]`.

        `None` is *cannot be told*: a rule against it fires, a rule that allows does not. That is so of model text that may repeat a
        tool's output in a form that nobody recognises.
        """
        if isinstance(origin, str):
            if origin == "user":
                return "user" in self.kinds and self.kinds <= {"user", "constant"}
            if origin == "tool":
                return True if "tool" in self.kinds else (None if self.read else False)
            if origin in KINDS:
                return origin in self.kinds
            return origin in self.labels
        if len(origin) != _TOOL_PAIR or origin[0] != "tool":
            return None
        if any(tool_of(source) == origin[1] for source in self.sources):
            return True
        return None if any(tool_of(source) == origin[1] for source in self.read) else False

    def to_json(self) -> dict[str, list[str]]:
        """Returns the form that a record holds, in one order."""
        return {
            "kinds": sorted(self.kinds),
            "labels": sorted(self.labels),
            "sources": list(self.sources),
            "how": list(self.how),
            "read": list(self.read),
        }

    @classmethod
    def from_json(cls, document: object) -> Origin:
        """Reads the recorded form.

        Raises:
            OriginInvalid: It is not one, or has a member or kind that is not known.
        """
        if not isinstance(document, Mapping) or not set(document) <= {"kinds", "labels", "sources", "how", "read"}:
            raise OriginInvalid("an origin is an object of kinds, labels, sources, how and read")
        members: dict[str, tuple[str, ...]] = {}
        for name in ("kinds", "labels", "sources", "how", "read"):
            value = document.get(name, ())
            if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
                raise OriginInvalid(f"{name} of an origin is a list of texts")
            members[name] = tuple(value)
        if not members["kinds"] or not set(members["kinds"]) <= KINDS:
            raise OriginInvalid(f"kinds of an origin are some of {', '.join(sorted(KINDS))}")
        return cls(
            frozenset(members["kinds"]),
            frozenset(members["labels"]),
            members["sources"],
            members["how"],
            members["read"],
        )


CONSTANT: Final = Origin(frozenset({"constant"}), how=("constant",))


def join(origins: Iterable[Origin]) -> Origin:
    """Returns the origin of a value that was put together from values of these origins; of none, a constant."""
    parts = list(dict.fromkeys(origins))
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return CONSTANT
    return Origin(
        frozenset[str]().union(*(part.kinds for part in parts)),
        frozenset[str]().union(*(part.labels for part in parts)),
        tuple(dict.fromkeys(source for part in parts for source in part.sources)),
        tuple(dict.fromkeys(how for part in parts for how in part.how)),
        tuple(dict.fromkeys(source for part in parts for source in part.read)),
    )


def tool_of(source: str) -> str:
    """Returns the tool's name in a source's id (`web.fetch#3`); nothing for what the user or the model said."""
    name, mark, _ = source.rpartition("#")
    return name if mark and name not in ("user", "model") else ""
