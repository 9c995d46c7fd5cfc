"""What every command shares: how it prints, and with which exit code it ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from types import MappingProxyType
from typing import Final

import typer
from rich.console import Console

from holdfast.errors import HoldfastError


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    ALREADY_RUNNING = 4


EXIT_CODES_HELP: Final = (
    "Exit codes: 0 done, 1 failed (what and why stands on stderr), 2 wrong usage, 3 nothing runs there, "
    "4 it runs there already."
)
EXIT_CODES: Final[Mapping[str, ExitCode]] = MappingProxyType(
    {"stack.not_running": ExitCode.NOT_RUNNING, "stack.already_running": ExitCode.ALREADY_RUNNING}
)
"""Codes of errors that have an exit code of their own; all others end with 1."""

output = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Prints a line as it is. That nobody reads it any more (a closed terminal or pipe) never keeps work from going on."""
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


@contextmanager
def reported() -> Iterator[None]:
    """Turns an error of ours into sentences on stderr and an exit code; any other is a bug and shows its traceback."""
    try:
        yield
    except HoldfastError as error:
        errors.print(f"error: {error.message}", markup=False, style="red")
        if error.remedy:
            errors.print(f"  to do: {error.remedy}", markup=False)
        raise typer.Exit(EXIT_CODES.get(error.code, ExitCode.FAILED)) from None
