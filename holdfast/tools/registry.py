"""The tools that Holdfast brings along: their typed arguments and what is known of their effects.

A tool's `validate` is the only way from what a model wrote to what is decided. Its result is what policy evaluates, what an
approver reads, what the permit is for and what the executor runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict

from holdfast.errors import RequestInvalid
from holdfast.tools.texts import check_line, check_message_id, normalise_mail_address, normalise_text
from holdfast.tools.urls import URL_LENGTH_MAX, normalise_url
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.sealing import PERSONAL, Pattern, personal_in

HTTP_BODY_LENGTH_MAX = 65_536
MAIL_BODY_LENGTH_MAX = 20_000
MAIL_RECIPIENTS_MAX = 10
REFUND_USD_CENTS_MAX = 10_000_000

_PROBLEMS_SHOWN_MAX = 5
_SAFE_HTTP_METHODS = frozenset({"GET", "HEAD"})


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


MARKED: Final[JsonDict] = {PERSONAL: True}
"""Beside the schema of an argument: it may be personal or secret, so that records have a salted hash of it."""

MailAddress = Annotated[str, AfterValidator(normalise_mail_address), Field(json_schema_extra=MARKED)]
Line = Annotated[str, AfterValidator(check_line)]
MailId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$", description="id that mail.list shows")]
OrderId = Annotated[
    str,
    Field(pattern=r"^[A-Z0-9][A-Z0-9-]{0,31}$", description="number of the order, such as A-1003"),
    BeforeValidator(_upper),
]
ApprovalId = Annotated[
    str,
    Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", description="id of the approval"),
]
HttpMethod = Annotated[Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], BeforeValidator(_upper)]


class Arguments(BaseModel):
    """Base of all tools' arguments: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class MailList(Arguments):
    """Arguments of `mail.list`: none."""


class MailRead(Arguments):
    """Arguments of `mail.read`."""

    mail_id: MailId


class MailSend(Arguments):
    """Arguments of `mail.send`."""

    to: list[MailAddress] = Field(
        min_length=1, max_length=MAIL_RECIPIENTS_MAX, description="bare addresses, without display names"
    )
    subject: Line = Field(min_length=1, max_length=200, json_schema_extra=MARKED)
    body: Annotated[str, AfterValidator(normalise_text)] = Field(
        min_length=1, max_length=MAIL_BODY_LENGTH_MAX, description="plain text", json_schema_extra=MARKED
    )
    in_reply_to: Annotated[str, AfterValidator(check_message_id)] | None = Field(
        default=None, description="message_id of the mail that is answered", json_schema_extra=MARKED
    )

    @model_validator(mode="after")
    def _no_recipient_twice(self) -> Self:
        if len(set(self.to)) != len(self.to):
            raise ValueError("`to` names an address twice")
        return self


class OrdersLookup(Arguments):
    """Arguments of `orders.lookup`."""

    tenant: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="tenant whose order it is")
    order_id: OrderId


class PaymentsRefund(Arguments):
    """Arguments of `payments.refund`."""

    order_id: OrderId
    amount_usd_cents: int = Field(gt=0, le=REFUND_USD_CENTS_MAX, description="whole US cents: $12.50 is 1250")
    reason: Line = Field(min_length=1, max_length=500, json_schema_extra=MARKED)


class HttpRequest(Arguments):
    """Arguments of `http.request`."""

    method: HttpMethod
    url: Annotated[str, AfterValidator(normalise_url)] = Field(max_length=URL_LENGTH_MAX, json_schema_extra=MARKED)
    body: str | None = Field(
        default=None, max_length=HTTP_BODY_LENGTH_MAX, description="not with GET and HEAD", json_schema_extra=MARKED
    )

    @model_validator(mode="after")
    def _no_body_to_read(self) -> Self:
        if self.body is not None and self.method in _SAFE_HTTP_METHODS:
            raise ValueError(f"{self.method} carries no `body`")
        return self


class AccountDelete(Arguments):
    """Arguments of `account.delete`."""

    customer: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", description="number of the customer", json_schema_extra=MARKED
    )


class ApprovalRead(Arguments):
    """Arguments of `approval.read`."""

    approval_id: ApprovalId


class ApprovalVote(Arguments):
    """Arguments of `approval.vote`."""

    approval_id: ApprovalId
    binding: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="`binding` that approval.read shows: what you consent to"
    )
    verdict: Literal["approved", "denied"]
    reason: Annotated[str, AfterValidator(normalise_text)] = Field(
        min_length=1, max_length=2_000, description="why; people and the record see it", json_schema_extra=MARKED
    )


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """What is known of a tool before it runs.

    Attributes:
        name: Dotted name.
        description: What the model is told.
        arguments: Model of its arguments.
        external: Its effect leaves the tenant's boundary.
        idempotent: The same call under the same idempotency key has its effect once, so it may be tried again.
        reversible: Its effect can be taken back.
        yields: Labels of what it returns.
        credential: Vault entry that its execution needs, or None.
        idempotent_for: Where it depends on the arguments: says whether these are idempotent.
    """

    name: str
    description: str
    arguments: type[Arguments]
    external: bool
    idempotent: bool
    reversible: bool
    yields: tuple[str, ...]
    credential: str | None
    idempotent_for: Callable[[Mapping[str, JsonValue]], bool] | None = None

    @property
    def digest(self) -> str:
        """Empty: these are part of the program, and change only with it."""
        return ""

    @property
    def personal(self) -> tuple[Pattern, ...]:
        """Where its arguments may be personal or secret, as its schema marks them: records have salted hashes of these."""
        return _personal(self.arguments)

    def is_idempotent(self, arguments: Mapping[str, JsonValue]) -> bool:
        """Says whether this call may be tried again while the outcome of an earlier try is unknown."""
        return self.idempotent if self.idempotent_for is None else self.idempotent_for(arguments)

    def schema(self) -> dict[str, JsonValue]:
        """Returns the JSON Schema of its arguments, as models are shown it."""
        return _schema(self.arguments)

    def validate(self, given: Mapping[str, object]) -> dict[str, JsonValue]:
        """Checks a model's arguments and brings them to the one form that is decided and executed.

        The form is a fixed point: validating it again changes nothing.

        Raises:
            RequestInvalid: They are not what it takes; the message is one that a model can act on.
        """
        try:
            checked = self.arguments.model_validate(dict(given))
        except ValidationError as error:
            raise RequestInvalid(_explain(self, error), remedy="correct the arguments and call again") from None
        normal: dict[str, JsonValue] = checked.model_dump(mode="json")
        return normal


_DEFINITIONS = (
    ToolDefinition(
        name="mail.list",
        description="Lists the mails in the support inbox: id, sender, subject and date.",
        arguments=MailList,
        external=False,
        idempotent=True,
        reversible=True,
        yields=("untrusted",),
        credential="tool.mail",
    ),
    ToolDefinition(
        name="mail.read",
        description="Reads one mail of the support inbox. Its text was written by a stranger.",
        arguments=MailRead,
        external=False,
        idempotent=True,
        reversible=True,
        yields=("untrusted",),
        credential="tool.mail",
    ),
    ToolDefinition(
        name="mail.send",
        description="Sends a plain-text mail from the support address. A sent mail cannot be called back.",
        arguments=MailSend,
        external=True,
        idempotent=False,
        reversible=False,
        yields=(),
        credential="tool.mail",
    ),
    ToolDefinition(
        name="orders.lookup",
        description="Looks up an order: customer, item, amount, status and dates.",
        arguments=OrdersLookup,
        external=False,
        idempotent=True,
        reversible=True,
        yields=(),
        credential="tool.orders",
    ),
    ToolDefinition(
        name="payments.refund",
        description="Pays an order's amount, or a part of it, back to the customer.",
        arguments=PaymentsRefund,
        external=True,
        idempotent=True,
        reversible=False,
        yields=(),
        credential="tool.payments",
    ),
    ToolDefinition(
        name="http.request",
        description="Makes one HTTP request. Redirects are not followed: ask for the new address in another request.",
        arguments=HttpRequest,
        external=True,
        idempotent=False,
        reversible=False,
        yields=("untrusted",),
        credential="tool.http",
        idempotent_for=lambda arguments: arguments.get("method") in _SAFE_HTTP_METHODS,
    ),
    ToolDefinition(
        name="account.delete",
        description="Deletes a customer's account for good.",
        arguments=AccountDelete,
        external=True,
        idempotent=True,
        reversible=False,
        yields=(),
        credential="tool.accounts",
    ),
    ToolDefinition(
        name="approval.read",
        description="Shows what another agent's run asks consent for, if you are asked: the exact action, its cost, its binding.",
        arguments=ApprovalRead,
        external=False,
        idempotent=True,
        reversible=True,
        yields=("untrusted",),
        credential=None,
    ),
    ToolDefinition(
        name="approval.vote",
        description="Consents to exactly what a binding stands for, or denies it. A denial cannot be called back.",
        arguments=ApprovalVote,
        external=False,
        idempotent=True,
        reversible=False,
        yields=(),
        credential=None,
    ),
)

TOOLS: Final[Mapping[str, ToolDefinition]] = MappingProxyType(
    {definition.name: definition for definition in _DEFINITIONS}
)


@lru_cache
def _schema(arguments: type[Arguments]) -> dict[str, JsonValue]:
    schema = arguments.model_json_schema()
    properties = {
        name: {key: value for key, value in field.items() if key != "title"}
        for name, field in schema["properties"].items()
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(schema.get("required", ())),
        "additionalProperties": False,
    }


@lru_cache
def _personal(arguments: type[Arguments]) -> tuple[Pattern, ...]:
    return personal_in(_schema(arguments))


def find_tool(name: str) -> ToolDefinition:
    """Returns a tool's definition.

    Raises:
        RequestInvalid: There is no such tool (LAW 7).
    """
    definition = TOOLS.get(name)
    if definition is None:
        raise RequestInvalid(f"there is no tool {name[:100]!r}", remedy=f"the tools are {', '.join(TOOLS)}")
    return definition


def json_schema(tool: str) -> dict[str, JsonValue]:
    """Returns the JSON Schema of a tool's arguments; see `ToolDefinition.schema`.

    Raises:
        RequestInvalid: There is no such tool.
    """
    return find_tool(tool).schema()


def validate_arguments(tool: str, arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Checks the arguments of a tool; see `ToolDefinition.validate`.

    Raises:
        RequestInvalid: There is no such tool, or the arguments are not what it takes.
    """
    return find_tool(tool).validate(arguments)


def _explain(definition: ToolDefinition, error: ValidationError) -> str:
    known = ", ".join(definition.arguments.model_fields) or "none"
    sentences = []
    for problem in error.errors(include_url=False, include_input=False)[:_PROBLEMS_SHOWN_MAX]:
        where = ".".join(str(part)[:60] for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            sentences.append(f"`{where}` is not an argument of it (its arguments are: {known})")
        elif problem["type"] == "missing":
            sentences.append(f"`{where}` is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            sentences.append(f"`{where}`: {message}" if where else message)
    return f"{definition.name}: " + "; ".join(sentences)
