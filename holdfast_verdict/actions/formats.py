"""Formats: what a schema's `format`, or a catalogue's `formats`, says of a text, and how that is brought to its one form."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final
from uuid import UUID

from holdfast_verdict.actions.headers import normalise_header_value
from holdfast_verdict.actions.hosts import normalise_host
from holdfast_verdict.actions.mail import normalise_mail_address
from holdfast_verdict.actions.numbers import decimal_text
from holdfast_verdict.actions.paths import normalise_path
from holdfast_verdict.actions.refused import FormRefused, shown
from holdfast_verdict.actions.urls import normalise_url

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_DATE_TIME: Final = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ](?P<time>[0-9]{2}:[0-9]{2}(:[0-9]{2})?)(?P<fraction>\.[0-9]{1,9})?"
    r"(?P<zone>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def normalise_decimal(text: str) -> str:
    """Returns the one text of a decimal number.

    Raises:
        FormRefused: It is none.
    """
    number = decimal_text(text)
    if number is None:
        raise FormRefused("decimal.form", f"{shown(text)} is not a decimal number", "write it as 12.5")
    return number


def normalise_date(text: str) -> str:
    """Accepts a day that exists, as `2026-01-31`.

    Raises:
        FormRefused: It is none.
    """
    if _DATE.fullmatch(text):
        try:
            return dt.date.fromisoformat(text).isoformat()
        except ValueError:
            pass
    raise FormRefused("date.form", f"{shown(text)} is not a date", "write it as 2026-01-31")


def normalise_date_time(text: str) -> str:
    """Brings a time to `2026-01-31T12:30:00Z`: in UTC if it names its zone, without a zone if it does not.

    Raises:
        FormRefused: It is none.
    """
    form = _DATE_TIME.fullmatch(text)
    if form is not None:
        try:
            at = dt.datetime.fromisoformat(f"{form['date']}T{form['time']}{(form['zone'] or '').upper()}")
            if at.tzinfo is not None:
                at = at.astimezone(dt.UTC).replace(tzinfo=None)
        except (ValueError, OverflowError):
            pass
        else:
            fraction = (form["fraction"] or "").rstrip("0").rstrip(".")
            return f"{at.isoformat(timespec='seconds')}{fraction}{'Z' if form['zone'] else ''}"
    raise FormRefused("date.form", f"{shown(text)} is not a date and time", "write it as 2026-01-31T12:30:00Z")


def normalise_uuid(text: str) -> str:
    """Brings a UUID to lower case.

    Raises:
        FormRefused: It is none.
    """
    if _UUID.fullmatch(text) is None:
        raise FormRefused("uuid.form", f"{shown(text)} is not a UUID", "write it as 8-4-4-4-12 hexadecimal digits")
    return str(UUID(text))


FORMATS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {
        "email": normalise_mail_address,
        "idn-email": normalise_mail_address,
        "uri": normalise_url,
        "url": normalise_url,
        "iri": normalise_url,
        "hostname": normalise_host,
        "idn-hostname": normalise_host,
        "host": normalise_host,
        "path": normalise_path,
        "file-path": normalise_path,
        "directory-path": normalise_path,
        "decimal": normalise_decimal,
        "date": normalise_date,
        "date-time": normalise_date_time,
        "uuid": normalise_uuid,
        "header": normalise_header_value,
    }
)
"""By name. Other formats that JSON Schema knows are checked as it says; those that nobody knows say nothing."""
