"""`python -m bench NAME [--json FILE] [--quick]`: one benchmark, compared with its baseline in the same run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bench import overhead, startup, stream, tools
from bench.ledger import measure as ledger
from bench.matrix import measure as matrix
from bench.policy import measure as policy
from bench.report import Report
from holdfast.errors import ConfigurationInvalid

# each takes `quick`, and some more; what a coroutine is sent and yields is nobody's business
_BENCHES: Final[Mapping[str, Callable[..., Coroutine[Any, Any, Report]]]] = {
    "ledger": ledger.measure,
    "matrix": matrix.measure,
    "overhead": overhead.measure,
    "policy": policy.measure,
    "startup": startup.measure,
    "stream": stream.measure,
    "tools": tools.measure,
}


def main(
    name: Annotated[str, typer.Argument(help=f"which: {', '.join(_BENCHES)}")],
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="under a minute, with rougher figures")] = False,
    scale: Annotated[float | None, typer.Option(help="ledger: up to how many old holds, such as 1e7")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="ledger: only tell where the time goes")] = False,
    cell: Annotated[str, typer.Option(help="matrix: only the cell of that name")] = "",
) -> None:
    """Runs one benchmark. A missed speed goal is reported; a wrong result exits with 1."""
    measure = _BENCHES.get(name)
    if measure is None:
        raise typer.BadParameter(f"there is no benchmark {name}; there are {', '.join(_BENCHES)}")
    options: dict[str, object] = {}
    if scale is not None:
        options["scale"] = int(scale)
    if profile:
        options["profiled"] = True
    if options and name != "ledger":
        raise typer.BadParameter("--scale and --profile go with the benchmark ledger only")
    if cell:
        if name != "matrix":
            raise typer.BadParameter("--cell goes with the benchmark matrix only")
        options["cell"] = cell
    try:
        report = asyncio.run(measure(quick=quick, **options))
    except ConfigurationInvalid as error:
        print(f"error: {error.message}. {error.remedy}", file=sys.stderr)
        raise typer.Exit(2) from None
    report.print()
    if json is not None:
        report.write(json)
    raise typer.Exit(1 if report.wrong else 0)


if __name__ == "__main__":
    typer.run(main)
