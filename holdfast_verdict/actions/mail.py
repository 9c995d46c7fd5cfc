"""Mail addresses: one bare mailbox, by a small grammar of our own.

The domain is IDNA's affair (`hosts`). What is left is one local part without quotes, comments and display names, for which a
library would bring a DNS resolver and a list of reserved names that changes: then the same text would have another canonical form
in another year.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from holdfast_verdict.actions.hosts import normalise_host
from holdfast_verdict.actions.refused import FormRefused, shown
from holdfast_verdict.actions.scripts import mixes_scripts
from holdfast_verdict.actions.texts import check_visible, normal_text

MAIL_ADDRESS_LENGTH_MAX: Final = 254

_LOCAL_BYTES_MAX: Final = 64
# without `%` and `!`, by which some servers route on, and `|` and backtick, which some hand to a shell
_ATOM: Final = re.compile(r"[A-Za-z0-9#$&'*+/=?^_{}~-]+")
# which some readers decode, and find another address in it
_ENCODED_WORD: Final = re.compile(r"=\?[^?]*\?[^?]*\?[^?]*\?=")
_OPTION_OR_FILE: Final = ("-", "/")
_LETTERS: Final = frozenset({"Ll", "Lo", "Lm", "Mn", "Mc", "Nd"})


def normalise_mail_address(text: str) -> str:
    """Brings a bare mail address to lower case with a domain of A-labels.

    Refused are display names, lists, quoted local parts, address literals, and `%` and `!`, by which some servers route on.

    Raises:
        FormRefused: It is not a bare address.
    """
    if any(character.isspace() for character in text.strip(" ")):
        raise _not_bare(text)
    bare = normal_text(text.strip(" "))
    check_visible(bare)
    local, at, domain = bare.rpartition("@")
    if not at or not domain:
        raise _not_bare(text)
    address = f"{_local_part(local, text)}@{_domain(domain, text)}"
    if len(address) > MAIL_ADDRESS_LENGTH_MAX:
        raise FormRefused(
            "email.form", f"a mail address has at most {MAIL_ADDRESS_LENGTH_MAX} characters", "write a shorter one"
        )
    return address


def _not_bare(text: str) -> FormRefused:
    return FormRefused(
        "email.form",
        f"{shown(text)} is not one bare mail address",
        "write it as name@example.com, without anything around it",
    )


def _local_part(local: str, text: str) -> str:
    lowered = normal_text("".join(character.lower() for character in local))
    if (
        not lowered
        or len(lowered.encode()) > _LOCAL_BYTES_MAX
        or lowered.startswith(_OPTION_OR_FILE)
        or _ENCODED_WORD.search(lowered)
    ):
        raise _not_bare(text)
    if unicodedata.normalize("NFKC", lowered) != lowered:
        raise FormRefused(
            "email.substitute", f"{shown(text)} has characters that stand for others", "write the plain letters"
        )
    for atom in lowered.split("."):
        plain = "".join(
            "a" if not character.isascii() and unicodedata.category(character) in _LETTERS else character
            for character in atom
        )
        if _ATOM.fullmatch(plain) is None:
            raise _not_bare(text)
        if mixes_scripts(atom):
            raise FormRefused(
                "email.mixed_scripts", f"{shown(atom)} mixes letters of several scripts", "write it in one script"
            )
    return lowered


def _domain(domain: str, text: str) -> str:
    host = normalise_host(domain)
    if "." not in host or host[-1] == "]" or host[-1].isdigit():
        raise FormRefused(
            "email.domain", f"{shown(text)}: the part after @ must be a domain name", "write it as name@example.com"
        )
    return host
