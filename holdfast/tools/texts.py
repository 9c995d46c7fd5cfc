"""Texts in arguments: what a mail address, a line and a text may consist of."""

from __future__ import annotations

import re
import unicodedata

from holdfast_verdict.actions import mail

_MESSAGE_ID = re.compile(r"<[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,120}@[A-Za-z0-9.-]{1,120}>")
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that let a text look different from what it is, to the very person who is to approve it."""


def normalise_mail_address(text: str) -> str:
    """Brings a bare mail address to lower case with an IDNA domain.

    Its local part is ASCII: not every server that the mail passes knows others.

    Raises:
        ValueError: It is not a bare address.
    """
    address = mail.normalise_mail_address(text)
    if not address.isascii():
        raise ValueError(f"{text!r} has letters before the @ that not every mail server takes")
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
