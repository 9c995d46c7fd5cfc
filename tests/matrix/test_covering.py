from __future__ import annotations

import itertools

import pytest

from bench.matrix import engine, governed
from bench.matrix.cells import DIMENSIONS, Cell, product
from bench.matrix.covering import complete, cover, parts
from holdfast.errors import RequestInvalid

SMALL = {"a": ("1", "2", "3"), "b": ("x", "y"), "c": ("p", "q", "r", "s")}


def occurs(rows: list[tuple[str, ...]], part: tuple[tuple[int, str], ...]) -> bool:
    return any(all(row[place] == value for place, value in part) for row in rows)


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_every_combination_occurs_in_few_rows(strength: int) -> None:
    rows = cover(SMALL, strength)
    wanted = parts(SMALL, strength)
    assert all(occurs(rows, part) for part in wanted)
    assert all(value in values for row in rows for value, values in zip(row, SMALL.values(), strict=True))
    assert len(set(rows)) == len(rows) <= {1: 5, 2: 14, 3: 24}[strength]


def test_parts_are_every_combination() -> None:
    assert len(parts(SMALL, 2)) == 3 * 2 + 3 * 4 + 2 * 4


def test_the_same_seed_gives_the_same_rows_and_what_is_dear_is_rare() -> None:
    assert cover(SMALL, seed=1) == cover(SMALL, seed=1)
    dear = cover(DIMENSIONS, costs={"500": 20.0})
    assert sum("500" in row for row in dear) <= min(sum(value in row for row in dear) for value in ("1", "50"))


def test_completing_keeps_what_is_there_and_stops_at_its_bound() -> None:
    rows = cover(SMALL, 2)
    more = complete(SMALL, rows, 3, count_max=len(rows) + 2)
    assert more[: len(rows)] == rows
    assert len(more) == len(rows) + 2


def test_each_cell_has_one_name() -> None:
    cells = list(product())
    assert len({str(cell) for cell in cells}) == len(cells)
    assert all(Cell.named(str(cell)) == cell and len(str(cell)) < 64 for cell in cells)
    for name in ("50-3", "50-1-given", f"{cells[0]}-more"):
        with pytest.raises(RequestInvalid):
            Cell.named(name)


def test_through_temporal_every_pair_of_values_occurs() -> None:
    rows = [tuple(str(cell).split("-")) for cell in governed.cover()]
    assert 90 <= len(rows) == len(set(rows)) <= governed.CELLS
    assert all(occurs(rows, part) for part in parts(DIMENSIONS, 2))


def test_the_quick_selection_against_the_engine_leaves_out_only_the_most_calls() -> None:
    quick = [tuple(str(cell).split("-")) for cell in engine.quick()]
    assert all(occurs(quick, part) for part in parts({**DIMENSIONS, "concurrent": ("1", "50")}, 2))
    assert not [row for row, other in itertools.combinations(quick, 2) if row == other]
