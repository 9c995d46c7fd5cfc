"""`python -m bench NAME [--json FILE] [--quick]`: one benchmark, compared with its baseline in the same run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from bench import overhead, startup, stream, tools

_BENCHES = {"overhead": overhead.measure, "startup": startup.measure, "stream": stream.measure, "tools": tools.measure}


def main(
    name: Annotated[str, typer.Argument(help=f"which: {', '.join(_BENCHES)}")],
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="under a minute, with rougher figures")] = False,
) -> None:
    """Runs one benchmark. A missed speed goal is reported; a wrong result exits with 1."""
    measure = _BENCHES.get(name)
    if measure is None:
        raise typer.BadParameter(f"there is no benchmark {name}; there are {', '.join(_BENCHES)}")
    report = asyncio.run(measure(quick=quick))
    report.print()
    if json is not None:
        report.write(json)
    raise typer.Exit(1 if report.wrong else 0)


if __name__ == "__main__":
    typer.run(main)
