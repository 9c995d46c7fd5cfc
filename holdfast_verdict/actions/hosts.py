"""Hosts: one normal form for names and addresses, allow-lists, and which addresses a request may go to.

One thing must have one spelling before policy compares it (LAW 7), so what cannot be brought to its normal form
without guessing is refused: numbers that some resolvers read as addresses, zone ids, underscores, broken IDNA, characters that
stand for others (fullwidth letters, dots of other scripts), labels that mix scripts, IPv6 addresses with an IPv4 address inside.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

import idna

from holdfast_verdict.actions.refused import FormRefused, shown
from holdfast_verdict.actions.scripts import mixes_scripts
from holdfast_verdict.actions.texts import check_visible, normal_text

HOST_LENGTH_MAX: Final = 253

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

_PRIVATE_NETWORKS: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
"""What a credential may open by `allow_private`. Link-local is never among it: cloud metadata lives there."""

_REFUSED_V4: Final = tuple(
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
_PUBLIC_V6: Final = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4, which carries an IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_CARRYING_V4: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "::ffff:0:0/96",  # mapped
        "::ffff:0:0:0/96",  # translated
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
    )
)
"""IPv6 addresses that lead to the IPv4 address inside them: a second spelling of it."""
_COMPATIBLE_V4: Final = ipaddress.IPv6Network("::/96")
_PLAIN_V6: Final = (ipaddress.IPv6Address("::"), ipaddress.IPv6Address("::1"))


def normalise_host(text: str) -> str:
    """Brings a host to its one normal form: lower-case A-labels, dotted IPv4, or bracketed compressed IPv6.

    Raises:
        FormRefused: The text is not a host, or one that readers would read differently.
    """
    if text.startswith("["):
        return _normalise_ipv6(text)
    if not text or len(text) > HOST_LENGTH_MAX:
        raise FormRefused("host.form", f"a host has 1 to {HOST_LENGTH_MAX} characters", "write a shorter name")
    name = text.removesuffix(".")
    labels = [_normalise_label(label, text) for label in _without_substitutes(name).split(".")]
    host = ".".join(labels)
    if len(host) > HOST_LENGTH_MAX:
        raise _not_a_host(text)
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise FormRefused(
                "host.number", f"{shown(text)} is not a host", "write an IPv4 address as four decimal numbers"
            ) from None
    return host


def _not_a_host(text: str) -> FormRefused:
    return FormRefused("host.form", f"{shown(text)} is not a valid host name", "write a name such as api.example.com")


def _without_substitutes(text: str) -> str:
    """Returns the name in lower case and NFC; refuses characters that stand for others, such as fullwidth ones."""
    if text.isascii():
        return text.lower()
    check_visible(text)
    folded = normal_text("".join(character.lower() for character in normal_text(text)))
    try:
        mapped = idna.uts46_remap(text, std3_rules=True)
    except UnicodeError:
        raise _not_a_host(text) from None
    if mapped != folded:
        raise FormRefused(
            "host.substitute",
            f"{shown(text)} has characters that stand for others",
            "write the plain letters, digits and dots",
        )
    return folded


def _normalise_label(label: str, text: str) -> str:
    if label.isascii() and not label.startswith("xn--"):
        if _LABEL.fullmatch(label) is None:
            raise _not_a_host(text)
        return label
    try:
        encoded = idna.alabel(label).decode("ascii")
        unicode_label = idna.ulabel(encoded) if label.isascii() else label
    except UnicodeError:
        raise _not_a_host(text) from None
    if _LABEL.fullmatch(encoded) is None:
        raise _not_a_host(text)
    if mixes_scripts(unicode_label):
        raise FormRefused(
            "host.mixed_scripts", f"{shown(unicode_label)} mixes letters of several scripts", "write it in one script"
        )
    return encoded


def _normalise_ipv6(text: str) -> str:
    if not text.endswith("]") or "%" in text:
        raise FormRefused(
            "host.form", f"{shown(text)} is not an IPv6 address in brackets", "write [::1], without a zone id"
        )
    try:
        address = ipaddress.IPv6Address(text[1:-1])
    except ValueError:
        raise FormRefused(
            "host.form", f"{shown(text)} is not an IPv6 address", "write an address such as [::1]"
        ) from None
    if carries_ipv4(address):
        raise FormRefused(
            "host.embedded_address",
            f"{shown(text)} leads to the IPv4 address inside it",
            "write the IPv4 address itself",
        )
    return f"[{address.compressed}]"


def carries_ipv4(address: ipaddress.IPv6Address) -> bool:
    """Says whether an IPv6 address is a second spelling of an IPv4 address: mapped, compatible, 6to4, NAT64, Teredo."""
    if address in _COMPATIBLE_V4:
        return address not in _PLAIN_V6
    return any(address in network for network in _CARRYING_V4)


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
