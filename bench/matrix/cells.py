"""The cells of the matrix: its dimensions, their names, and the whole product."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final

from holdfast.errors import RequestInvalid

DIMENSIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "concurrent": ("1", "50", "500"),
        "processes": ("1", "2", "4"),
        "max_tokens": ("given", "absent"),
        "fit": ("exact", "rest"),
        "stream": ("whole", "start", "middle", "end"),
        "provider": ("less", "equal", "four", "nousage", "error"),
        "again": ("once", "retry", "fallback"),
        "killed": ("alive", "before", "during", "after"),
        "event": ("quiet", "rollover", "lowered"),
    }
)
"""Each dimension with its values; a cell's name is one value of each, joined by dashes.

- `concurrent`: calls that are asked for at once; with 1 they come one after the other.
- `processes`: operating system processes that share the calls.
- `max_tokens`: given, or absent, so that the default or less is taken.
- `fit`: the cap is an exact multiple of a hold, or leaves a rest.
- `stream`: it comes whole, or is aborted at its start, in its middle, at its end.
- `provider`: it returns less than `max_tokens`, as many, bills four times as many, reports no usage, or fails after billing.
- `again`: what a failed call is followed by: nothing, the same once more, or a dearer model.
- `killed`: a process is killed with -9 before, during or after the execution of calls that it has holds for.
- `event`: nothing; or while calls are under way, the cap's window ends, or the cap is lowered.
"""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One combination."""

    concurrent: str
    processes: str
    max_tokens: str
    fit: str
    stream: str
    provider: str
    again: str
    killed: str
    event: str

    def __str__(self) -> str:
        return "-".join(getattr(self, field.name) for field in fields(self))

    @classmethod
    def named(cls, name: str) -> Cell:
        """Returns the cell of that name.

        Raises:
            RequestInvalid: There is none.
        """
        values = name.split("-")
        for (dimension, possible), value in zip(DIMENSIONS.items(), values, strict=False):
            if value not in possible:
                raise RequestInvalid(f"{value!r} is no {dimension}", remedy=f"it is one of {', '.join(possible)}")
        if len(values) != len(DIMENSIONS):
            raise RequestInvalid(f"{name!r} is no cell", remedy=f"name one value of each: {'-'.join(DIMENSIONS)}")
        return cls(*values)

    @property
    def calls(self) -> int:
        """How many calls are asked for at once."""
        return int(self.concurrent)

    @property
    def process_count(self) -> int:
        """How many processes share them."""
        return int(self.processes)


def product() -> Iterator[Cell]:
    """Yields every cell, in a fixed order."""
    for values in itertools.product(*DIMENSIONS.values()):
        yield Cell(*values)
