"""Parts that requests and answers of many routes have in common."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final, Generic, TypeVar
from uuid import UUID

from fastapi import Header, Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer

from holdfast.errors import RequestInvalid
from holdfast.money import NANO_PER_USD, parse_usd
from holdfast.tenancy.idempotency import Claim
from holdfast.tenancy.principals import Principal
from holdfast_verdict.canonical import MAX_INTEGER, JsonValue

ItemT = TypeVar("ItemT")

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
TEXT_LENGTH_MAX: Final = 200_000

Name = Annotated[str, Field(pattern=NAME_PATTERN, description="lower-case letters, digits and -")]
NamePath = Annotated[str, Path(pattern=NAME_PATTERN)]
PageSize = Annotated[int, Query(alias="limit", ge=1, le=200, description="most items of this page")]
Cursor = Annotated[str | None, Query(max_length=400, description="`next_cursor` of the page before")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="the same request under the same key has its effect once and gets the same answer",
    ),
]


def _utc(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


Time = Annotated[datetime, PlainSerializer(_utc, return_type=str)]
"""A time in answers: RFC 3339, UTC."""


def usd(amount_nano_usd: int) -> str:
    """Returns nano-dollars as an exact decimal number of dollars, such as `0.0125`."""
    text = f"{Decimal(amount_nano_usd) / NANO_PER_USD:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _dollars(text: str) -> str:
    if parse_usd(text) > MAX_INTEGER:
        raise ValueError(f"{text} is more than a cap can hold")
    return text


Usd = Annotated[
    str, Field(max_length=40, pattern=r"^[0-9]{1,12}(\.[0-9]{1,9})?$", examples=["0.25"]), AfterValidator(_dollars)
]
"""Dollars in requests: a decimal number as text, for JSON's numbers are not exact."""


class Form(BaseModel):
    """Base of all requests: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


class Page(Answer, Generic[ItemT]):
    """A page of a list; there is more if `next_cursor` is not null."""

    items: list[ItemT]
    next_cursor: str | None


def page_of(items: list[ItemT], keys: list[str], size: int) -> Page[ItemT]:
    """Builds a page from one item more than it shows.

    Args:
        items: Up to `size + 1` items.
        keys: What the list is sorted by, of each item.
        size: Items of a full page.
    """
    more = len(items) > size
    cursor = base64.urlsafe_b64encode(keys[size - 1].encode()).decode() if more else None
    return Page[ItemT](items=items[:size], next_cursor=cursor)


def text_cursor(cursor: str | None) -> str:
    """Reads a cursor of a list that is sorted by names; empty for its first page.

    Raises:
        RequestInvalid: It is no cursor.
    """
    try:
        text = base64.b64decode((cursor or "").encode("ascii"), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = "\x00"
    if "\x00" in text:
        raise RequestInvalid("`cursor`: this is no cursor of this list", remedy="send `next_cursor` as it was received")
    return text


def id_cursor(cursor: str | None) -> UUID | None:
    """Reads a cursor of a list that is sorted by ids; None for its first page.

    Raises:
        RequestInvalid: It is no cursor.
    """
    text = text_cursor(cursor)
    if not text:
        return None
    try:
        return UUID(text)
    except ValueError:
        raise RequestInvalid(
            "`cursor`: this is no cursor of this list", remedy="send `next_cursor` as it was received"
        ) from None


def number_cursor(cursor: str | None) -> int | None:
    """Reads a cursor of a list that is sorted by numbers; None for its first page.

    Raises:
        RequestInvalid: It is no cursor.
    """
    text = text_cursor(cursor)
    if text and not (text.isascii() and text.isdecimal() and int(text) <= MAX_INTEGER):
        raise RequestInvalid("`cursor`: this is no cursor of this list", remedy="send `next_cursor` as it was received")
    return int(text) if text else None


def claim_for(caller: Principal, operation: str, key: str | None, request: dict[str, JsonValue]) -> Claim | None:
    """Returns what a request claims under its idempotency key, or None if it has none."""
    if key is None:
        return None
    return Claim(caller.tenant_id, operation, key, {"user_id": str(caller.user_id), "request": request})
