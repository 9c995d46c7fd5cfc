"""`python -m docs.generate`: writes the tables of the reference that come from the code. With `--check` it only compares.

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; everything around it is written by hand.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import docstring_parser
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from activities.tools.openapi_request import BasicAuth, BearerAuth, HeaderAuth, NoAuth, OpenapiCredential, QueryAuth
from cli.deployment.secret_files import FILES
from cli.policy.tables import ConditionForm, RuleForm, TableCase
from cli.project.files import AgentFile, LimitsFile, RoleFile
from cli.terminal import EXIT_CODE_WORDS, EXIT_CODES, ExitCode
from docs import commands, looseness, operations, refusals
from holdfast.codes.catalogue import GROUPS
from holdfast.codes.entry import Code, Place
from holdfast.runs.definition import AgentDefinition, AgentLimits, ModelRoute, ModelTarget
from holdfast.settings import PROCESSES, is_secret, variable
from holdfast.tools.definition import ToolForm
from holdfast.tools.functions import PythonFile
from holdfast.tools.openapi import OpenapiFile, OperationFile
from holdfast.tools.registry import TOOLS
from holdfast.tools.sql import ParameterFile, QueryFile, SqlFile
from sdk import tools as author

FOLDER: Final = Path(__file__).parent
_COMMAND_MAX: Final = 60
_BLOCK: Final = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_FIELD_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "effect": "what the rule does when it matches",
        "conditions": "all of them must hold",
        "approver_role": "for a gate: the role that must consent",
        "expires_s": "for a gate: how long the consent may take",
        "operator": "how to compare",
        "value": "what to compare with",
        "role": "the role whose rules decide what it may do",
        "instructions": "the system prompt",
        "model": "which model thinks",
        "tools": "tools that it has",
        "limits": "bounds of every run",
        "wire": "which protocol the model's provider speaks",
        "name": "the model's name at its provider",
    }
)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None or value == "":
        return "–"
    if isinstance(value, tuple):
        return ", ".join(f"`{member}`" for member in value)
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def settings() -> str:
    """Returns the table of settings: process, environment variable, default, meaning."""
    users: dict[str, list[str]] = {}
    found: dict[str, FieldInfo] = {}
    for process, kind in PROCESSES.items():
        for name, field in kind.model_fields.items():
            users.setdefault(name, []).append(process)
            found.setdefault(name, field)
    everybody = list(PROCESSES)
    rows = []
    for name, field in found.items():
        assert field.description, name
        whose = "all" if users[name] == everybody else ", ".join(users[name])
        note = " (secret)" if is_secret(field) else ""
        rows.append((whose, f"`{variable(name)}`", _default(field.default), field.description + note))
    return _table(("process", "variable", "default", "what it is"), rows)


def _where(code: Code) -> str:
    """Returns where a code appears, with the HTTP status and the verdict that go with it."""
    words = {
        Place.API: f"API {code.status}",
        Place.DECISION: f"decision: {code.verdict}" if code.verdict else "decision",
    }
    exit_code = EXIT_CODES.get(code.code, ExitCode.FAILED)
    words[Place.COMMAND] = f"command, exit code {exit_code.value}"
    if Place.COMMAND not in code.places and code.code in EXIT_CODES:
        words[Place.API] += f" (a command: exit code {exit_code.value})"
    return ", ".join(words.get(place, place.value) for place in code.places)


def _codes(group: str) -> Callable[[], str]:
    def table() -> str:
        rows = ((f"`{code.code}`", _where(code), code.cause, code.remedy) for code in GROUPS[group])
        return _table(("code", "where", "what is so", "what to do"), rows)

    return table


def _type(schema: Mapping[str, Any]) -> str:  # JSON Schema, as pydantic writes it
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "oneOf" in schema:
        return "object"  # of several kinds, which are described below it
    if "$ref" in schema:
        return "any JSON" if schema["$ref"].endswith("JsonValue") else "object"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return str(schema.get("type", "any JSON"))


def _bounds(schema: Mapping[str, Any]) -> str:  # JSON Schema, as pydantic writes it
    words = {
        "minimum": "≥ {}",
        "exclusiveMinimum": "> {}",
        "maximum": "≤ {}",
        "minLength": "not empty",
        "maxLength": "at most {} characters",
        "minItems": "at least {}",
        "maxItems": "at most {}",
        "pattern": "`{}`",
    }
    # what may be left out says so by another form beside it
    found = {name: bound for form in (*schema.get("anyOf", ()), schema) for name, bound in form.items()}
    return ", ".join(text.format(found[name]) for name, text in words.items() if name in found)


def _fields(*models: type[BaseModel]) -> Callable[[], str]:
    def table() -> str:
        rows = []
        for model in models:
            schema = model.model_json_schema()
            for name, field in schema["properties"].items():
                default = model.model_fields[name].default
                nested = isinstance(default, BaseModel)
                shown = "see below" if nested else "empty" if default == () else _default(default)
                rows.append(
                    (f"`{name}`", _type(field), shown, _bounds(field), field.get("description") or _FIELD_WORDS[name])
                )
        return _table(("field", "type", "default", "bounds", "what it is"), rows)

    return table


def tools() -> str:
    """Returns the table of tools with what is known of their effects."""
    rows = []
    for name, tool in TOOLS.items():
        arguments = ", ".join(f"`{argument}`" for argument in tool.arguments.model_fields) or "none"
        again = "depends on the arguments" if tool.idempotent_for is not None else _yes(tool.idempotent)
        rows.append(
            (
                f"`{name}`",
                arguments,
                _yes(tool.external),
                again,
                f"`{tool.credential}`" if tool.credential else "none",
                tool.description,
            )
        )
    headings = ("tool", "arguments", "leaves the tenant", "may be tried again", "credential", "what it does")
    return _table(headings, rows)


def _described(signature: Callable[..., object], described: type) -> Callable[[], str]:
    """Makes the table of a callable's arguments, as the attributes of a class describe them."""

    def table() -> str:
        words = {said.arg_name: said.description for said in docstring_parser.parse(described.__doc__ or "").params}
        rows = []
        for name, parameter in inspect.signature(signature).parameters.items():
            if words.get(name):
                if parameter.default is inspect.Parameter.empty:
                    default = "required"
                else:
                    made = repr(parameter.default) == "<factory>"  # how a dataclass shows one
                    default = "empty" if made else _default(parameter.default)
                rows.append((f"`{name}`", f"`{parameter.annotation}`", default, (words[name] or "").rstrip(".")))
        return _table(("argument", "type", "default", "what it is"), rows)

    return table


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def exit_codes() -> str:
    """Returns the table of the commands' exit codes."""
    return _table(("code", "meaning"), ((str(code.value), EXIT_CODE_WORDS[code]) for code in ExitCode))


def services() -> str:
    """Returns the table of compose.yaml's services."""
    document = yaml.safe_load((FOLDER.parent / "compose.yaml").read_text(encoding="utf-8"))
    rows = []
    for name, service in document["services"].items():
        command = " ".join(map(str, service.get("command", service.get("entrypoint", []))))
        ends = service["restart"].startswith(("on-failure", "no")) if "restart" in service else False
        kind = "step" if ends else "server"
        shown = f"`{command}`" if command and len(command) < _COMMAND_MAX else "–"
        networks = ", ".join(service.get("networks", [])) or "none"
        rows.append(
            (f"`{name}`", kind, f"`{service['image'].removeprefix('${HOLDFAST_IMAGE:-').rstrip('}')}`", shown, networks)
        )
    return _table(("service", "kind", "image", "command", "networks"), rows)


def loose_bounds() -> str:
    """Returns the table of how much more than a text's tokens its bounds are."""
    return _table(looseness.HEADINGS, looseness.rows())


def secret_files() -> str:
    """Returns the table of secrets: which process holds which."""
    holders: dict[str, list[str]] = {}
    for process, files in FILES.items():
        for file in files:
            holders.setdefault(file, []).append(process)
    return _table(("secret", "held by"), ((f"`{name}`", ", ".join(who)) for name, who in holders.items()))


TABLES: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        "settings": settings,
        **{f"codes-{group}": _codes(group) for group in GROUPS},
        "rule": _fields(RuleForm),
        "condition": _fields(ConditionForm),
        "agent": _fields(AgentDefinition),
        "model": _fields(ModelRoute),
        "target": _fields(ModelTarget),
        "limits": _fields(AgentLimits),
        "agent-file": _fields(AgentFile),
        "limits-file": _fields(LimitsFile),
        "role-file": _fields(RoleFile),
        "table-case": _fields(TableCase),
        "tool-form": _fields(ToolForm),
        "python-file": _fields(PythonFile),
        "tool-marks": _described(author.tool, author.Marks),
        "tool-call": _described(author.ToolCall, author.ToolCall),
        "openapi-file": _fields(OpenapiFile),
        "operation-file": _fields(OperationFile),
        "openapi-credential": _fields(OpenapiCredential),
        "openapi-auth": _fields(NoAuth, BearerAuth, BasicAuth, HeaderAuth, QueryAuth),
        "sql-file": _fields(SqlFile),
        "query-file": _fields(QueryFile),
        "parameter-file": _fields(ParameterFile),
        "tools": tools,
        "exit-codes": exit_codes,
        "services": services,
        "secrets": secret_files,
        "looseness": loose_bounds,
        "refusals": lambda: _table(refusals.REFUSAL_HEADINGS, refusals.refusals()),
        "formats": lambda: _table(refusals.FORMAT_HEADINGS, refusals.formats()),
        "commands": commands.reference,
        "operations": operations.reference,
        "shared-options": commands.shared_options,
    }
)


def current(text: str) -> str:
    """Returns a page with all its tables as the code has them now."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block['name']]()}\n{block[3]}", text)


def main(arguments: Sequence[str]) -> int:
    """Writes, or with `--check` compares; returns the exit code."""
    stale = []
    for page in sorted(FOLDER.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        made = current(text)
        if made != text:
            stale.append(page.relative_to(FOLDER))
            if "--check" not in arguments:
                page.write_text(made, encoding="utf-8")
    for page in stale:
        print(f"{page} {'is not current' if '--check' in arguments else 'was written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
