"""Hosts: one normal form for names and addresses, allow-lists, and which addresses a request may go to.

One thing must have one spelling before policy compares it (LAW 7), so what cannot be brought to its normal form
without guessing is refused: numbers that some resolvers read as addresses, zone ids, underscores, broken IDNA.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import idna

HOST_LENGTH_MAX = 253

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

_PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
"""What a credential may open by `allow_private`. Link-local is never among it: cloud metadata lives there."""

_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's metadata and wire server, though the address is public
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4, which carries an IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)


def normalise_host(text: str) -> str:
    """Brings a host to its one normal form: lower-case A-labels, dotted IPv4, or bracketed compressed IPv6.

    Raises:
        ValueError: The text is not a host, or one that readers would read differently.
    """
    if text.startswith("["):
        return _normalise_ipv6(text)
    if not text or len(text) > HOST_LENGTH_MAX:
        raise ValueError(f"a host has 1 to {HOST_LENGTH_MAX} characters")
    try:
        host = idna.encode(text.removesuffix("."), uts46=True, std3_rules=True).decode("ascii").lower()
    except UnicodeError:
        raise ValueError(f"{text!r} is not a valid host name") from None
    labels = host.split(".")
    if len(host) > HOST_LENGTH_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} is not a valid host name")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f"{text!r} is not a host; write an IPv4 address as four decimal numbers") from None
    return host


def _normalise_ipv6(text: str) -> str:
    if not text.endswith("]") or "%" in text:
        raise ValueError(f"{text!r} is not an IPv6 address in brackets without a zone id")
    try:
        return f"[{ipaddress.IPv6Address(text[1:-1]).compressed}]"
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv6 address") from None


def host_allowed(host: str, port: int, default_port: int, allowed: Iterable[str]) -> bool:
    """Says whether an allow-list names this host and port.

    Args:
        host: A normalised host.
        port: The port of the request.
        default_port: The port of the request's scheme; an entry without a port allows this one only.
        allowed: Entries such as `api.example.com`, `*.example.com` (names below it, not itself) and
            `api.example.com:8443`.
    """
    return any(_entry_allows(entry, host, port, default_port) for entry in allowed)


def _entry_allows(entry: str, host: str, port: int, default_port: int) -> bool:
    name, colon, port_text = entry.rpartition(":")
    if not colon or entry.endswith("]"):
        name, port_text = entry, str(default_port)
    if port_text != str(port):
        return False
    try:
        if name.startswith("*."):
            return host.endswith("." + normalise_host(name[2:]))
        return host == normalise_host(name)
    except ValueError:
        return False


def refusal_of_address(text: str, *, allow_private: bool = False) -> str | None:
    """Says why no request may go to this IP address, or None if one may.

    Refused is whatever is not plainly a host on the public internet, including the forms that carry an IPv4 address
    inside an IPv6 one (mapped, compatible, 6to4, NAT64, Teredo), public or not.

    Args:
        text: The address as a resolver gave it.
        allow_private: Lets loopback, RFC 1918 and unique-local addresses pass; for tests and sealed networks.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return f"{text!r} is not an IP address"
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return f"{text} has a zone id"
    if allow_private and any(address in network for network in _PRIVATE_NETWORKS):
        return None
    if isinstance(address, ipaddress.IPv4Address):
        refused = any(address in network for network in _REFUSED_V4)
    else:
        refused = address not in _PUBLIC_V6 or any(address in network for network in _REFUSED_V6)
    return f"{text} is not an address on the public internet" if refused else None
