"""Reads a project folder: agents and tools as `*.toml`, roles and policies as `*.policy`; every problem at once and by its place."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.errors import HoldfastError, RequestInvalid
from holdfast.money import parse_usd
from holdfast.runs.definition import AgentDefinition, AgentLimits, ModelRoute
from holdfast.runs.versions import OutputDefault
from holdfast.tools.definition import OwnTool, ToolForm
from holdfast.tools.files import problems, read_beside
from holdfast.tools.versions import check_name

FOLDERS: Final = ("agents", "roles", "tools", "policies")
FILE_BYTES_MAX: Final = 1_000_000
_CASES: Final = ".cases.toml"
_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
# Modules with a function `forms`, from a parsed file and its folder to the tools that it describes by name. Each is imported
# when a file asks for it: they bring parsers along.
_SOURCES: Final[Mapping[str, str]] = MappingProxyType(
    {"openapi": "holdfast.tools.openapi", "python": "holdfast.tools.functions", "sql": "holdfast.tools.sql"}
)

FormT = TypeVar("FormT", bound=BaseModel)


class ProjectInvalid(HoldfastError):
    """Files of a project folder are wrong; nothing was changed on any server."""

    code = "project.invalid"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LimitsFile(_File):
    """Bounds of every run, as a file gives them: money in dollars."""

    max_steps: int | None = Field(default=None, description="steps after which the run ends as failed")
    max_tries: int | None = Field(default=None, description="tries of a step that fails for passing reasons")
    deadline_s: int | None = Field(default=None, description="then the run is timed out")
    run_cap_usd: str | None = Field(default=None, description='the run\'s own money cap, in quotes: `"0.50"`')
    run_calls: int | None = Field(default=None, description="actions a run may take")
    steps_per_execution: int | None = Field(default=None, description="continue as new after so many")

    def to_limits(self) -> AgentLimits:
        """Returns the limits that are put; what the file leaves out has its default."""
        given = self.model_dump(exclude_none=True)
        if (cap_usd := given.pop("run_cap_usd", None)) is not None:
            given["run_cap_nano_usd"] = parse_usd(cap_usd)
        return AgentLimits.model_validate(given)


class AgentFile(_File):
    """An agent as a file describes it."""

    name: str | None = Field(default=None, pattern=_NAME, description="its name; default: the file's")
    role: str = Field(pattern=_NAME, description="the role whose rules decide what it may do")
    instructions: str | None = Field(default=None, description="the system prompt")
    instructions_file: str | None = Field(default=None, description="a file beside this one with the system prompt")
    model: ModelRoute = Field(description="which model thinks")
    max_tokens: int | None = Field(default=None, description="output bound of one model call")
    tools: list[str] = Field(default=[], description="tools that it has")
    limits: LimitsFile = Field(default=LimitsFile(), description="bounds of every run")


class RoleFile(_File):
    """What a role has besides the text of what it may do."""

    name: str | None = Field(default=None, pattern=_NAME, description="its name; default: the file's")
    max_tokens_default: OutputDefault = None


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent to be put."""

    name: str
    place: str
    definition: AgentDefinition


@dataclass(frozen=True, slots=True)
class Role:
    """A role to be put.

    Attributes:
        text: What it may do in the language of policies, with its cases; None for a name alone.
    """

    name: str
    place: str
    text: WrittenPolicy | None
    max_tokens_default: int | None


@dataclass(frozen=True, slots=True)
class WrittenPolicy:
    """A policy as a file says it, of the tenant or of one role, with the cases that lie beside it."""

    name: str
    place: str
    source: str
    cases: str


@dataclass(frozen=True, slots=True)
class Project:
    """All that a folder holds, by name."""

    folder: Path
    agents: Mapping[str, Agent]
    roles: Mapping[str, Role]
    tools: Mapping[str, OwnTool]
    policy: WrittenPolicy | None = None


class _Reader:
    """Collects what is there and what is wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self.places: dict[tuple[str, str], str] = {}

    def documents(self, kind: str) -> list[tuple[Path, str, dict[str, object]]]:
        """Returns the parsed files of a folder with the place that messages name."""
        found = []
        for path in sorted((self.folder / kind).glob("*.toml")):
            if path.name.endswith(_CASES):
                continue
            place = f"{kind}/{path.name}"
            try:
                if path.stat().st_size > FILE_BYTES_MAX:
                    self.problems.append(f"{place}: is over {FILE_BYTES_MAX} bytes")
                    continue
                found.append((path, place, tomllib.loads(path.read_text(encoding="utf-8"))))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
                self.problems.append(f"{place}: {error}")
        return found

    def validated(self, form: type[FormT], place: str, document: Mapping[str, object]) -> FormT | None:
        """Returns the document in its form, or notes what is wrong with it."""
        try:
            return form.model_validate(document)
        except ValidationError as error:
            self.problems += [f"{place}: {problem}" for problem in problems(error)]
            return None

    def is_new(self, kind: str, name: str, place: str) -> bool:
        """Notes a name that two files give."""
        earlier = self.places.setdefault((kind, name), place)
        if earlier != place:
            self.problems.append(f"{place}: {name} is described in {earlier} already")
        return earlier == place

    def agents(self) -> dict[str, Agent]:
        """Reads the agents."""
        found: dict[str, Agent] = {}
        for path, place, document in self.documents("agents"):
            file = self.validated(AgentFile, place, document)
            if file is None:
                continue
            name = file.name or path.stem
            try:
                given: dict[str, Any] = {  # Any: the form checks each
                    "role": file.role,
                    "instructions": _instructions(file, path.parent),
                    "model": file.model,
                    "tools": tuple(file.tools),
                    "limits": file.limits.to_limits(),
                }
                if file.max_tokens is not None:
                    given["max_tokens"] = file.max_tokens
                definition = self.validated(AgentDefinition, place, given)
            except (ValidationError, RequestInvalid) as error:
                self.problems.append(f"{place}: {_first(error)}")
                continue
            if definition is not None and self.is_new("agent", name, place):
                found[name] = Agent(name, place, definition)
        return found

    def roles(self) -> dict[str, Role]:
        """Reads the roles: each with a text, or a name alone."""
        texts = {path.stem: self.written(path) for path in sorted((self.folder / "roles").glob("*.policy"))}
        found: dict[str, Role] = {}
        for path, place, document in self.documents("roles"):
            if table := [key for key in ("rules", "cases") if document.pop(key, None) is not None]:
                self.problems.append(
                    f"{place}: {' and '.join(table)}: a role says what it may do in roles/NAME.policy, and not in a table "
                    f"(`holdfast policy translate {place} --write` makes it a text)"
                )
            file = self.validated(RoleFile, place, document)
            if file is None:
                continue
            name = file.name or path.stem
            if self.is_new("role", name, place):
                found[name] = Role(name, place, texts.pop(name, None), file.max_tokens_default)
        for name, said in texts.items():
            if said is not None and self.is_new("role", name, said.place):
                found[name] = Role(name, said.place, said, None)
        return found

    def tools(self) -> dict[str, OwnTool]:
        """Reads the tools; one file may describe many."""
        found: dict[str, OwnTool] = {}
        for path, place, document in self.documents("tools"):
            source = document.get("source")
            module = _SOURCES.get(source) if isinstance(source, str) else None
            if module is None:
                self.problems.append(f"{place}: source: is one of {', '.join(sorted(_SOURCES))}, in quotes")
                continue
            try:
                read: Callable[[Mapping[str, object], Path], dict[str, ToolForm]] = import_module(module).forms
                for name, form in read(document, path.parent).items():
                    check_name(name)
                    if self.is_new("tool", name, place):
                        found[name] = OwnTool(name, 0, form)
            except HoldfastError as error:
                self.problems.append(f"{place}: {error.message}" + (f" ({error.remedy})" if error.remedy else ""))
        return found

    def policy(self) -> WrittenPolicy | None:
        """Reads the policy: a tenant has one."""
        paths = sorted((self.folder / "policies").glob("*.policy"))
        if len(paths) > 1:
            self.problems.append(
                f"policies/{paths[1].name}: a tenant has one policy, and policies/{paths[0].name} is it"
            )
        if len(paths) != 1:
            return None
        return self.written(paths[0])

    def written(self, path: Path) -> WrittenPolicy | None:
        """Reads a text with the cases beside it, or notes why it cannot be read."""
        place = f"{path.parent.name}/{path.name}"
        try:
            source = self._text(path)
            beside = path.with_suffix(_CASES)
            return WrittenPolicy(path.stem, place, source, self._text(beside) if beside.is_file() else "")
        except (OSError, ValueError) as error:
            self.problems.append(f"{place}: {error}")
            return None

    @staticmethod
    def _text(path: Path) -> str:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ValueError(f"{path.name} is over {FILE_BYTES_MAX} bytes")
        return path.read_text(encoding="utf-8")


def _first(error: ValidationError | RequestInvalid) -> str:
    return error.message if isinstance(error, RequestInvalid) else problems(error)[0]


def _instructions(file: AgentFile, folder: Path) -> str:
    if file.instructions_file is None:
        return file.instructions or ""
    if file.instructions is not None:
        raise RequestInvalid("give instructions or instructions_file, not both")
    return read_beside(folder, file.instructions_file, "instructions_file")


def read_project(folder: Path) -> Project:
    """Reads and checks a whole project.

    Raises:
        ProjectInvalid: The folder is not there, or files in it are wrong; all problems are named.
    """
    folder = folder.expanduser().absolute()
    if not any((folder / kind).is_dir() for kind in FOLDERS):
        raise ProjectInvalid(
            f"{folder} is no project: it has none of the folders {', '.join(FOLDERS)}",
            remedy="make one with `holdfast new agent NAME`",
        )
    reader = _Reader(folder)
    project = Project(folder, reader.agents(), reader.roles(), reader.tools(), reader.policy())
    if reader.problems:
        raise ProjectInvalid("\n  ".join([f"{len(reader.problems)} wrong in {folder}:", *reader.problems]))
    return project
