"""`python -m bench NAME [--json FILE] [--quick]`: one benchmark, compared with its baseline in the same run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bench import escape, overhead, sandbox, startup, stream, tools
from bench.agentdojo import measure as agentdojo
from bench.agentdojo.suite import DEFAULT_ATTACK, DEFAULT_VERSION
from bench.audit import measure as audit
from bench.ledger import measure as ledger
from bench.matrix import measure as matrix
from bench.policy import measure as policy
from bench.report import Report
from holdfast.errors import ConfigurationInvalid
from sandbox.errors import BackendMissing

# each takes `quick`, and some more; what a coroutine is sent and yields is nobody's business
_BENCHES: Final[Mapping[str, Callable[..., Coroutine[Any, Any, Report]]]] = {
    "agentdojo": agentdojo.measure,
    "audit": audit.measure,
    "escape": escape.measure,
    "ledger": ledger.measure,
    "matrix": matrix.measure,
    "overhead": overhead.measure,
    "policy": policy.measure,
    "sandbox": sandbox.measure,
    "startup": startup.measure,
    "stream": stream.measure,
    "tools": tools.measure,
}


def _flag(option: str) -> str:
    return f"--{'profile' if option == 'profiled' else option.replace('_', '-')}"


def main(
    name: Annotated[str, typer.Argument(help=f"which: {', '.join(_BENCHES)}")],
    *,
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="under a minute, with rougher figures")] = False,
    scale: Annotated[float | None, typer.Option(help="ledger: up to how many old holds, such as 1e7")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="ledger: only tell where the time goes")] = False,
    cell: Annotated[str, typer.Option(help="matrix: only the cell of that name")] = "",
    kept: Annotated[
        Path | None,
        typer.Option(help="matrix: a file that keeps each cell's findings; given again, it goes on from there"),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(help="agentdojo: workspace, banking, slack or travel; escape: a folder"),
    ] = "",
    language: Annotated[str, typer.Option(help="escape: shell or node, in whose place the attempts run")] = "",
    backend: Annotated[str, typer.Option(help="escape: native (default), bubblewrap or runsc")] = "",
    policy: Annotated[Path | None, typer.Option(help="agentdojo: file of the policy")] = None,
    suite_version: Annotated[str, typer.Option(help=f"agentdojo: version of its suites ({DEFAULT_VERSION})")] = "",
    attack: Annotated[str, typer.Option(help=f"agentdojo: the attack's text ({DEFAULT_ATTACK})")] = "",
    in_memory: Annotated[
        bool, typer.Option("--in-memory", help="agentdojo: decide without PostgreSQL, which is faster")
    ] = False,
    role: Annotated[str, typer.Option(help="agentdojo: which of the policy's roles acts, if there are several")] = "",
) -> None:
    """Runs one benchmark. A missed speed goal is reported; a wrong result exits with 1."""
    measure = _BENCHES.get(name)
    if measure is None:
        raise typer.BadParameter(f"there is no benchmark {name}; there are {', '.join(_BENCHES)}")
    own: Mapping[str, Mapping[str, object]] = {
        "ledger": {"scale": None if scale is None else int(scale), "profiled": profile},
        "matrix": {"cell": cell, "kept": kept},
        "escape": {"suite": suite, "language": language, "backend": backend},
        "agentdojo": {
            "suite": suite,
            "policy": policy,
            "suite_version": suite_version,
            "attack": attack,
            "role": role,
            "in_memory": in_memory,
        },
    }
    for other, values in own.items():
        given = [option for option, value in values.items() if value and option not in own.get(name, {})]
        if given and other != name:
            raise typer.BadParameter(f"{', '.join(map(_flag, given))} goes with the benchmark {other} only")
    options = {option: value for option, value in own.get(name, {}).items() if value}
    try:
        report = asyncio.run(measure(quick=quick, **options))
    except (ConfigurationInvalid, BackendMissing) as error:
        print(f"error: {error.message}. {error.remedy}", file=sys.stderr)
        raise typer.Exit(2) from None
    report.print()
    if json is not None:
        report.write(json)
    raise typer.Exit(1 if report.wrong else 0)


if __name__ == "__main__":
    typer.run(main)
