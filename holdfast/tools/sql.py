"""Tools from SQL queries: reads what a project's file says of them, and brings each to a definition.

In a file a statement names its arguments like `:customer`. The definition has `$1`, `$2` … in their places, each read from
text and cast to the type that the file gives, so that nothing of an argument ever becomes part of the statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlglot import Token, TokenType
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import TokenError

from holdfast.errors import RequestInvalid
from holdfast.tools.definition import ROWS_MAX, SqlBinding, ToolForm
from holdfast.tools.files import explain, read_beside
from holdfast.tools.personal import marked
from holdfast_verdict.canonical import MAX_INTEGER
from holdfast_verdict.sealing import PERSONAL

TEXT_LENGTH_MAX: Final = 10_000
ParameterType = Literal["text", "integer", "boolean", "decimal", "date", "timestamp", "uuid"]

_CASTS: Final[Mapping[ParameterType, str]] = {
    "text": "text",
    "integer": "bigint",
    "boolean": "boolean",
    "decimal": "numeric",
    "date": "date",
    "timestamp": "timestamptz",
    "uuid": "uuid",
}
# One spelling for each value: PostgreSQL itself would take many (`tomorrow`, `1/2/2026`).
_PATTERNS: Final[Mapping[str, str]] = {
    "date": r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$",
    "timestamp": r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?Z$",
    "uuid": r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
}
_WORDS: Final[Mapping[str, str]] = {
    "date": "a date such as 2026-01-31",
    "timestamp": "a time in UTC such as 2026-01-31T12:00:00Z",
    "uuid": "a UUID in lower case",
    "decimal": "a decimal number",
}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ParameterFile(_File):
    """An argument of a query, as a file describes it."""

    type: ParameterType = Field(description="what it is in the database; a model sees a string, integer or boolean")
    description: str = Field(default="", description="what the model is told of it")
    optional: bool = Field(default=False, description="may be left out, and is NULL then")
    default: str | int | bool | None = Field(default=None, description="its value where it is left out")
    one_of: list[str | int] = Field(default=[], description="the values that it may have")
    min: int | None = Field(default=None, description="least value, of an `integer`")
    max: int | None = Field(default=None, description="greatest value, of an `integer`")
    max_length: int | None = Field(default=None, ge=1, le=TEXT_LENGTH_MAX, description="of a `text`")
    pattern: str | None = Field(default=None, description="regular expression that a `text` has to match")
    personal: bool | None = Field(
        default=None,
        description="records have a salted hash of it, which can be erased; default: of every `text` that has no `one_of`",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.type != "integer" and (self.min is not None or self.max is not None):
            raise ValueError("min and max bound an integer")
        if self.type != "text" and (self.max_length is not None or self.pattern is not None):
            raise ValueError("max_length and pattern bound a text")
        if self.type not in ("text", "integer") and self.one_of:
            raise ValueError("one_of lists values of a text or an integer")
        return self

    def schema_of(self) -> dict[str, Any]:
        """Returns its JSON Schema."""
        schema: dict[str, Any] = {"type": self.type if self.type in ("integer", "boolean") else "string"}
        if self.type == "decimal":
            schema["format"] = "decimal"
        if (pattern := self.pattern or _PATTERNS.get(self.type)) is not None:
            schema["pattern"] = pattern
        if self.type == "text":
            schema["maxLength"] = self.max_length or TEXT_LENGTH_MAX
        if self.type == "integer":
            schema["minimum"] = -MAX_INTEGER if self.min is None else self.min
            schema["maximum"] = MAX_INTEGER if self.max is None else self.max
        if self.one_of:
            schema["enum"] = list(self.one_of)
        if self.personal is not None:
            schema[PERSONAL] = self.personal
        elif self.type in _PATTERNS:
            schema[PERSONAL] = False
        if self.default is not None:
            schema["default"] = self.default
        if description := self.description or _WORDS.get(self.type, ""):
            schema["description"] = description
        return schema


class QueryFile(_File):
    """One query, as a file describes it."""

    description: str = Field(min_length=1, description="what the model is told")
    statement: str | None = Field(default=None, description="with `:name` for each argument")
    file: str | None = Field(default=None, description="a file beside this one with the statement")
    credential: str = Field(description="vault entry with the database's `dsn`")
    parameters: dict[str, ParameterFile] = Field(default={}, description="the arguments by name")
    rows_max: int = Field(default=100, ge=1, le=ROWS_MAX, description="rows that are returned at most")
    yields: list[str] = Field(default=["untrusted"], description="labels of what it returns")
    timeout_ms: int = Field(default=5_000, description="then the query is ended")


class SqlFile(_File):
    """A file of queries."""

    source: Literal["sql"] = Field(description="`sql`")
    queries: dict[str, QueryFile] = Field(min_length=1, description="queries by the tool's name")


def forms(document: Mapping[str, object], folder: Path) -> dict[str, ToolForm]:
    """Returns the tools that a file describes.

    Args:
        document: The parsed file.
        folder: Where it lies; a query's file is looked for there.

    Raises:
        RequestInvalid: The file is wrong; the message names the place.
    """
    try:
        file = SqlFile.model_validate(document)
    except ValidationError as error:
        raise RequestInvalid(explain(error)) from None
    return {name: _form(name, query, folder) for name, query in file.queries.items()}


def _form(name: str, query: QueryFile, folder: Path) -> ToolForm:
    where = f"query {name}"
    if (query.statement is None) == (query.file is None):
        raise RequestInvalid(f"{where}: give either statement or file")
    text = query.statement if query.file is None else read_beside(folder, query.file, f"{where}: file")
    assert text is not None  # one of the two was given
    try:
        statement, order = bind(text, query.parameters)
        return ToolForm(
            description=query.description,
            parameters=marked(
                {
                    "type": "object",
                    "properties": {key: parameter.schema_of() for key, parameter in query.parameters.items()},
                    "required": [
                        key
                        for key, parameter in query.parameters.items()
                        if not parameter.optional and parameter.default is None
                    ],
                }
            ),
            external=False,
            idempotent=True,
            reversible=True,
            yields=tuple(query.yields),
            credential=query.credential,
            timeout_ms=query.timeout_ms,
            binding=SqlBinding(source="sql", statement=statement, arguments=tuple(order), rows_max=query.rows_max),
        )
    except ValidationError as error:
        raise RequestInvalid(f"{where}: {explain(error)}") from None
    except RequestInvalid as error:
        raise RequestInvalid(f"{where}: {error.message}", remedy=error.remedy) from None


def bind(text: str, parameters: Mapping[str, ParameterFile]) -> tuple[str, list[str]]:
    """Puts `$n`, cast to its type, in the place of each `:name`.

    Args:
        text: One statement; a `;` may stand at its end.
        parameters: The arguments that there are.

    Returns:
        The statement, and the arguments' names in the order of their numbers.

    Raises:
        RequestInvalid: It is not one statement, or names other arguments than there are.
    """
    try:
        tokens = Postgres().tokenize(text)
    except TokenError as error:
        raise RequestInvalid(f"the statement cannot be read: {str(error)[:200]}") from None
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        text = text[: tokens.pop().start]
    if not tokens or any(token.token_type == TokenType.SEMICOLON for token in tokens):
        raise RequestInvalid("a tool is exactly one statement", remedy="make a tool of each")
    if any(token.token_type == TokenType.PARAMETER for token in tokens):
        raise RequestInvalid("the statement has a `$1` of its own", remedy="name its arguments like :customer")
    order: list[str] = []
    pieces: list[str] = []
    at = 0
    for colon, word in _named(tokens):
        name = text[word.start : word.end + 1]
        parameter = parameters.get(name)
        if parameter is None:
            raise RequestInvalid(f"the statement names :{name}, which is not among its parameters")
        if name not in order:
            order.append(name)
        pieces += [text[at : colon.start], f"(${order.index(name) + 1}::text)::{_CASTS[parameter.type]}"]
        at = word.end + 1
    if unused := [name for name in parameters if name not in order]:
        raise RequestInvalid(f"the statement does not use :{unused[0]}")
    return "".join([*pieces, text[at:]]).strip(), order


def _named(tokens: list[Token]) -> Iterator[tuple[Token, Token]]:
    """Yields each colon that a word follows at once; casts (`::`) and literals are tokens of other kinds."""
    for colon, word in pairwise(tokens):
        if colon.token_type == TokenType.COLON and word.start == colon.end + 1 and word.text.isidentifier():
            yield colon, word
