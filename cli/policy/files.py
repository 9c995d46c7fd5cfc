"""Reads policies, catalogues of actions and cases from files; what cannot be used is said with its file, place and remedy."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from holdfast.errors import HoldfastError, NotFound, RequestInvalid

if TYPE_CHECKING:
    from holdfast_verdict import Catalogue, Policy, Problem
    from holdfast_verdict.check.cases import CaseFile

FILE_BYTES_MAX: Final = 4_000_000
SUFFIX: Final = ".policy"
_CATALOGUES: Final = (".actions.toml", ".actions.json")


class PolicyUnusable(HoldfastError):
    """A policy is not well-formed or not well-typed.

    Attributes:
        problems: Everything that is wrong with it, as JSON.
    """

    code = "policy.refused"

    def __init__(self, problems: tuple[Problem, ...], file: Path) -> None:
        super().__init__("\n".join([f"{file} cannot be used:", *map(str, problems)]))
        self.problems = [problem.to_json() for problem in problems]


class CatalogueUnusable(HoldfastError):
    """A catalogue of actions has not the documented form."""

    code = "catalogue.invalid"


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy with what lies beside it.

    Attributes:
        path: Its file; `-` for standard input.
        policy: The policy.
        catalogue: The actions there are, if a file says.
        catalogue_path: That file.
    """

    path: Path
    policy: Policy
    catalogue: Catalogue | None
    catalogue_path: Path | None


def read_text(path: Path) -> str:
    """Reads a file, or standard input for `-`.

    Raises:
        NotFound: It is not there.
        RequestInvalid: It cannot be read, or is no text.
    """
    if str(path) == "-":
        return sys.stdin.read()
    try:
        raw = path.expanduser().read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", remedy="check its name and the folder that you are in") from None
    except OSError as error:
        raise RequestInvalid(f"cannot read {path}: {error.strerror or error}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise RequestInvalid(f"{path} is larger than {FILE_BYTES_MAX} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise RequestInvalid(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def read_document(path: Path) -> Any:  # Any: JSON or TOML of any form, which the caller looks at
    """Reads JSON, or TOML from a file that is called `.toml`.

    Raises:
        RequestInvalid: It is neither.
    """
    text = read_text(path)
    try:
        return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RequestInvalid(f"{path} is not TOML: {error}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise RequestInvalid(f"{path} is not JSON: {error.msg} ({place})") from None


def read_catalogue(path: Path) -> Catalogue:
    """Reads a catalogue of actions: our own form, an MCP server's list of tools, or a list of functions.

    Raises:
        CatalogueUnusable: It has none of these forms.
    """
    from holdfast_verdict import Catalogue
    from holdfast_verdict.actions import CatalogueInvalid

    try:
        return Catalogue.of(_entries(read_document(path), path)).with_builtin_kinds()
    except CatalogueInvalid as error:
        raise CatalogueUnusable(f"{path}: {error}") from None


def _entries(document: Any, path: Path) -> dict[str, Any]:  # Any: JSON of any form, looked at here
    if isinstance(document, Mapping) and isinstance(document.get("tools"), list):
        return _listed(document["tools"], path)
    if isinstance(document, list):
        return _listed(document, path)
    if isinstance(document, Mapping) and all(isinstance(each, Mapping) for each in document.values()):
        return dict(document)
    raise CatalogueUnusable(
        f"{path} is no catalogue of actions",
        remedy='write {"send_email": {"parameters": {…}}}, or give an MCP server\'s list of tools',
    )


def _listed(tools: list[Any], path: Path) -> dict[str, Any]:  # Any: the same
    entries: dict[str, Any] = {}
    for number, tool in enumerate(tools):
        about = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = about.get("name") if isinstance(about, Mapping) else None
        if not isinstance(about, Mapping) or not isinstance(name, str):
            raise CatalogueUnusable(f"{path}: tool {number} has no name")
        if name in entries:
            raise CatalogueUnusable(f"{path}: two tools are called {name}")
        schema = about.get("inputSchema", about.get("input_schema", about.get("parameters", {"type": "object"})))
        entries[name] = {"parameters": schema, "description": str(about.get("description", ""))}
    return entries


def beside(path: Path, suffix: str) -> Path:
    """Returns the file beside a policy: `billing.policy` has `billing.cases.toml`."""
    return path.with_name(path.name.removesuffix(SUFFIX) + suffix)


def read_policy(path: Path, actions: Path | None = None) -> PolicyFile:
    """Reads and compiles a policy, with the catalogue that is named or lies beside it.

    Raises:
        PolicyUnusable: It is not well-formed or not well-typed.
    """
    if actions is None and str(path) != "-":
        actions = next((each for suffix in _CATALOGUES if (each := beside(path, suffix)).is_file()), None)
    catalogue = None if actions is None else read_catalogue(actions)
    return PolicyFile(path, compiled(path, catalogue), catalogue, actions)


def compiled(path: Path, catalogue: Catalogue | None) -> Policy:
    """Compiles a policy.

    Raises:
        PolicyUnusable: It is not well-formed or not well-typed.
    """
    from holdfast_verdict import PolicyRefused, compile_policy

    text = read_text(path)
    try:
        return compile_policy(text, catalogue, file=str(path))
    except PolicyRefused as refused:
        raise PolicyUnusable(refused.problems, path) from None


def read_cases(path: Path) -> CaseFile:
    """Reads a case file.

    Raises:
        RequestInvalid: It has not the documented form.
    """
    from holdfast_verdict.check.cases import CasesInvalid
    from holdfast_verdict.check.cases import read_cases as read

    document = read_document(path)
    try:
        if not isinstance(document, Mapping):
            raise CasesInvalid("the file is no table")  # noqa: TRY301 (one place turns it into what a person reads)
        return read(document)
    except CasesInvalid as error:
        raise RequestInvalid(f"{path}: {error}", remedy="docs/how-to/check-a-policy.md shows the form") from None


def policies_in(paths: list[Path]) -> list[Path]:
    """Returns the policies that are named, and those in folders that are named, in order.

    Raises:
        NotFound: A folder has none.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(path.rglob(f"*{SUFFIX}"))
        if not inside:
            raise NotFound(f"there is no *{SUFFIX} in {path}")
        found += inside
    return found
