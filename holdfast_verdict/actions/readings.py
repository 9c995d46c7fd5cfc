"""Readings of plain text: what policies may ask of an argument that no format declares.

A reading is stricter than a format, for what is executed is the text itself and not what was read: so there is one only if
every reader sees the same. None says that there is none: unknown, which is neither true nor false.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

from holdfast_verdict.actions.hosts import normalise_host
from holdfast_verdict.actions.mail import MAIL_ADDRESS_LENGTH_MAX, normalise_mail_address
from holdfast_verdict.actions.paths import PATH_LENGTH_MAX, normalise_path
from holdfast_verdict.actions.urls import URL_LENGTH_MAX, Url, read_url

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Matcher = Callable[[object], bool | None]

# read as other letters by IDNA of 2003, which some programs still speak
_DEVIATIONS: Final = re.compile("[\u00df\u1e9e\u03c2\u200c\u200d]|xn--", re.IGNORECASE)
_AUTHORITY_END: Final = re.compile("([/?#])")


def _plain(text: object, length_max: int) -> str | None:
    """Returns text that no reader trims or splits, or None."""
    if not isinstance(text, str) or not text or len(text) > length_max or any(map(str.isspace, text)):
        return None
    return text


def mail_domain(text: object) -> str | None:
    """Returns the domain of a bare mail address, as A-labels in lower case."""
    plain = _plain(text, MAIL_ADDRESS_LENGTH_MAX)
    if plain is None or plain.endswith("."):
        return None
    try:
        address = normalise_mail_address(plain)
    except ValueError:
        return None
    domain = plain.rpartition("@")[2]
    return None if _read_differently(domain) else address.rpartition("@")[2]


def url_of(text: object) -> Url | None:
    """Returns an absolute URL."""
    plain = _plain(text, URL_LENGTH_MAX)
    if plain is None:
        return None
    try:
        url = read_url(plain)
    except ValueError:
        return None
    host, separator, rest = _AUTHORITY_END.split(f"{plain.partition('://')[2]}/", maxsplit=1)
    # `https://a.example?@b.example`: some readers look for the first slash only
    hidden = separator != "/" and ("@" in rest or "\\" in rest)
    return None if hidden or _read_differently(host) or host.partition(":")[0].endswith(".") else url


def host_of(text: object) -> str | None:
    """Returns the host of a URL, or of `host`, `host:port` or `host/path`; IPv6 in brackets."""
    if not isinstance(text, str):
        return None
    url = url_of(text if "://" in text else f"https://{text}")
    return None if url is None else url.host


def path_of(text: object) -> str | None:
    """Returns a path; a relative one stays relative."""
    if not isinstance(text, str) or len(text) > PATH_LENGTH_MAX or text != text.strip():
        return None
    try:
        return normalise_path(text)
    except ValueError:
        return None


def ip_of(text: object) -> Address | None:
    """Returns the IP address that a text, a host or the host of a URL is; a name has none here."""
    if not isinstance(text, str):
        return None
    host = host_of(f"[{text}]" if text.count(":") > 1 and "[" not in text and "/" not in text else text)
    if host is None:
        return None
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _read_differently(host: str) -> bool:
    return not host.isascii() and _DEVIATIONS.search(host) is not None


def _below_or_same(pattern: str) -> tuple[str, bool]:
    below = pattern.startswith("*.")
    return normalise_host(pattern[2:] if below else pattern), below


def _name_matcher(pattern: str, read: Callable[[object], str | None]) -> Matcher:
    name, below = _below_or_same(pattern)
    suffix = "." + name

    def matches(text: object) -> bool | None:
        found = read(text)
        if found is None:
            return None
        return found.endswith(suffix) if below else found == name

    return matches


def domain_matcher(pattern: str) -> Matcher:
    """Returns what says whether a text is a bare mail address at a domain.

    Args:
        pattern: `acme.com` for that domain, `*.acme.com` for those below it.

    Raises:
        FormRefused: It is no domain.
    """
    return _name_matcher(pattern, mail_domain)


def host_matcher(pattern: str) -> Matcher:
    """Returns what says whether a text is a host, or a URL with one, that a pattern names.

    Args:
        pattern: `api.acme.com`, `*.acme.com` for those below it, or an address.

    Raises:
        FormRefused: It is no host.
    """
    return _name_matcher(pattern, host_of)


def path_matcher(folder: str) -> Matcher:
    """Returns what says whether a text is the path of a folder, or of what is below it.

    A relative path and an absolute folder have no answer, and the other way round: nobody knows here what it starts from.

    Raises:
        FormRefused: It is no path.
    """
    top = normalise_path(folder)
    prefix = "/" if top == "/" else f"{top}/"

    def matches(text: object) -> bool | None:
        path = path_of(text)
        if path is None or path.startswith("/") != top.startswith("/"):
            return None
        return path == top or path.startswith(prefix) or top == "."

    return matches


def cidr_matcher(network: str) -> Matcher:
    """Returns what says whether a text is an IP address, or a host or URL that is one, inside a network.

    Raises:
        ValueError: It is no network, or has bits set behind its prefix.
    """
    within = ipaddress.ip_network(network)

    def matches(text: object) -> bool | None:
        address = ip_of(text)
        return None if address is None else address.version == within.version and address in within

    return matches
