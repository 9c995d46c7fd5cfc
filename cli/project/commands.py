"""`holdfast apply`, `new`, `agents`, `roles` and `tools`: what an agent is, may do and has, from files and on a server."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.session import AsJson, Session, with_session
from cli.terminal import EXIT_CODES_HELP, reported

ProjectFolder = Annotated[Path, typer.Option(help="The project's folder.")]
Name = Annotated[str | None, typer.Argument(help="Show this one whole.")]


class Starter(StrEnum):
    """What an agent may start from."""

    PLAIN = "plain"
    SUPPORT = "support"
    DATA_ANALYSIS = "data-analysis"
    CODING = "coding"


class Source(StrEnum):
    """What a tool may be made of."""

    PYTHON = "python"
    OPENAPI = "openapi"
    SQL = "sql"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (apply, agents, roles, tools):
        app.command(epilog=EXIT_CODES_HELP)(command)
    group = typer.Typer(help="Makes a working example to start from.", no_args_is_help=True)
    for command in (agent, tool):
        group.command(epilog=EXIT_CODES_HELP)(command)
    app.add_typer(group, name="new")


@with_session
def apply(
    session: Session,
    folder: Annotated[Path, typer.Argument(help="The project: a folder with agents/, roles/ and tools/.")] = Path(),
    check: Annotated[bool, typer.Option("--check", help="Only say what would change.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and apply whatever changes, until Ctrl-C.")] = False,
) -> None:
    """Brings agents, roles and tools of a folder to the server: what is new or changed becomes a new version.

    Everything is read and checked first, with the cases of all roles, so that a mistake changes nothing. New runs use the
    new versions; running ones keep theirs. What is on the server but not in the folder stays.
    """
    from cli.project import apply as applying

    if watch:
        applying.watch(folder, [argument for argument in sys.argv[1:] if argument != "--watch"])
    else:
        applying.apply(session, folder, check=check)


def agent(
    name: Annotated[str, typer.Argument(help="Name of the agent, such as help-desk.")],
    starter: Annotated[Starter, typer.Option(help="What to start from.")] = Starter.PLAIN,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Makes an agent with a role of its own: what it may do, with cases that are checked at every `apply`."""
    from cli.project import new

    with reported():
        made = new.agent(folder, name, starter.value)
        Session(None, None, None, as_json).show(made, lambda: new.lines(made))


def tool(
    name: Annotated[str, typer.Argument(help="Dotted name of the tool, such as crm.lookup.")],
    source: Annotated[Source, typer.Option(help="What it is made of.")] = Source.PYTHON,
    folder: ProjectFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Makes a tool that works as it is: a Python package with its test, an OpenAPI document, or an SQL query."""
    from cli.project import new

    with reported():
        made = new.tool(folder, name, source.value)
        Session(None, None, None, as_json).show(made, lambda: new.lines(made))


@with_session
def agents(session: Session, name: Name = None) -> None:
    """Lists agents, or shows one."""
    if name is not None:
        agent = session.client.agent(name)
        session.show(agent, lambda: _whole(f"agent {agent.name}, version {agent.version}", agent.definition))
        return
    found = session.client.agents()
    rows = (
        [
            agent.name,
            str(agent.version),
            str(agent.definition["role"]),
            f"{agent.definition['model']['wire']} {agent.definition['model']['name']}",
            ", ".join(agent.definition["tools"]),
        ]
        for agent in found
    )
    session.show_table(
        found, ["agent", "version", "role", "model", "tools"], rows, "there are no agents: `holdfast new`"
    )


@with_session
def roles(session: Session, name: Name = None) -> None:
    """Lists roles, or shows what one may do."""
    if name is not None:
        role = session.client.role(name)
        session.show(role, lambda: [f"# role {role.name}, version {role.version}", *role.policy.splitlines()])
        return
    found = session.client.roles()
    rows = ([role.name, str(role.version), role.policy_hash[:16]] for role in found)
    session.show_table(found, ["role", "version", "policy hash"], rows, "there are no roles: `holdfast new`")


@with_session
def tools(session: Session, name: Name = None) -> None:
    """Lists the tenant's own tools, or shows one; those that Holdfast brings along are in the reference."""
    if name is not None:
        tool = session.client.tool(name)
        session.show(
            tool, lambda: _whole(f"tool {tool.name}, version {tool.version}, definition {tool.digest}", tool.definition)
        )
        return
    found = session.client.tools()
    rows = (
        [
            tool.name,
            str(tool.version),
            str(tool.definition["binding"]["source"]),
            ", ".join(
                mark if tool.definition[mark] else f"not {mark}" for mark in ("external", "idempotent", "reversible")
            ),
            tool.definition["credential"] or "",
            tool.digest[:16],
        ]
        for tool in found
    )
    headings = ["tool", "version", "source", "marks", "credential", "definition"]
    session.show_table(found, headings, rows, "the tenant has no tools of its own: `holdfast new tool`")


def _whole(heading: str, value: object) -> list[str]:
    return [heading, json.dumps(value, indent=2, ensure_ascii=False)]
