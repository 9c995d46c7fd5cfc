"""No code without its entry in the catalogue, no entry without code that gives it; each way with what to do about it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, get_args

import pytest
import typer

from activities.tools import dispatch
from cli.main import app
from holdfast.approvals import voting as approvals
from holdfast.codes.catalogue import CATALOGUE, GROUPS, nearest
from holdfast.codes.entry import Code, Place
from holdfast.codes.tools import SERVICES
from holdfast.errors import HoldfastError
from holdfast.tenancy import failures, keys
from holdfast_verdict.decide import ApprovalStanding
from tests.codes.scan import ROOT, Found, events, scan, scan_tree
from tests.docs.known import variables

_WHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "auth": "records",
        "stack": "stack",
        "provider": "providers",
        "run": "runs",
        "workflow": "runs",
        "policy": "decisions",
    }
)
_FORM: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")


def _nouns_of_services() -> set[str]:
    """Returns the first words of the tools whose module calls `call_service`."""
    found = set()
    for name, runner in dispatch._RUNNERS.items():
        if hasattr(sys.modules[runner.__module__], "call_service"):
            found.add(name.partition(".")[0])
    return found


def _reasons_of_keys() -> set[str]:
    """Returns why keys are refused: the texts that `KeyRefused` is given, and the states that the database answers with."""
    found = {"flood"}
    assert '"flood"' in Path(failures.__file__).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(Path(keys.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "KeyRefused":
            found |= {str(each.value) for each in node.args[1:] if isinstance(each, ast.Constant)}
    schema = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "holdfast/database/migrations").rglob("*.sql")
    )
    states = re.search(r"CASE WHEN k\.revoked_at [^\n]*", schema)
    assert states is not None
    return found | set(re.findall(r"THEN '([a-z]+)'", states[0]))


NO_CODE: Final = "no code"
BUILT: Final[Mapping[tuple[str, str], Callable[[], set[str]] | str]] = MappingProxyType(
    {
        ("holdfast/tools/openapi_document.py", "paths.{path}"): NO_CODE,  # a place in a document
        ("holdfast/tenancy/bootstrap.py", "provider.{name}"): NO_CODE,  # an entry of the vault
        ("workers/broker.py", "provider.{request.wire}"): NO_CODE,  # an entry of the vault
        ("holdfast_verdict/decide.py", "approval.{approval.state}"): lambda: (
            set(get_args(ApprovalStanding)) - {"approved"}
        ),
        ("holdfast/approvals/voting.py", "approval.{ballot.verdict}"): lambda: set(get_args(approvals.Verdict)),
        ("holdfast/tenancy/failures.py", "auth.{reason}"): _reasons_of_keys,
        **{
            ("activities/tools/service.py", f"{{noun}}.{what}"): _nouns_of_services
            for what in (
                "answer_lost",
                "answer_unreadable",
                "failed",
                "rate_limited",
                "refused",
                "unavailable",
                "unexpected",
            )
        },
    }
)
"""What the one expression of each f-string that looks like a code can be; or that it builds none."""


def codes_of(found: Found) -> set[str]:
    """Returns the codes that a text is or builds."""
    if not found.built:
        return {found.text}
    values = BUILT.get((found.path, found.text), NO_CODE)
    if not callable(values):
        return set()
    return {re.sub(r"\{[^}]*\}", value, found.text) for value in values()}


def produced() -> dict[str, Found]:
    return {code: found for found in scan() for code in codes_of(found)}


def _advice(found: Found, code: str) -> str:
    module = _WHERE.get(code.partition(".")[0], "tools" if found.path.startswith("activities/tools") else "requests")
    return (
        f"{found.path}:{found.line}: `{code}` is not in the catalogue. Add to CODES in holdfast/codes/{module}.py (or a sibling):\n"
        f'    result("{code}", "What is so when it appears.", "What to do about it."),\n'
        "  then run `python -m docs.generate`. If it is no code at all, say so in tests/codes/scan.py (_OTHER)."
    )


def test_every_code_is_in_the_catalogue() -> None:
    known = CATALOGUE.keys() | events()
    missing = [_advice(found, code) for code, found in produced().items() if code not in known]
    assert not missing, "\n" + "\n".join(missing)


def test_the_codes_of_the_schemas_functions_are_in_the_catalogue() -> None:
    scripts = [
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "holdfast/database/migrations").rglob("*.sql"))
    ]
    codes = {code for script in scripts for code in re.findall(r"\bcode := '([a-z_.]+)'", script)}
    assert len(codes) >= 6
    assert codes <= CATALOGUE.keys()


def test_every_entry_can_be_produced() -> None:
    made = produced()
    dead = [
        f"holdfast/codes/{group}.py lists `{code.code}`, and nothing gives it: remove the entry, or the words that hide it"
        for group, codes in GROUPS.items()
        for code in codes
        if code.code not in made
    ]
    assert not dead, "\n" + "\n".join(dead)


def test_what_is_said_of_built_codes_is_of_f_strings_that_are_there() -> None:
    there = {(found.path, found.text): found for found in scan() if found.built}
    unknown = [
        f"{found}: this looks as if it built codes. Say in BUILT (tests/codes/test_catalogue.py) what its expression can "
        "be, or NO_CODE if it builds none; better still, write whole codes in place of it."
        for place, found in there.items()
        if place not in BUILT
    ]
    assert not unknown, "\n" + "\n".join(unknown)
    assert not set(BUILT) - set(there), "BUILT speaks of texts that are no longer there"
    assert _nouns_of_services() == set(SERVICES)


def test_no_code_is_listed_twice() -> None:
    assert sum(len(codes) for codes in GROUPS.values()) == len(CATALOGUE)


def _kinds(kind: type[HoldfastError] = HoldfastError) -> list[type[HoldfastError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _kinds(child))]


@pytest.mark.parametrize("kind", _kinds(), ids=lambda kind: kind.__name__)
def test_an_error_has_the_status_that_the_catalogue_says(kind: type[HoldfastError]) -> None:
    code = CATALOGUE[kind.code]
    if kind.__module__.startswith("holdfast.") and Place.API in code.places:
        assert kind.status == code.status, (
            f"{kind.__name__} answers with {kind.status}, the catalogue says {code.status}"
        )


def _check_names(words: list[str]) -> None:
    """Checks that a command and the options that go with it exist; arguments are left open."""
    command: Any = typer.main.get_command(app)  # Typer keeps the library under it to itself
    for word in words[1:]:
        if word.startswith("-"):
            assert word == "--help" or any(word in parameter.opts for parameter in command.params), words
        elif word.islower():
            command = command.commands[word]


@pytest.mark.parametrize("code", CATALOGUE.values(), ids=lambda code: code.code)
def test_an_entry_says_what_is_so_and_what_to_do(code: Code) -> None:
    assert _FORM.fullmatch(code.code)
    assert code.places
    assert (Place.API not in code.places) or code.status, "an answer of the API has a status"
    for sentence in (code.cause, code.remedy):
        assert re.fullmatch(r"[A-Z`].*\.", sentence, re.DOTALL), sentence
    for words in re.findall(r"`(holdfast [^`]+)`", code.remedy):
        _check_names(words.split())
    for name in re.findall(r"HOLDFAST_[A-Z_]+", code.remedy):
        assert name in variables()
    for page in re.findall(r"docs/[\w/-]+\.md", code.remedy):
        assert (ROOT / page).is_file()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class Refused(HoldfastError):\n    code = 'tool.new_thing'", {"tool.new_thing"}),
        ("ToolResult.nothing('crm.unavailable', 'x')", {"crm.unavailable"}),
        ("record_event(connection, code='undotted', kind='run.start')", {"undotted"}),
        ("NEW = 'run.too_warm'", {"run.too_warm"}),
        ("ToolResult.unknown(f'{noun}.melted', 'x')", {"{noun}.melted"}),
        ("code = 'tool.' + what", {"tool.{what}"}),
        ("end('failed', 'a.b' if cold else 'a.c')", {"a.b", "a.c"}),
        ("_log.warning('redis.unavailable', code='permit.lost')", {"permit.lost"}),
        ("'''docs.string'''", set()),
        ("Event('lifecycle', 'run.created', {})", set()),
        ("failpoint('settle.before')\npath / 'stack.json'", set()),
    ],
)
def test_codes_are_found_wherever_they_stand(source: str, expected: set[str]) -> None:
    assert {found.text for found in scan_tree(ast.parse(source), "made.py")} == expected


@pytest.mark.parametrize(
    ("written", "meant"),
    [("budget.cap_exceded", "budget.cap_exceeded"), ("Vault.Credential_Missing", "vault.credential_missing")],
)
def test_a_misspelt_code_is_recognised(written: str, meant: str) -> None:
    assert nearest(written)[0] == meant


def test_nothing_is_near_to_what_resembles_nothing() -> None:
    assert nearest("zzz") == nearest("") == []
