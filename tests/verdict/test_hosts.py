"""Where requests may go: what an allow-list names, and which addresses are on the public internet."""

from __future__ import annotations

from typing import Final

import pytest

from holdfast_verdict.actions.hosts import host_allowed, refusal_of_address

PLACES: Final = [
    "a.com:443",
    "a.com:8443",
    "a.com:8443 of 8443",
    "x.a.com:443",
    "x.y.a.com:8443",
    "xa.com:443",
    "[::1]:443",
    "[::1]:8443",
    "xn--bcher-kva.de:443",
]
"""Host and port; the port of the scheme is 443 if it is not another one, which is named behind `of`."""
ALLOWED: Final[list[tuple[str, list[str]]]] = [
    # an entry, and all places that it names
    ("a.com", ["a.com:443", "a.com:8443 of 8443"]),
    ("A.COM", ["a.com:443", "a.com:8443 of 8443"]),
    ("a.com:8443", ["a.com:8443", "a.com:8443 of 8443"]),
    ("*.a.com", ["x.a.com:443"]),
    ("*.a.com:8443", ["x.y.a.com:8443"]),
    ("[::1]", ["[::1]:443"]),
    ("[::1]:8443", ["[::1]:8443"]),
    ("*.[::1]", []),
    ("", []),
    ("bad host", []),
    ("a.com:", []),
    ("a.com:x", []),
    ("xn--bcher-kva.de", ["xn--bcher-kva.de:443"]),
    ("bücher.de", ["xn--bcher-kva.de:443"]),
]
PUBLIC: Final = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2001:4860:4860::8888"]
PRIVATE: Final = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "::1", "fc00::1", "fd00::1"]
SPECIAL: Final = [
    "0.0.0.0",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.88.99.1",
    "192.0.0.1",
    "::",
    "fe80::1",
    "ff02::1",
    "::ffff:1.1.1.1",
    "::ffff:127.0.0.1",
    "::1.1.1.1",
    "64:ff9b::101:101",
    "64:ff9b:1::1",
    "2002:101:101::",
    "2001::1",
    "2001:db8::1",
    "3fff::1",
    "4000::1",
]


@pytest.mark.parametrize(("entry", "named"), ALLOWED)
def test_an_entry_names_these_places(entry: str, named: list[str]) -> None:
    found = []
    for place in PLACES:
        where, _, default = place.partition(" of ")
        host, _, port = where.rpartition(":")
        if host_allowed(host, int(port), int(default or 443), [entry]):
            found.append(place)
    assert found == named


def test_one_entry_of_a_list_is_enough_and_none_names_nothing() -> None:
    assert host_allowed("a.com", 443, 443, ["b.com", "a.com", "c.com"])
    assert not host_allowed("a.com", 443, 443, ["b.com", "c.com"])
    assert not host_allowed("a.com", 443, 443, [])


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_on_the_public_internet(address: str) -> None:
    assert refusal_of_address(address) is None
    assert refusal_of_address(address, allow_private=True) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_only_tests_and_sealed_networks_reach(address: str) -> None:
    assert refusal_of_address(address) == f"{address} is not an address on the public internet"
    assert refusal_of_address(address, allow_private=True) is None


@pytest.mark.parametrize("address", SPECIAL)
def test_an_address_that_nobody_reaches(address: str) -> None:
    for allow_private in (False, True):
        refusal = refusal_of_address(address, allow_private=allow_private)
        assert refusal == f"{address} is not an address on the public internet"


@pytest.mark.parametrize("allow_private", [False, True])
def test_what_is_no_address(allow_private: bool) -> None:
    for text in ("localhost", "", "1.1.1"):
        assert refusal_of_address(text, allow_private=allow_private) == f"{text!r} is not an IP address"
    assert refusal_of_address("fe80::1%eth0", allow_private=allow_private) == "fe80::1%eth0 has a zone id"
