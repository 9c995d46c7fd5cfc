"""`holdfast …`: the command line. Each noun's module registers its own commands here."""

from __future__ import annotations

import typer

from cli import (
    approvals,
    artefacts,
    audit,
    caps,
    codes,
    decisions,
    environments,
    estimate,
    holds,
    inputs,
    keys,
    ledger,
    log,
    logs,
    profiles,
    releases,
    replay,
    run,
    runs,
    signers,
    spend,
    stops,
    tenants,
    vault,
    webhooks,
)
from cli.backup import commands as backup
from cli.deployment import commands as deployment
from cli.doctor import commands as doctor
from cli.policy import commands as policy
from cli.project import commands as project
from cli.stack import commands as stack
from cli.terminal import EXIT_CODES_HELP

app = typer.Typer(
    name="holdfast",
    help="The enforcement layer between AI agents and production systems: no agent action runs without a hold.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they may hold keys
)
for noun in (
    stack,
    run,
    runs,
    log,
    logs,
    inputs,
    artefacts,
    approvals,
    signers,
    releases,
    caps,
    estimate,
    spend,
    decisions,
    holds,
    stops,
    ledger,
    audit,
    policy,
    project,
    keys,
    tenants,
    vault,
    webhooks,
    replay,
    profiles,
    doctor,
    backup,
    deployment,
    environments,
    codes,
):
    noun.register(app)

if __name__ == "__main__":
    app()
