"""Strict readers of text that names a place: hosts, addresses, paths. Each reads one form, and nothing that two could read differently.

The actions' own normalisation comes first and is the richer one. What reaches here unnormalised, because nobody declared the
argument's format, is read only if it is plain; otherwise the answer is UNKNOWN, which lets no permit pass.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from holdfast_verdict.engine.unknown import UNKNOWN, Unknown

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_URL: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?(?:[/?#][!-\[\]-~]*)?", re.IGNORECASE
)
_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@(?P<host>[A-Za-z0-9_.-]+)")
_ESCAPED: Final = re.compile(r"%(?:2e|2f|5c|00|25)", re.IGNORECASE)
_MAX_HOST: Final = 253

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def address_of(host: str) -> IpAddress | None:
    """Returns the address that a host is written as, or `None` for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def plain_host(text: str) -> str | Unknown:
    """Reads a bare host: a name in ASCII, an IPv4 address of four decimal numbers, or an IPv6 address with or without brackets."""
    if not text.isascii():
        return UNKNOWN
    host = text.lower()
    if ":" in host:
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        address = None if "%" in bare else address_of(bare)
        return UNKNOWN if address is None else str(address)
    if len(host) > _MAX_HOST or _HOST.fullmatch(host) is None:
        return UNKNOWN
    if _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]) and address_of(host) is None:
        return UNKNOWN  # 2130706433, 0x7f.1, 127.1: some readers take them for addresses
    return host


def host_of(text: str) -> str | Unknown:
    """Reads the host of a URL, or a bare host."""
    if "://" not in text:
        return plain_host(text)
    match = _URL.fullmatch(text)
    return UNKNOWN if match is None else plain_host(match["host"])


def domain_of(text: str) -> str | Unknown:
    """Reads the domain of one plain mail address; text that could hold two addresses, or a display name, has none."""
    match = _ADDRESS.fullmatch(text)
    return UNKNOWN if match is None else plain_host(match["host"])


def _parts(path: str) -> tuple[str, ...] | None:
    if path.startswith("~") or "\\" in path or "\0" in path or _ESCAPED.search(path):
        return None
    parts = path.removesuffix("/").split("/")
    if path.startswith("/"):
        parts = parts[1:] if path != "/" else []
    return None if any(part in ("", ".", "..") for part in parts) else tuple(parts)


def is_under(path: str, folder: str) -> bool | None:
    """Says whether a path is a folder or lies in it; `None` if the path could be read as another one."""
    inner, outer = _parts(path), _parts(folder)
    if inner is None or outer is None or path.startswith("/") != folder.startswith("/"):
        return None
    return inner[: len(outer)] == outer


def host_matches(host: str, pattern: str) -> bool:
    """Compares hosts without case; `*.acme.com` stands for everything below acme.com, but not for itself."""
    wanted = pattern.lower()
    return host.endswith(wanted[1:]) and len(host) > len(wanted) - 1 if wanted.startswith("*.") else host == wanted


def glob_matches(text: str, pieces: tuple[str, ...]) -> bool:
    """Compares text with a pattern that was split at its stars; each star stands for any run of characters."""
    if len(pieces) == 1:
        return text == pieces[0]
    first, *middle, last = pieces
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True
