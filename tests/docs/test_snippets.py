"""Every block of code on every page: shell commands are parsed, requests and JSON checked, Python compiled and bound.

What needs a running stack to be tried is tried by the demo, which `make demo` runs and the tutorial follows.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import pytest
import typer
from pydantic import BaseModel

from activities.tools.openapi_request import OpenapiCredential
from activities.tools.sql_query import SqlCredential
from api.agents import PutRole
from bench import __main__ as bench
from cli.main import app
from cli.project.files import AgentFile
from holdfast.contracts import names
from holdfast.contracts.run import ApprovalSignal
from holdfast.runs.definition import AgentDefinition
from holdfast.tools.openapi import OpenapiFile
from holdfast.tools.sql import SqlFile
from tests.deployment.composition import services

from .known import variables
from .pages import PAGES, ROOT, Fence, fences, fences_of
from .requests import check_curl
from .shell import commands, without_redirects

_KNOWN_LANGUAGES: Final = frozenset(
    {"bash", "json", "python", "text", "toml", "sql", "mermaid", "policy"}
    | {"sh", "javascript"}  # what models write; run by tests/run/test_code_calls.py
)
_JSON_FORMS: Final[Mapping[str, type[BaseModel]]] = MappingProxyType(
    {
        "role": PutRole,
        "agent": AgentDefinition,
        "openapi-credential": OpenapiCredential,
        "sql-credential": SqlCredential,
    }
)
_TOML_FORMS: Final[Mapping[str, type[BaseModel]]] = MappingProxyType(
    {"agent": AgentFile, "openapi": OpenapiFile, "sql": SqlFile}
)
_PLAIN: Final = frozenset({"git", "cd", "chmod", "cat", "ls", "echo", "cp", "sed", "grep", "sleep", "umask", "tar"})
_INSTALLABLE: Final = frozenset({"docs", "deploy", "http", "demo", "bench", "holdfast", "api", "workers", "cli"})
Parse = Callable[[list[str]], None]


def _holdfast(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)  # Typer keeps the library under it to itself
    context = command.make_context("holdfast", list(words), resilient_parsing=not words)
    while hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        if not rest:
            break
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def _make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert words, "make what?"
    for word in words:
        assert word in targets or re.fullmatch(r"ARGS=.*", word), word


def _python(words: list[str]) -> None:
    if words[:1] == ["-m"]:
        module, arguments = words[1], words[2:]
        assert module.partition(".")[0] in _INSTALLABLE, module
        assert importlib.util.find_spec(module) is not None, module
        if module == "bench":
            one = typer.Typer()
            one.command()(bench.main)
            command: Any = typer.main.get_command(one)  # as above
            assert command.make_context("bench", list(arguments)).params["name"] in vars(bench)["_BENCHES"]


def _temporal(words: list[str]) -> None:
    assert words[:2] == ["workflow", "signal"], words
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert set(options) <= {"--address", "--namespace", "--workflow-id", "--name", "--input"}, options
    assert options["--name"] == names.SIGNAL_APPROVAL
    assert options["--namespace"] == "holdfast", "the command would look into the namespace `default`"
    ApprovalSignal.model_validate_json(options["--input"])


_COMPOSE_OPTIONS: Final = frozenset(
    {"--detach", "--wait", "--build", "--follow", "--no-deps", "--rm", "--volumes", "--timeout"}
)


def _docker(words: list[str]) -> None:
    """Of Docker's own syntax only what these pages use; the services have to be there."""
    assert words[:1] == ["compose"], words
    words = words[1:]
    while words[:1] == ["-f"]:
        assert (ROOT / words[1]).is_file(), words[1]
        words = words[2:]
    while words[:1] == ["--profile"]:
        assert any(words[1] in service.get("profiles", ()) for service in services().values()), words[1]
        words = words[2:]
    verb, rest = words[0], words[1:]
    assert verb in {"up", "down", "logs", "ps", "run", "restart", "stop", "build"}, verb
    options = [word for word in rest if word.startswith("--")]
    assert set(options) <= _COMPOSE_OPTIONS, options
    named = [word for word in rest if not word.startswith("--")]
    for service in named[:1] if verb == "run" else named:
        assert service in services(), service


def _export(words: list[str]) -> None:
    for word in words:
        name, _, value = word.partition("=")
        assert value, word
        assert name in variables(), f"nothing reads {name}"


def _uv(words: list[str]) -> None:
    assert words[:2] == ["pip", "install"], words


_PARSERS: Final[Mapping[str, Parse]] = MappingProxyType(
    {
        "holdfast": _holdfast,
        "make": _make,
        "python": _python,
        "curl": check_curl,
        "temporal": _temporal,
        "export": _export,
        "docker": _docker,
        "uv": _uv,
    }
)


def _check_command(words: list[str]) -> None:
    words = without_redirects(words)
    if words[0] in _PLAIN:
        return
    assert words[0] in _PARSERS, f"nothing checks the command {words[0]!r}"
    _PARSERS[words[0]](words[1:])


@pytest.mark.parametrize("fence", fences("bash"), ids=str)
def test_commands_are_such_as_there_are(fence: Fence) -> None:
    found = list(commands(fence.body))
    assert found
    for words in found:
        try:
            _check_command(words)
        except Exception as error:
            raise AssertionError(f"{fence}: {' '.join(words)}: {type(error).__name__}: {error}") from error


def form_of(fence: Fence) -> str:
    """Returns what the block is said to be: the word after its language, which tells nothing to the tutorials' reader."""
    return next((word for word in fence.info.split()[1:] if "=" not in word), "")


@pytest.mark.parametrize("fence", fences("json"), ids=str)
def test_json_is_what_it_says_it_is(fence: Fence) -> None:
    json.loads(fence.body)
    form = form_of(fence)
    if form:
        _JSON_FORMS[form].model_validate_json(fence.body)


@pytest.mark.parametrize("fence", fences("toml"), ids=str)
def test_toml_is_what_it_says_it_is(fence: Fence) -> None:
    document = tomllib.loads(fence.body)
    form = form_of(fence)
    if form:
        _TOML_FORMS[form].model_validate(document)


@pytest.mark.parametrize("fence", fences("python"), ids=str)
def test_python_calls_what_there_is(fence: Fence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "sandbox/guest"))  # what code in a job imports
    tree = ast.parse(fence.body)
    compile(tree, str(fence), "exec")
    scope: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None
            module = importlib.import_module(node.module)
            scope |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and isinstance(node.context_expr, ast.Call):
            _note(scope, node.context_expr, node.optional_vars)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            _note(scope, node.value, node.targets[0])
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _bind(scope, node)


def _note(scope: dict[str, object], call: ast.Call, target: ast.expr | None) -> None:
    """Remembers that a name holds an instance of a class."""
    if isinstance(call.func, ast.Name) and isinstance(target, ast.Name):
        kind = scope.get(call.func.id)
        if isinstance(kind, type):
            scope[f"instance {target.id}"] = kind


def _bind(scope: Mapping[str, object], call: ast.Call) -> None:
    """Binds a call's arguments to the signature of what it calls, if that is known."""
    function: object = None
    receiver = 0
    if isinstance(call.func, ast.Name):
        function = scope.get(call.func.id)
    elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        kind = scope.get(f"instance {call.func.value.id}")
        if kind is not None:
            function, receiver = getattr(kind, call.func.attr), 1
    if callable(function):
        keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg is not None}
        inspect.signature(function).bind(*[None] * (len(call.args) + receiver), **keywords)


def test_every_block_says_what_it_is() -> None:
    blocks = [fence for page in PAGES for fence in fences_of(page)]
    assert not [f"{fence}: {fence.info!r}" for fence in blocks if fence.language not in _KNOWN_LANGUAGES]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("uv run holdfast upp", "upp"),
        ("holdfast approve --nonsense x", "nonsense"),
        ("holdfast holds resolve $HOLD --happened", "MissingParameter"),
        ("make nothing", "nothing"),
        ("python -m holdfast.nowhere", "nowhere"),
        ("curl http://127.0.0.1:8080/v1/nothing -H 'Authorization: x'", "no GET /v1/nothing"),
        ("curl -X POST $HOLDFAST_URL/v1/runs -H 'Authorization: x' -d '{\"agent\": 1}'", "input"),
        ("export HOLDFAST_NOTHING=1", "HOLDFAST_NOTHING"),
        ("docker compose logs nobody", "nobody"),
        ("docker compose --profile none up", "none"),
        ("rm -rf /", "nothing checks"),
    ],
)
def test_wrong_commands_are_noticed(text: str, why: str) -> None:
    fence = Fence(ROOT / "README.md", 1, "bash", text)
    with pytest.raises(AssertionError, match=re.escape(why)):
        test_commands_are_such_as_there_are(fence)
