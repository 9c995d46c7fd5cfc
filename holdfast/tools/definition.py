"""Tools of a tenant's own: what they take, what is known of their effects, and what a call of one is bound to.

A definition is data. It is put by an admin, kept in versions, and a run is pinned to those that were newest when it was
admitted. Its digest stands in every action that calls it, so what was decided, what an approver read and what an executor
runs is one and the same definition (LAW 1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from holdfast.errors import RequestInvalid
from holdfast.tools import schemas
from holdfast.tools.sql_words import refused_word
from holdfast.tools.urls import parse_url
from holdfast_verdict.canonical import JsonValue as Canonical
from holdfast_verdict.canonical import canonical_bytes, digest
from holdfast_verdict.sealing import Pattern, personal_in

NAME_PATTERN: Final = r"^[a-z][a-z0-9]*(_[a-z0-9]+)*(\.[a-z0-9]+(_[a-z0-9]+)*){1,3}$"
"""Dotted, in lower case, without doubled underscores, so that a model's wire has one spelling for each."""
NAME_LENGTH_MAX: Final = 56
DEFINITION_BYTES_MAX: Final = 65_536
ROWS_MAX: Final = 1_000

PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
READING: Final = ("GET", "HEAD")
"""Methods that, by HTTP's own words, ask for no effect."""

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NO_ARGUMENTS_IN = re.compile(
    r"host|authorization|cookie2?|connection|keep-alive|te|trailer|upgrade|expect|via|forwarded|user-agent|date"
    r"|accept|accept-encoding|http2-settings|.*method-override|x-(forwarded|original|rewrite|real)-.*"
    r"|(content|transfer|proxy|sec)-.*"
)
"""Headers that say whose request it is, where it goes, or where it ends."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PythonBinding(_Form):
    """A function of an installed package, found by the entry point of the tool's name in the group `holdfast.tools`.

    The executor calls only what is registered there under this name with this value: whoever may put definitions cannot
    name any other function.
    """

    source: Literal["python"]
    function: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", max_length=300, description="the entry point's `module:function`"
    )


class Place(_Form):
    """Where an argument goes in an HTTP request."""

    where: Literal["path", "query", "header", "body", "whole-body"]
    name: str = Field(min_length=1, max_length=200, description="what it is called there; for `body`, the field")
    numbers: tuple[Annotated[str, Field(max_length=500)], ...] = Field(
        default=(),
        max_length=100,
        strict=False,
        description="paths in it, such as `/lines/*/price`, of decimals that the service takes as JSON numbers",
    )


class OpenapiBinding(_Form):
    """One operation of an HTTP service. Its address stands in the vault entry, beside the secret that it is for."""

    source: Literal["openapi"]
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    path: str = Field(pattern=r"^/[^?#\s]*$", max_length=1_000, description="such as `/orders/{order_id}`")
    places: dict[str, Place] = Field(default={}, max_length=100, description="where each argument goes")
    idempotency_header: str = Field(
        default="",
        pattern=r"^$|^[A-Za-z0-9-]{1,100}$",
        description="header in which the service takes an idempotency key, which makes the tool idempotent",
    )
    content_type: str = Field(
        default="application/json",
        pattern=r"^application/([a-z0-9.-]+\+)?json$",
        max_length=100,
        description="what the body is called",
    )


class SqlBinding(_Form):
    """One statement in a read-only transaction. Arguments are bound as parameters, never put into the text."""

    source: Literal["sql"]
    statement: str = Field(
        min_length=1, max_length=20_000, description="with `$1`, `$2` … for the arguments, all texts"
    )
    arguments: tuple[str, ...] = Field(
        default=(), max_length=100, strict=False, description="the arguments' names in the order of their numbers"
    )
    rows_max: int = Field(default=100, ge=1, le=ROWS_MAX, description="rows that are returned at most")


Binding = Annotated[PythonBinding | OpenapiBinding | SqlBinding, Field(discriminator="source")]


class ToolForm(_Form):
    """A tool as it is put and kept."""

    description: str = Field(min_length=1, max_length=4_000, description="what the model is told")
    parameters: dict[str, JsonValue] = Field(description="JSON Schema of the arguments, an object")
    external: bool = Field(description="its effect leaves the tenant's boundary")
    idempotent: bool = Field(
        description="the same call under the same key has its effect once, so it may be tried again"
    )
    reversible: bool = Field(description="its effect can be taken back")
    yields: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")], ...] = Field(
        default=("untrusted",), max_length=20, strict=False, description="labels of what it returns"
    )
    credential: str | None = Field(
        default=None, pattern=r"^tool\.[a-z0-9._-]{1,120}$", description="vault entry that it needs"
    )
    timeout_ms: int = Field(default=20_000, ge=100, le=600_000, description="then a call is given up")
    binding: Binding = Field(description="what a call is bound to, by `source`: `python`, `openapi` or `sql`")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        try:
            schemas.check(self.parameters)
        except RequestInvalid as error:
            raise ValueError(f"parameters: {error.message}") from None
        if len(canonical_bytes(self.to_json())) > DEFINITION_BYTES_MAX:
            raise ValueError(f"the definition is over {DEFINITION_BYTES_MAX} bytes")
        known = set(schemas.properties(self.parameters))
        if isinstance(self.binding, OpenapiBinding):
            _check_places(self.binding, known, self.parameters.get("required", ()))
        if isinstance(self.binding, SqlBinding):
            if self.external:
                raise ValueError("external: a statement that only reads has no effect outside")
            if word := refused_word(self.binding.statement):
                raise ValueError(f"binding.statement: a tool may not use `{word}`, not even in a literal or comment")
            if set(self.binding.arguments) != known or len(self.binding.arguments) != len(known):
                raise ValueError("binding.arguments: names each argument once")
        if not isinstance(self.binding, PythonBinding) and self.credential is None:
            raise ValueError("credential: name the vault entry with the service's or database's address")
        return self

    def to_json(self) -> dict[str, Canonical]:
        """Returns the canonical form, in which it is kept and digested."""
        return cast("dict[str, Canonical]", self.model_dump(mode="json"))


def is_free_header(name: str) -> bool:
    """Says whether an argument may be sent in a header of this name."""
    return _HEADER.fullmatch(name) is not None and _NO_ARGUMENTS_IN.fullmatch(name.lower()) is None


def _check_places(binding: OpenapiBinding, known: set[str], required: object) -> None:
    if missing := known - set(binding.places):
        raise ValueError(f"binding.places: nothing says where the argument `{min(missing)}` goes")
    if unknown := set(binding.places) - known:
        raise ValueError(f"binding.places: `{min(unknown)}` is not an argument")
    taken: set[tuple[str, str]] = {("header", binding.idempotency_header.lower())}
    for argument, place in binding.places.items():
        key = (place.where, place.name.lower() if place.where == "header" else place.name)
        if key in taken:
            raise ValueError(f"binding.places: two things go to {place.where} `{place.name}`")
        taken.add(key)
        if place.where == "header" and not is_free_header(place.name):
            raise ValueError(f"binding.places: no argument may be sent in the header {place.name}")
        if place.where == "path" and (not isinstance(required, list | tuple) or argument not in required):
            raise ValueError(f"binding.places: `{argument}` is part of the path, so it must be required")
        if place.numbers and place.where not in ("body", "whole-body"):
            raise ValueError(f"binding.places: `{argument}` is text in a {place.where}, and has no numbers")
    bare = PLACEHOLDER.sub("x", binding.path)
    if parse_url(f"http://h{bare}").target != bare:
        raise ValueError(
            f"binding.path: {binding.path} has another spelling; write {parse_url(f'http://h{bare}').target}"
        )
    if binding.idempotency_header and not is_free_header(binding.idempotency_header):
        raise ValueError(f"binding.idempotency_header: {binding.idempotency_header} has another meaning")
    in_path = {place.name for place in binding.places.values() if place.where == "path"}
    if in_path != set(PLACEHOLDER.findall(binding.path)):
        raise ValueError(f"binding.path: {binding.path} and the arguments in it do not match")
    bodies = [place.where for place in binding.places.values() if place.where in ("body", "whole-body")]
    if bodies and binding.method in READING:
        raise ValueError(f"binding: {binding.method} carries no body")
    if "whole-body" in bodies and len(bodies) > 1:
        raise ValueError("binding.places: one argument is the whole body already")


@dataclass(frozen=True)
class OwnTool:
    """One version of a tool of the tenant's own.

    Attributes:
        name: Dotted name.
        version: Number of the version.
        form: The definition.
    """

    name: str
    version: int
    form: ToolForm

    @cached_property
    def digest(self) -> str:
        """SHA-256 of name and definition, hex; actions cite it."""
        return digest({"name": self.name, "definition": self.form.to_json()}).hex()

    @cached_property
    def personal(self) -> tuple[Pattern, ...]:
        """Where its arguments are personal or secret, as its schema marks them."""
        return personal_in(self.form.parameters)

    @property
    def description(self) -> str:
        """See `ToolForm`."""
        return self.form.description

    @property
    def external(self) -> bool:
        """See `ToolForm`."""
        return self.form.external

    @property
    def credential(self) -> str | None:
        """See `ToolForm`."""
        return self.form.credential

    @property
    def yields(self) -> tuple[str, ...]:
        """See `ToolForm`."""
        return self.form.yields

    def is_idempotent(self, _: Mapping[str, Canonical]) -> bool:
        """Says whether a call may be tried again while the outcome of an earlier try is unknown."""
        return self.form.idempotent

    def schema(self) -> dict[str, Canonical]:
        """Returns the JSON Schema of its arguments, as models are shown it."""
        return cast("dict[str, Canonical]", dict(self.form.parameters))

    def validate(self, given: Mapping[str, object]) -> dict[str, Canonical]:
        """Brings a model's arguments to the one form that is decided and executed; see `schemas.normalise`.

        Raises:
            RequestInvalid: They are not what the tool takes.
        """
        try:
            return schemas.normalise(self.form.parameters, given)
        except RequestInvalid as error:
            raise RequestInvalid(f"{self.name}: {error.message}", remedy=error.remedy) from None
