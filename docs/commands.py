"""The reference of the command line, made from the Typer app itself: every command with its arguments and options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, Final

import typer

from cli import session
from cli.main import app

# Any: Typer keeps the library under it, whose classes these are, to itself
Command = Any
Parameter = Any

_SHARED: Final = ("--url", "--profile", "--data-dir", "--key-file", "--json")
"""Options of all commands that call the API."""
_HEADINGS: Final = ("argument or option", "default", "what it is")


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (_HEADINGS, ["---"] * len(_HEADINGS), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _leaves(command: Command, path: str) -> Iterator[tuple[str, Command]]:
    """Yields all commands that do something, with the words that call them."""
    subcommands = getattr(command, "commands", None)
    if subcommands is None or command.invoke_without_command:
        yield path, command
    for name, each in (subcommands or {}).items():
        yield from _leaves(each, f"{path} {name}")


def _is_argument(parameter: Parameter) -> bool:
    return bool(parameter.param_type_name == "argument")


def _name(parameter: Parameter) -> str:
    return str(parameter.metavar or parameter.name).upper().replace("_", "-")


def _label(parameter: Parameter) -> str:
    options = (
        f"`{_name(parameter)}`"
        if _is_argument(parameter)
        else ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    )
    kind = parameter.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"{options} " + " or ".join(f"`{one.value}`" for one in kind)
    return options


def _default(parameter: Parameter) -> str:
    if parameter.required:
        return "required"
    default = getattr(parameter.default, "value", parameter.default)
    environment = f"`{parameter.envvar}`" if getattr(parameter, "envvar", None) else ""
    if default in (None, "", False) or callable(default):
        return environment or "–"
    return f"`{default}`"


def _rows(command: Command, *, shared: bool) -> list[tuple[str, str, str]]:
    return [
        (_label(parameter), _default(parameter), " ".join((getattr(parameter, "help", None) or "").split()))
        for parameter in command.params
        if parameter.name != "help"
        and (shared or not set(parameter.opts) & set(_SHARED))
        and not _is_completion(parameter)
    ]


def _is_completion(parameter: Parameter) -> bool:
    return parameter.name in ("install_completion", "show_completion")


def _calls_api(command: Command) -> bool:
    return set(_SHARED) <= {option for parameter in command.params for option in parameter.opts}


def reference() -> str:
    """Returns a section for each command: how it is called, what it does, what it takes."""
    lines: list[str] = []
    for path, command in _leaves(typer.main.get_command(app), app.info.name or "holdfast"):
        arguments = "".join(
            f" {_name(one)}" if one.required else f" [{_name(one)}]" for one in command.params if _is_argument(one)
        )
        called = ", ".join(f"`{option}`" for option in _SHARED)
        lines += ["", f"### {path}", "", f"`{path}{arguments}`", "", inspect.cleandoc(command.help or "")]
        shared = _calls_api(command)
        if rows := _rows(command, shared=not shared):
            lines += ["", *_table(rows)]
        if shared:
            lines += ["", f"It calls the API: {called}."]
    return "\n".join(lines[1:]) + "\n"


def shared_options() -> str:
    """Returns the table of the options that all commands have that call the API."""
    shared = typer.Typer()
    shared.command()(session.with_session(_nothing))
    command = typer.main.get_command(shared)
    return "\n".join(_table(_rows(command, shared=True))) + "\n"


def _nothing(_: session.Session) -> None:
    """Stands for a command that calls the API."""
