"""`python -m bench matrix`: the overspend matrix, against the engine and through Temporal, as a benchmark's report."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench.matrix import engine, governed
from bench.matrix.books import Findings
from bench.matrix.cells import Cell, product
from bench.matrix.diary import Diary
from bench.report import Figure, Report
from holdfast import logs

_GOVERNED = "temporal:"
_FEWER = "through Temporal, 50 calls at once are played as 10, and 500 as 50; leases of the dead are let run out, not waited for"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def measure(*, quick: bool, cell: str = "", kept: Path | None = None) -> Report:
    """Plays the matrix.

    Args:
        quick: Only cells in which every pair of values occurs, and those with few calls at once.
        cell: Only that cell; `temporal:` before its name takes it through Temporal.
        kept: A file that keeps what came of each cell against the engine, so that an interrupted matrix goes on where it was.
    """
    logs.configure("bench", "error")
    started = time.monotonic()
    diary = None if kept is None else Diary(kept)
    if cell.startswith(_GOVERNED):
        direct, through = Findings(), await governed.play([Cell.named(cell.removeprefix(_GOVERNED))], _tell)
    elif cell:
        direct, through = await engine.play([Cell.named(cell)], _tell), Findings()
    else:
        _tell("the product against the engine")
        direct = await engine.play(engine.quick() if quick else list(product()), _tell, diary)
        _tell("a cover of all pairs through Temporal")
        through = await governed.play(governed.quick() if quick else governed.cover(), _tell)
    made = report(direct, through)
    made.figures["took_s"] = Figure(round(time.monotonic() - started), "s")
    if not cell:
        made.notes += [_told(direct, quick=quick), _FEWER]
    return made


def _told(direct: Findings, *, quick: bool) -> str:
    all_cells = sum(1 for _ in product())
    if quick:
        return f"{direct.cells} of the product's {all_cells:,} cells: every pair of values but those with 500 at once"
    return f"{direct.cells:,} of the product's {all_cells:,} cells"


def report(direct: Findings, through: Findings) -> Report:
    """Returns the report of what came of the cells against the engine and of those through Temporal."""
    both = Findings()
    both.add(direct)
    both.add(through)
    share = both.used_nano_usd / both.usable_nano_usd if both.usable_nano_usd else 0.0
    figures = {
        "cells": Figure(direct.cells, "cells"),
        "cells_through_temporal": Figure(through.cells, "cells"),
        "overspend_nano_usd": Figure(both.overspend_nano_usd, "nano-dollars", ("<=", 0)),
        "false_denials": Figure(both.false_denials, "denials", ("<=", 0)),
        "nonterminal_holds": Figure(both.nonterminal_holds, "holds", ("<=", 0)),
        "journal_mismatches": Figure(both.journal_mismatches, "mismatches", ("<=", 0)),
        "cap_used_share": Figure(share, "of 1", (">=", 0.95)),
        "denied_by_outstanding_only": Figure(both.denied_by_outstanding_only, "denials"),
        "cells_over_demand": Figure(both.exceeded, "cells"),
        "holds": Figure(both.holds, "holds"),
        "decisions": Figure(both.decisions, "decisions"),
        "denials": Figure(both.denials, "denials"),
        "holds_with_debt": Figure(both.debts, "holds"),
        "billed_and_never_told_nano_usd": Figure(both.untold_nano_usd, "nano-dollars"),
        "kills": Figure(both.kills, "kills"),
        "cells_spared_by_kills": Figure(both.spared, "cells"),
    }
    wrong = [f"{one} (alone: --cell {_name(one)})" for one in direct.wrong]
    wrong += [f"through Temporal: {one} (alone: --cell {_GOVERNED}{_name(one)})" for one in through.wrong]
    return Report("matrix", figures, wrong)


def _name(wrong: str) -> str:
    return wrong.partition(":")[0]
