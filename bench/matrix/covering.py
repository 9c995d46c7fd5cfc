"""Covering arrays: few cells in which nevertheless every pair (or triple) of values of two (three) dimensions occurs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

Row = tuple[str, ...]
_Part = tuple[tuple[int, str], ...]


def parts(dimensions: Mapping[str, Sequence[str]], strength: int) -> set[_Part]:
    """Returns every combination of values of `strength` dimensions, as (dimension's place, value)."""
    places = itertools.combinations(range(len(dimensions)), strength)
    values = list(dimensions.values())
    return {
        tuple(zip(chosen, combination, strict=True))
        for chosen in places
        for combination in itertools.product(*(values[place] for place in chosen))
    }


def parts_of(row: Row, strength: int) -> set[_Part]:
    """Returns the combinations that a row covers."""
    return {
        tuple((place, row[place]) for place in chosen) for chosen in itertools.combinations(range(len(row)), strength)
    }


def cover(
    dimensions: Mapping[str, Sequence[str]],
    strength: int = 2,
    *,
    seed: int = 0,
    costs: Mapping[str, float] | None = None,
) -> list[Row]:
    """Returns rows that cover every combination of values of `strength` dimensions, greedily; the same for the same seed.

    Args:
        dimensions: Each dimension with its values.
        strength: 2 covers pairs, 3 triples.
        seed: Of the choices between rows that are equally good.
        costs: What a row with that value costs, where it is not 1: dear rows are made to cover much.
    """
    return complete(dimensions, [], strength, seed=seed, costs=costs)


def complete(
    dimensions: Mapping[str, Sequence[str]],
    rows: Sequence[Row],
    strength: int,
    *,
    seed: int = 0,
    costs: Mapping[str, float] | None = None,
    count_max: int | None = None,
) -> list[Row]:
    """Adds to rows until they cover every combination of values of `strength` dimensions, or there are `count_max` of them."""
    chance = random.Random(seed)  # noqa: S311 (a choice that is to be the same again)
    left = parts(dimensions, strength).difference(*(parts_of(row, strength) for row in rows))
    made = list(rows)
    while left and (count_max is None or len(made) < count_max):
        candidates = [_grown(dimensions, left, chance) for _ in range(12)]
        row = max(candidates, key=lambda one: len(parts_of(one, strength) & left) / _cost(one, costs or {}))
        made.append(row)
        left -= parts_of(row, strength)
    return made


def _cost(row: Row, costs: Mapping[str, float]) -> float:
    return max(costs.get(value, 1.0) for value in row)


def _grown(dimensions: Mapping[str, Sequence[str]], left: set[_Part], chance: random.Random) -> Row:
    """Returns a row that covers at least one of what is left: it starts with that, and grows by the best value each time."""
    seedling = dict(chance.choice(sorted(left)))
    places = [place for place in range(len(dimensions)) if place not in seedling]
    chance.shuffle(places)
    values = list(dimensions.values())
    for place in places:
        gains = {
            value: sum(1 for part in left if (place, value) in part and _agrees(part, seedling, place))
            for value in values[place]
        }
        best = max(gains.values())
        seedling[place] = chance.choice([value for value in values[place] if gains[value] == best])
    return tuple(seedling[place] for place in range(len(dimensions)))


def _agrees(part: _Part, chosen: Mapping[int, str], place: int) -> bool:
    return all(other == place or chosen.get(other) == value for other, value in part)
