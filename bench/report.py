"""What a benchmark reports: figures with goals, on which machine; a table for people and JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]  # ships no types
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        value: What was measured.
        unit: In what.
        goal: What it should be: `<=` or `>=` and a number; `None` if it is only reported.
    """

    value: float
    unit: str
    goal: tuple[Literal["<=", ">="], float] | None = None

    @property
    def meets(self) -> bool | None:
        """Whether the goal is met; `None` without one."""
        if self.goal is None:
            return None
        comparison, bound = self.goal
        return self.value <= bound if comparison == "<=" else self.value >= bound


@dataclass(slots=True)
class Report:
    """The result of one benchmark.

    Attributes:
        bench: Its name.
        figures: Figures by key.
        wrong: Results that must not be (a loss, a doubling): these fail the benchmark, a missed speed does not.
        notes: What a reader has to know to believe the figures.
        details: What the figures were counted from, for the file alone.
    """

    bench: str
    figures: dict[str, Figure] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)

    def print(self) -> None:
        """Prints the table."""
        console = Console()
        table = Table("figure", "value", "unit", "goal", "meets", title=f"bench {self.bench}")
        for key, figure in self.figures.items():
            goal = "–" if figure.goal is None else f"{figure.goal[0]} {figure.goal[1]:g}"
            meets = {None: "–", True: "yes", False: "no"}[figure.meets]
            table.add_row(key, f"{figure.value:.4g}", figure.unit, goal, meets)
        console.print(table)
        for note in self.notes:
            console.print(f"· {note}", markup=False, soft_wrap=True)
        for wrong in self.wrong:
            console.print(f"[bold red]wrong[/]: {wrong}")

    def write(self, path: Path) -> None:
        """Writes the figures as JSON."""
        figures = {
            key: {
                "value": figure.value,
                "unit": figure.unit,
                "goal": None if figure.goal is None else f"{figure.goal[0]} {figure.goal[1]:g}",
                "meets": figure.meets,
            }
            for key, figure in self.figures.items()
        }
        document = {
            "bench": self.bench,
            "machine": machine(),
            "figures": figures,
            "wrong": self.wrong,
            "notes": self.notes,
        }
        if self.details:
            document["details"] = self.details
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, object]:
    """Describes the machine as far as it explains the figures."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }
