"""Texts in arguments: what a mail address, a line and a text may consist of."""

from __future__ import annotations

import re
import unicodedata

from holdfast.tools.hosts import normalise_host

MAIL_ADDRESS_LENGTH_MAX = 254

_LOCAL_PART = re.compile(r"(?=.{1,64}$)[a-z0-9_]+(?:[.+='&~-]+[a-z0-9_]+)*")
_MESSAGE_ID = re.compile(r"<[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,120}@[A-Za-z0-9.-]{1,120}>")
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that let a text look different from what it is, to the very person who is to approve it."""


def normalise_mail_address(text: str) -> str:
    """Brings a bare mail address to lower case with an IDNA domain.

    Refused are display names, quoted local parts, address literals, and `%` and `!`, by which some servers route on.

    Raises:
        ValueError: It is not a bare address.
    """
    local, at, domain = text.strip(" ").rpartition("@")
    local = local.lower()
    if not at or ".." in local or not _LOCAL_PART.fullmatch(local):
        raise ValueError(f"{text!r} is not a bare mail address such as name@example.com")
    host = normalise_host(domain)
    if "." not in host or host[-1] == "]" or host[-1].isdigit():
        raise ValueError(f"{text!r}: the part after @ must be a domain name")
    address = f"{local}@{host}"
    if len(address) > MAIL_ADDRESS_LENGTH_MAX:
        raise ValueError(f"a mail address has at most {MAIL_ADDRESS_LENGTH_MAX} characters")
    return address


def check_message_id(text: str) -> str:
    """Accepts a Message-ID in angle brackets.

    Raises:
        ValueError: It is not one.
    """
    if not _MESSAGE_ID.fullmatch(text):
        raise ValueError("must be a Message-ID in angle brackets, as mail.read shows it")
    return text


def check_line(text: str) -> str:
    """Accepts a single line of printable text, so that nothing can be smuggled into a header behind it.

    Raises:
        ValueError: It holds a line break, a control character or a character that reorders text.
    """
    return _check(text, allowed="")


def normalise_text(text: str) -> str:
    r"""Accepts text of several lines and writes every line end as `\n`.

    Raises:
        ValueError: It holds a control character or a character that reorders text.
    """
    return _check(text.replace("\r\n", "\n").replace("\r", "\n"), allowed="\n\t")


def _check(text: str, *, allowed: str) -> str:
    for character in text:
        if character in allowed:
            continue
        if character in _REORDERING or unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise ValueError(f"the character U+{ord(character):04X} is not allowed here")
    return text
