"""Formats: what a schema's `format`, or a catalogue's `formats`, says of a text, and how that is brought to its one form."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import unicodedata
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

_BREAKING: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_REORDERING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that let a text look different from what it is, to the very person who is to approve it."""
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_DATE_TIME: Final = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ](?P<time>[0-9]{2}:[0-9]{2}(:[0-9]{2})?)(?P<fraction>\.[0-9]{1,9})?"
    r"(?P<zone>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
_PLAIN_ESCAPE: Final = re.compile(r"%(?:3[0-9]|[46][1-9a-f]|[57][0-9a])", re.IGNORECASE)
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def normalise_plain_path(text: str) -> str:
    """Brings a path to its one spelling: no `.` segments, no doubled or trailing slashes; a relative one stays relative.

    Raises:
        FormRefused: It is no path, some reader takes it to another place, or it has plain letters in escapes, which no name needs.
    """
    if _PLAIN_ESCAPE.search(text):
        raise FormRefused("path.escape", f"{shown(text)} has letters in escapes", "write the plain characters")
    return normalise_path(text)


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


def normalise_line(text: str) -> str:
    """Accepts one line of text, so that nothing can be smuggled into a header behind it.

    Raises:
        FormRefused: It has a line break, a control character other than a tab, or one that reorders text.
    """
    for character in text.replace("\t", " "):
        if character in _REORDERING or (not character.isprintable() and unicodedata.category(character) in _BREAKING):
            raise FormRefused("text.line", f"holds U+{ord(character):04X}, and is one line of text", "leave it out")
    return text


def normalise_ip(text: str) -> str:
    """Brings an IP address to its one spelling, without brackets.

    Raises:
        FormRefused: It is none, or an IPv6 address that leads to the IPv4 address inside it.
    """
    host = normalise_host(f"[{text}]" if ":" in text and not text.startswith("[") else text)
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        raise _no_address(text) from None


def _of_version(version: int) -> Callable[[str], str]:
    def normalise(text: str) -> str:
        address = normalise_ip(text)
        if ipaddress.ip_address(address).version != version:
            raise _no_address(text)
        return address

    return normalise


def _no_address(text: str) -> FormRefused:
    return FormRefused(
        "host.form", f"{shown(text)} is not such an IP address", "write 192.0.2.1, or 2001:db8::1 for IPv6"
    )


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
        "ipv4": _of_version(4),
        "ipv6": _of_version(6),
        "ip": normalise_ip,
        "ipvanyaddress": normalise_ip,
        "path": normalise_plain_path,
        "file-path": normalise_plain_path,
        "directory-path": normalise_plain_path,
        "decimal": normalise_decimal,
        "date": normalise_date,
        "date-time": normalise_date_time,
        "uuid": normalise_uuid,
        "header": normalise_header_value,
        "line": normalise_line,
    }
)
"""By name. Other formats that JSON Schema knows are checked as it says; those that nobody knows say nothing."""
