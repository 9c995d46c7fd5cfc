"""`holdfast policy translate`: a table of rules, as files and requests had them once, in the language of policies."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from cli.policy.files import SUFFIX, read_text
from holdfast.errors import RequestInvalid
from holdfast.policies.tables import policy_text
from holdfast.tools.files import problems
from holdfast_verdict.canonical import JsonValue as Canonical
from holdfast_verdict.canonical import NotCanonical, canonical_bytes
from holdfast_verdict.decide import Condition, Effect, Operator, Rule
from holdfast_verdict.language.formatter import format_policy
from holdfast_verdict.problems import PolicyRefused

RULES_MAX: Final = 500
_CASES: Final = ".cases.toml"
_NAME: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"


def _has_canonical_form(value: JsonValue) -> JsonValue:
    try:
        canonical_bytes(value)
    except NotCanonical as error:
        raise ValueError(f"has no canonical form: {error}") from None
    return value


class ConditionForm(BaseModel):
    """A condition of a table: compares a field of the action with a value or with another field."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    path: str = Field(pattern=r"^(args|principal)(\.[A-Za-z0-9_-]{1,64}){1,16}$", description="such as `args.to`")
    operator: Operator
    value: Annotated[JsonValue, AfterValidator(_has_canonical_form)] = None
    other_path: str = Field(
        default="", pattern=r"^$|^(args|principal)(\.[A-Za-z0-9_-]{1,64}){1,16}$", description="compare with this field"
    )

    @model_validator(mode="after")
    def _can_be_compared(self) -> Self:
        if self.other_path and self.value is not None:
            raise ValueError("give `value` or `other_path`, not both")
        if self.operator in ("in", "not_in", "all_in_domains", "any_outside_domains"):
            if not self.other_path and not isinstance(self.value, list):
                raise ValueError(f"`{self.operator}` compares with a list")
        elif self.operator in ("<=", ">") and not self.other_path and type(self.value) is not int:
            raise ValueError(f"`{self.operator}` compares whole numbers")
        if self.operator.endswith("domains") and isinstance(self.value, list):
            for domain in self.value:
                if not isinstance(domain, str) or domain != domain.lower() or not domain:
                    raise ValueError(f"{domain!r} is no domain in lower case, so it would never match")
        return self


class RuleForm(BaseModel):
    """A rule of a table."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    rule_id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$", description="name that decisions cite")
    effect: Effect
    kind: Literal["llm.call", "tool.call", "code.exec"] = Field(description="kind of action it speaks of")
    tool: str = Field(default="", max_length=100, description="for `tool.call`: the tool, or `*` for all")
    conditions: tuple[ConditionForm, ...] = Field(default=(), max_length=50, strict=False)  # JSON has no tuples
    code: str = Field(default="", pattern=r"^$|^[a-z][a-z0-9_.-]{0,99}$", description="reason code that a forbid gives")
    message: str = Field(default="", max_length=1_000, description="a sentence for people and models")
    approver_role: str = Field(default="approver", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    expires_s: int = Field(default=86_400, ge=1, le=31_536_000)

    @model_validator(mode="after")
    def _speaks_of_something(self) -> Self:
        if self.kind == "tool.call" and not self.tool:
            raise ValueError("a rule about `tool.call` names a tool, or `*` for all")
        if self.kind != "tool.call" and self.tool:
            raise ValueError(f"a rule about `{self.kind}` names no tool")
        return self

    def to_rule(self) -> Rule:
        """Returns the rule that was evaluated."""
        return Rule(
            rule_id=self.rule_id,
            effect=self.effect,
            kind=self.kind,
            tool=self.tool,
            conditions=tuple(
                Condition(c.path, c.operator, cast("Canonical", c.value), c.other_path) for c in self.conditions
            ),
            code=self.code,
            message=self.message,
            approver_role=self.approver_role,
            expires_s=self.expires_s,
        )


class TableCase(BaseModel):
    """An example of what a table shall decide."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    tool: str | None = Field(default=None, description="the tool that is called; none: a model is called")
    arguments: dict[str, Any] = Field(default={}, description="its arguments")  # Any: each tool has its own
    principal: dict[str, str] = Field(default={}, description="who acts: tenant, project, user, agent")
    verdict: str = Field(pattern="^(allow|deny|needs_approval)$", description="`allow`, `deny` or `needs_approval`")
    code: str | None = Field(default=None, description="the reason code that it shall have")


class TableFile(BaseModel):
    """A file with a table: of a project's role, or what was sent to the server."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str | None = Field(default=None, pattern=_NAME)
    rules: list[RuleForm] = Field(max_length=RULES_MAX)
    cases: list[TableCase] = []
    max_tokens_default: int | None = None


@dataclass(frozen=True, slots=True)
class Translated:
    """A role's table, said in the language of policies.

    Attributes:
        role: The role.
        policy: Its text.
        cases: Its cases as TOML, or empty.
        max_tokens_default: What stays where it is.
    """

    role: str
    policy: str
    cases: str
    max_tokens_default: int | None


def translated(path: Path, role: str | None) -> Translated:
    """Reads a table and says it as a text.

    Args:
        path: The file, TOML or JSON; `-` for standard input.
        role: The role, if it is not what the file or its name says.

    Raises:
        RequestInvalid: The file is no table, or the role has no name.
    """
    try:
        file = TableFile.model_validate(_document(read_text(path), path))
    except ValidationError as error:
        raise RequestInvalid(f"{path}: {'; '.join(problems(error))}") from None
    ids = [rule.rule_id for rule in file.rules]
    if doubled := next((rule_id for rule_id in ids if ids.count(rule_id) > 1), None):
        raise RequestInvalid(f"{path}: two rules are called {doubled!r}", remedy="give each rule an id of its own")
    name = role or file.name or (path.stem if str(path) != "-" else None)
    if name is None:
        raise RequestInvalid("standard input says no name of a role", remedy="give it with --role")
    try:
        text = format_policy(policy_text({name: tuple(rule.to_rule() for rule in file.rules)}))
    except PolicyRefused as refused:
        raise RequestInvalid("\n".join([f"{path}: cannot be said:", *map(str, refused.problems)])) from None
    cases = "".join(_case(number, case) for number, case in enumerate(file.cases, 1))
    return Translated(
        name, text, f"[defaults]\nrole = {json.dumps(name)}\n{cases}" if cases else "", file.max_tokens_default
    )


def _document(text: str, path: Path) -> object:
    try:
        if path.suffix == ".toml":
            return tomllib.loads(text)
        document = json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise RequestInvalid(f"{path}: {error}") from None
    return {"rules": document} if isinstance(document, list) else document


def _case(number: int, case: TableCase) -> str:
    action = case.tool or "llm.call"
    lines = ["", "[[case]]", f"name = {json.dumps(f'{number}: {action}')}", f"action = {json.dumps(action)}"]
    lines += [f"args = {_toml(case.arguments)}"] if case.arguments else []
    lines += [f"principal = {_toml(case.principal)}"] if case.principal else []
    lines.append(f'expect = "{case.verdict}"')
    lines += [f"code = {json.dumps(case.code)}"] if case.code else []
    return "\n".join([*lines, ""])


def _toml(value: object) -> str:
    """Returns a value as TOML in one line; it has come from TOML or JSON."""
    if isinstance(value, Mapping):
        members = ", ".join(
            f"{json.dumps(str(key))} = {_toml(each)}" for key, each in value.items() if each is not None
        )
        return f"{{ {members} }}" if members else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def write_beside(path: Path, said: Translated) -> list[Path]:
    """Writes the text and its cases beside the table's file, and says where; nothing that is there is overwritten.

    Raises:
        RequestInvalid: A file is there already; nothing was written.
    """
    texts = {path.with_name(said.role + SUFFIX): said.policy}
    if said.cases:
        texts[path.with_name(said.role + _CASES)] = said.cases
    if there := next((each for each in texts if each.exists()), None):
        raise RequestInvalid(
            f"{there} is there already; nothing was written", remedy="move it away, or leave out --write"
        )
    for each, text in texts.items():
        each.write_text(text, encoding="utf-8")
    return list(texts)
