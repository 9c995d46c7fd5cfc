"""What the person at the terminal sees: one line for each thing that happens, as it happens."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from holdfast.money import format_usd
from sdk import Decision, Event, Hold

_PIPE_WIDTH: Final = 170
_TIME_WIDTH: Final = 12
_TABLE_WIDTH_MIN: Final = 140
_SAID_LENGTH_MIN: Final = 30


def _console() -> Console:
    # in a pipe there is no width to fit into
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


@dataclass(slots=True)
class Show:
    """Prints, and remembers when it began.

    Attributes:
        label: Stands on every line that a model has a part in; empty if a real one thinks.
        quiet: Says nothing more, for what comes after the last word.
        waited_s: Seconds that went by while a person made up their mind.
    """

    label: str = ""
    console: Console = field(default_factory=_console)
    quiet: bool = False
    began: float = field(default_factory=time.monotonic)
    waited_s: float = 0.0
    _settled: Event | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def chapter(self, title: str) -> None:
        """Begins a part of the story."""
        self.console.print(f"\n[bold]── {escape(title)} ──[/]")

    def say(self, text: str, style: str = "") -> None:
        """Prints a line with its time."""
        if self.quiet:
            return
        self.console.print(f"[dim]{self.elapsed_s:6.1f} s[/]  {_styled(text, style)}")

    def strike(self, text: str) -> None:
        """Prints a line about something that was broken on purpose."""
        self.say(f"!! {text}", "bold magenta")

    def event(self, event: Event) -> None:
        """Prints an event of a run, if it is one that people should see."""
        if not event.durable:
            return
        if self._settled is not None:
            # the words of a model stand in the event after its settlement
            self._line(self._settled, said=str(event.data.get("text", "")) if event.type == "answer.final" else "")
            self._settled = None
        data = event.data
        if event.type == "decision.made":
            self._decision(event)
        elif event.type == "hold.settled":
            self._settled = event
            if data.get("kind") != "llm.call":
                self._line(event)
                self._settled = None
        elif event.type == "hold.unknown":
            self._line(event)
        elif event.type == "approval.decided":
            self.say(f"        {'':<16}  {data['verdict']} by {data['by']}", "bold green")
        elif event.type == "run.ended":
            how = f"{data['status']} {data['code']}".strip()
            self.say(f"the run has ended: {how}", "bold")

    def _decision(self, event: Event) -> None:
        data = event.data
        if data["verdict"] == "allow":
            return  # one line is enough: that of its settlement, which says what was held
        waits = data["verdict"] == "needs_approval"
        self.say(
            f"{_action(event)}  {'WAITS' if waits else 'DENIED':<7}  {data['code']}: {data['message']}",
            "bold yellow" if waits else "bold red",
        )

    def _line(self, event: Event, said: str = "") -> None:
        data = event.data
        held, spent = int(data["held_nano_usd"]), int(data["cost_nano_usd"])
        label = f"  {self.label}" if self.label and data["kind"] == "llm.call" else ""
        if event.type == "hold.unknown":
            self.say(
                f"{_action(event)}  UNKNOWN  {format_usd(held)} stays held: {data['reason']}{label}", "bold magenta"
            )
            return
        failed = f": {data['error_code']}" if data["error_code"] else ""
        if data["state"] != "committed":
            self.say(
                f"{_action(event)}  {data['state']}   {format_usd(held)} returned: {data['reason']}{failed}{label}"
            )
            return
        if data["kind"] == "tool.call":
            self.say(f"{_action(event)}  allowed  held 1 call, executed, settled{failed}")
            return
        line = f"{_action(event)}  allowed  held {format_usd(held)}, executed, settled: {format_usd(spent)} spent{failed}{label}"
        self.say(f"{line}  {self._fitting(said, len(line))}")

    def _fitting(self, said: str, used: int) -> str:
        """Returns what a model said, as much of it as fits on the rest of a line."""
        words = " ".join(said.split())
        room = max(self.console.width - used - _TIME_WIDTH, _SAID_LENGTH_MIN)
        return "" if not words else f"“{words}”" if len(words) + 2 <= room else f"“{words[: room - 3]}…”"

    def table(self, decisions: Sequence[Decision], holds: Sequence[Hold]) -> None:
        """Prints all decisions of a run with the money held, spent, returned and still held; the last line is their sum."""
        table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
        by_id = {hold.hold_id: hold for hold in holds}
        rows = [(decision, by_id.get(decision.hold_id or "")) for decision in decisions if decision.step is not None]
        money = [amounts(hold) for _, hold in rows if hold is not None]
        totals = [format_usd(sum(column)) for column in zip(*money, strict=True)] or ["$0"] * 4
        for heading, footer in (("step.try", ""), ("action", ""), ("verdict", ""), ("code", f"{len(rows)} decisions")):
            table.add_column(heading, footer, no_wrap=True)
        for heading, footer in zip(("held", "spent", "returned", "still held"), totals, strict=True):
            table.add_column(heading, footer, justify="right", no_wrap=True)
        for decision, hold in rows:
            style = {"deny": "red", "needs_approval": "yellow"}.get(decision.verdict, "")
            table.add_row(
                f"{decision.step}.{decision.try_number}",
                decision.tool or decision.kind,
                decision.verdict,
                ", ".join(decision.reason_codes),
                *(("", "", "", "") if hold is None else [format_usd(one) if one else "" for one in amounts(hold)]),
                style=style,
            )
        Console(highlight=False, width=max(self.console.width, _TABLE_WIDTH_MIN)).print(table)

    def check(self, holds: bool, text: str, found: str = "") -> None:
        """Prints a finding."""
        mark = "[bold green]✓[/]" if holds else "[bold red]✗[/]"
        self.console.print(f"  {mark} {escape(text)}" + (f" [dim]({escape(found)})[/]" if found else ""))


def amounts(hold: Hold) -> tuple[int, int, int, int]:
    """Returns what was held, spent, returned, and is still held of a hold, in nano-dollars: the first is the sum of the rest."""
    held = hold.max_cost_nano_usd
    if hold.settled_at is None:
        return held, 0, 0, held
    spent = hold.cost_nano_usd or 0
    return held, spent, held - spent, 0


def _action(event: Event) -> str:
    data = event.data
    step = f"{data['step']}.{data['try']}"
    return f"{step:>6}  {data['tool'] or data['kind']:<16}"


def _styled(text: str, style: str) -> str:
    return f"[{style}]{escape(text)}[/]" if style else escape(text)
