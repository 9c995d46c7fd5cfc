"""What every command shares: how it prints, and with which exit code it ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from types import MappingProxyType
from typing import Final

import typer
from rich.cells import cell_len
from rich.console import Console

from cli.text import safe, wrapped
from holdfast.errors import HoldfastError


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    ALREADY_RUNNING = 4
    RUN_FAILED = 5
    RUN_CANCELLED = 6
    LEFT = 7
    KEY_REFUSED = 8
    NOT_AFFORDABLE = 9


EXIT_CODE_WORDS: Final[Mapping[ExitCode, str]] = MappingProxyType(
    {
        ExitCode.OK: "done (a run: it succeeded)",
        ExitCode.FAILED: "failed (what and why stands on stderr)",
        ExitCode.USAGE: "wrong usage",
        ExitCode.NOT_RUNNING: "nothing runs or answers there",
        ExitCode.ALREADY_RUNNING: "it runs there already",
        ExitCode.RUN_FAILED: "the run failed, was timed out or terminated",
        ExitCode.RUN_CANCELLED: "the run was cancelled",
        ExitCode.LEFT: "the run goes on, but is no longer followed",
        ExitCode.KEY_REFUSED: "the API key was refused, or lacks the role",
        ExitCode.NOT_AFFORDABLE: "a cap does not afford it",
    }
)
EXIT_CODES_HELP: Final = (
    "Exit codes: " + ", ".join(f"{code.value} {words}" for code, words in EXIT_CODE_WORDS.items()) + "."
)
EXIT_CODES: Final[Mapping[str, ExitCode]] = MappingProxyType(
    {
        "stack.not_running": ExitCode.NOT_RUNNING,
        "stack.already_running": ExitCode.ALREADY_RUNNING,
        "auth.not_authenticated": ExitCode.KEY_REFUSED,
        "auth.not_permitted": ExitCode.KEY_REFUSED,
        "budget.insufficient": ExitCode.NOT_AFFORDABLE,
    }
)
"""Codes of errors that have an exit code of their own; all others end with 1."""
_STYLES: Final[Mapping[str, str]] = MappingProxyType(
    {"dim": "2", "bold": "1", "red": "1;31", "green": "32", "yellow": "1;33", "magenta": "1;35"}
)

_GOES_ON: Final = " " * 11
WIDTH_MIN: Final = 80
"""Lines are laid out for this many columns in a pipe and on narrower terminals."""

output = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


class Refused(HoldfastError):
    """The server refused; `refusal` is its stable code."""

    def __init__(self, message: str, refusal: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.refusal = refusal


def exit_code_of(error: HoldfastError) -> ExitCode:
    """Returns the exit code that an error ends a command with."""
    return EXIT_CODES.get(error.refusal if isinstance(error, Refused) else error.code, ExitCode.FAILED)


def say(line: str) -> None:
    """Prints a line. That nobody reads it any more (a closed terminal or pipe) never keeps work from going on."""
    with contextlib.suppress(OSError):
        write(f"{line}\n")


def write(text: str) -> None:
    """Writes text to stdout at once, also where its encoding lacks a character.

    Raises:
        OSError: Nobody reads it any more.
    """
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def note(line: str) -> None:
    """Prints a line about the command itself on stderr, so that stdout is the result alone."""
    with contextlib.suppress(OSError):
        sys.stderr.write(safe(line, keep="\n") + "\n")
        sys.stderr.flush()


def is_live() -> bool:
    """Says whether somebody looks: text is shown as it comes only on a terminal."""
    return sys.stdout.isatty()


def styled(text: str, style: str) -> str:
    """Returns text in a style, if the terminal has styles and `NO_COLOR` does not forbid them."""
    coloured = style and sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if coloured else text


def columns_of_terminal() -> int:
    """Returns how many columns a line has before the terminal breaks it by itself; 80 in a pipe."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or WIDTH_MIN
    except (OSError, ValueError):  # no terminal, or nothing that is a file
        return WIDTH_MIN


def width() -> int:
    """Returns for how many columns tables and drawings are laid out."""
    return max(columns_of_terminal(), WIDTH_MIN) if is_live() else WIDTH_MIN


def fitted(line: str) -> list[str]:
    """Returns a line as the terminal may show it: what goes over its edge goes on indented, so that it cannot pass for a line."""
    room = columns_of_terminal() - 1
    if not is_live() or cell_len(line) <= room:
        return [line]
    first, *rest = wrapped(line, max(room - len(_GOES_ON), 1))
    return [first, *(f"{_GOES_ON}{one}" for one in rest)]


@contextmanager
def reported() -> Iterator[None]:
    """Turns an error of ours into sentences on stderr and an exit code; any other is a bug and shows its traceback."""
    try:
        yield
    except HoldfastError as error:
        message = safe(error.message, keep="\n")
        errors.print(f"error: {message}", markup=False, style="red")
        if error.remedy:
            errors.print(f"  to do: {safe(error.remedy)}", markup=False)
        if not isinstance(error, Refused) and error.code != HoldfastError.code:  # a refusal's sentence names its own
            errors.print(f"  code:  {error.code} (`holdfast explain {error.code}`)", markup=False)
        raise typer.Exit(exit_code_of(error)) from None
