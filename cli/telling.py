"""What an event of a run says to a person: one line, a style, and the text that belongs to it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from cli.text import json_line
from holdfast.money import format_usd

if TYPE_CHECKING:
    from sdk import Event

Data = Mapping[str, Any]  # Any: the members of an event's data are JSON
FRAME: Final = frozenset({"run.created", "run.ended"})
"""The first and the last event of every run."""
ALWAYS_TOLD: Final = frozenset({"run.ended", "attempt_reset", "stream.gap"})
"""Types that no filter by channel withholds."""
_ACTION_WIDTH: Final = 16


@dataclass(frozen=True, slots=True)
class Telling:
    """What is to be shown of an event.

    Attributes:
        line: One line; it may hold what a model or a tool has said, and is made harmless where it is printed.
        style: A style of the terminal, or nothing.
        thinking: The model's reasoning that the event holds.
        text: What was answered, or what a tool said.
        commands: What the reader can do about it: commands without the options that name the server.
    """

    line: str
    style: str = ""
    thinking: str = ""
    text: str = ""
    commands: tuple[str, ...] = ()


def tell(event: Event) -> Telling:
    """Returns what an event says; one of a kind that is not known here says its data."""
    told = _TELLERS.get(event.type)
    return Telling(f"{event.type} {json_line(event.data)}") if told is None else told(event.data)


def _action(data: Data) -> str:
    step = f"{data.get('step', '')}.{data.get('try', '')}"
    return f"{step:>5}  {data.get('tool') or data.get('kind') or '':<{_ACTION_WIDTH}}"


def _usd(data: Data, name: str) -> str:
    return format_usd(int(data.get(name) or 0))


def _decided(data: Data) -> Telling:
    why = f"{data['code']}: {data['message']}"
    if data["verdict"] == "allow":
        held = f", {_usd(data, 'held_nano_usd')} held" if data.get("held_nano_usd") else ""
        return Telling(f"{_action(data)}  allowed{held}", "dim")
    if data["verdict"] == "deny":
        return Telling(f"{_action(data)}  DENIED   {why}", "red")
    return Telling(f"{_action(data)}  WAITS    {why}", "yellow")


def _alarm(data: Data) -> Telling:
    return Telling(f"{_action(data)}  ALARM    {data['code']}: {data['message']}", "red")


def _requested(data: Data) -> Telling:
    approval = data["approval_id"]
    until = (
        "" if not data.get("expires_at") else f" until {datetime.fromisoformat(data['expires_at']):%Y-%m-%d %H:%M} UTC"
    )
    return Telling(
        f"         it waits for consent{until}; an approver, not who started it, decides:",
        "yellow",
        commands=(f"holdfast approve {approval}", f"holdfast deny {approval}"),
    )


def _consented(data: Data) -> Telling:
    comment = f": {data['comment']}" if data.get("comment") else ""
    edited = " with other arguments" if data.get("edited") else ""
    style = "green" if data["verdict"] == "approved" else "red"
    return Telling(f"         step {data['step']} was {data['verdict']}{edited} by {data['by']}{comment}", style)


def _settled(data: Data) -> Telling:
    failed = f" ({data['error_code']})" if data.get("error_code") else ""
    simulated = ", simulated" if data.get("simulated") else ""
    if data["state"] != "committed":
        return Telling(
            f"{_action(data)}  {data['state']}, {_usd(data, 'held_nano_usd')} returned: {data['reason']}{failed}",
            "yellow",
        )
    of_held = f"{_usd(data, 'cost_nano_usd')} of {_usd(data, 'held_nano_usd')} spent"
    cost = f", {of_held}" if data.get("held_nano_usd") or data.get("cost_nano_usd") else ""
    return Telling(f"{_action(data)}  done{cost}{simulated}{failed}", "red" if failed else "green")


def _unknown(data: Data) -> Telling:
    hold = data["hold_id"]
    return Telling(
        f"{_action(data)}  UNKNOWN  {_usd(data, 'held_nano_usd')} stays held: {data['reason']}",
        "magenta",
        commands=tuple(
            f"holdfast holds resolve {hold} {answer} --reason …" for answer in ("--happened", "--did-not-happen")
        ),
    )


def _resolved(data: Data) -> Telling:
    happened = "it happened" if data["happened"] else "it did not happen"
    return Telling(f"         step {data['step']}: {happened}, {_usd(data, 'cost_nano_usd')} spent: {data['reason']}")


def _ended(data: Data) -> Telling:
    code = f" ({data['code']})" if data.get("code") else ""
    money = f"{_usd(data, 'spent_nano_usd')} spent, {_usd(data, 'held_nano_usd')} held"
    return Telling(f"the run has ended: {data['status']}{code}, {money}", "bold")


def _result(data: Data) -> Telling:
    how = "answered" if data["ok"] else "failed"
    return Telling(f"{_action(data)}  {how}", "" if data["ok"] else "red", text=str(data["content"]))


def _answered(data: Data) -> Telling:
    return Telling(
        f"{_action({**data, 'kind': 'llm.call'})}  answered",
        thinking=str(data.get("thinking") or ""),
        text=str(data.get("text") or ""),
    )


_TELLERS: Final[Mapping[str, Callable[[Data], Telling]]] = MappingProxyType(
    {
        "run.created": lambda data: Telling(
            f"run {data['run_id']} was admitted: {data['agent']} version {data['agent_version']}, for "
            f"{data['project']}/{data['user']}, at most {_usd(data, 'cap_nano_usd')}"
        ),
        "run.started": lambda _: Telling("it runs", "dim"),
        "run.paused": lambda _: Telling("it stands still: `holdfast resume` lets it go on", "yellow"),
        "run.waiting": lambda data: Telling(f"it waits for a person ({data['code']})", "yellow"),
        "run.running": lambda _: Telling("it goes on", "dim"),
        "run.cancel_requested": lambda data: Telling(
            f"{data['by']} has asked it to stop" + (f", with run {data['of_run_id']}" if "of_run_id" in data else ""),
            "yellow",
        ),
        "run.ended": _ended,
        "input.received": lambda data: Telling(f"{data['by']} has said something ({data['mode']})"),
        "decision.made": _decided,
        "decision.alarm": _alarm,
        "approval.requested": _requested,
        "approval.decided": _consented,
        "hold.settled": _settled,
        "hold.unknown": _unknown,
        "hold.resolved": _resolved,
        "budget.returned": lambda data: Telling(
            f"its guaranteed budget was given back: {_usd(data, 'spent_nano_usd')} of it was spent", "dim"
        ),
        "answer.final": _answered,
        "tool.result": _result,
        "code.result": _result,
        "attempt_reset": lambda data: Telling(f"{_action(data)}  is tried again: forget what came of it so far", "dim"),
        "stream.gap": lambda _: Telling("some pieces were too many to keep; the whole text follows", "dim"),
    }
)
