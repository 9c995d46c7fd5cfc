"""The product against the engine: cells in batches, each batch over the same processes, every cell's books checked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from bench.matrix.batch import Batch
from bench.matrix.books import Findings
from bench.matrix.cells import DIMENSIONS, Cell
from bench.matrix.covering import cover
from bench.matrix.diary import Diary
from bench.matrix.hall import Hall, open_hall
from holdfast.ledger.auditor import audit

SEED: Final = 5
_BATCH_CALLS: Final = 4_000
"""About so many calls are under way at once, over all cells of a batch."""
_TOLD_MAX: Final = 5
_BATCH_CELLS: Final = 96
_HOLDINGS: Final = {"1": 8, "50": 50, "500": 500}
_COSTS: Final = {"500": 20.0, "50": 2.0}


def quick() -> list[Cell]:
    """Returns cells in which every pair of values occurs, but for 500 at once, which take longer."""
    dimensions = {**DIMENSIONS, "concurrent": ("1", "50")}
    return [Cell(*row) for row in cover(dimensions, seed=SEED, costs=_COSTS)]


def _batches(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    groups: dict[tuple[str, str, bool], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.concurrent, cell.processes, cell.killed == "alive"), []).append(cell)
    for (concurrent, _, _), group in groups.items():
        size = max(min(_BATCH_CELLS, _BATCH_CALLS // _HOLDINGS[concurrent]), 1)
        for start in range(0, len(group), size):
            yield group[start : start + size]


async def play(
    cells: Sequence[Cell],
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    diary: Diary | None = None,
) -> Findings:
    """Plays cells, and checks their books and then all books.

    Args:
        cells: Which.
        tell: Gets a line of progress now and then.
        diary: Has the cells that were played before, which are not played again, and gets those that are.
    """
    total, started, told = Findings(), time.monotonic(), 0.0
    before = {} if diary is None else diary.findings
    for cell in cells:
        if cell in before:
            total.add(before[cell])
    async with open_hall() as hall:
        for batch in _batches([cell for cell in cells if cell not in before]):
            kills = hall.kills
            for name, findings in (await Batch(hall, batch).play()).items():
                findings.wrong = [f"{name}: {one}" for one in findings.wrong]
                for one in findings.wrong[:_TOLD_MAX]:
                    tell(f"wrong: {one}")
                findings.kills, kills = hall.kills - kills, hall.kills
                total.add(findings)
                if diary is not None:
                    diary.write(Cell.named(name), findings)
            took = time.monotonic() - started
            if took - told > 5 or total.cells == len(cells):  # noqa: PLR2004 (seconds)
                told = took
                tell(f"{total.cells} of {len(cells)} cells, {took:.0f} s, {hall.kills} kills, {len(total.wrong)} wrong")
        await _audit(hall, total)
    return total


async def _audit(hall: Hall, total: Findings) -> None:
    """Lets the ledger's own auditor look, too."""
    for one in (await audit(hall.auditor)).discrepancies:
        total.journal_mismatches += 1
        total.wrong.append(f"{one.tenant}: the auditor: {one.check}: {one.subject_id}: {one.message}")
