"""URLs: read by ada (the WHATWG standard), after a strict reader has refused what other readers read differently.

The result is the only spelling that policy, the approver and the executor see.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

import ada_url

from holdfast_verdict.actions.hosts import normalise_host
from holdfast_verdict.actions.paths import OVERLONG
from holdfast_verdict.actions.refused import FormRefused, shown
from holdfast_verdict.actions.texts import check_visible, normal_text

URL_LENGTH_MAX: Final = 8192
DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_PORT_MAX: Final = 65535
_FORM: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?P<fragment>#.*)?"
)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")
_HIDDEN_SEPARATOR: Final = re.compile(r"%2F|%5C|;")
_TWICE: Final = re.compile(r"%25[0-9A-Fa-f]{2}")
_CONTROL: Final = re.compile(r"%[01][0-9A-F]|%7F")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEVER_LITERAL: Final = re.compile(r'["<>^`{|}]')


@dataclass(frozen=True, slots=True)
class Url:
    """A normalised URL without user and password.

    Attributes:
        scheme: One of `DEFAULT_PORTS`.
        host: Normalised host, IPv6 in brackets.
        port: Port, the scheme's own if none was given.
        target: Path and query as they go into the request line.
        fragment: What follows, with its `#`, or empty; no server sees it.
    """

    scheme: str
    host: str
    port: int
    target: str
    fragment: str = ""

    @property
    def authority(self) -> str:
        """Host, and port where it is not the scheme's own: what the Host header says."""
        return self.host if self.port == DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def text(self) -> str:
        """The URL's one spelling."""
        return f"{self.scheme}://{self.authority}{self.target}{self.fragment}"

    def without_fragment(self) -> Url:
        """Returns what a request is sent to."""
        return replace(self, fragment="")


def read_url(text: str) -> Url:
    """Reads an absolute URL.

    Raises:
        FormRefused: It is not one, or two readers might disagree about where it leads.
    """
    if len(text) > URL_LENGTH_MAX:
        raise FormRefused("url.size", f"a URL has at most {URL_LENGTH_MAX} characters", "send long values in a body")
    if "\\" in text:
        raise FormRefused(
            "url.backslash", "a URL has no backslash, which some readers take for /", "write / or percent-encode it"
        )
    if any(character.isspace() for character in text):
        raise FormRefused("url.form", "a URL has no spaces, tabs or line ends", "percent-encode them")
    text = normal_text(text)
    check_visible(text)
    form = _FORM.fullmatch(text)
    if form is None:
        raise FormRefused("url.form", "is not an absolute URL", "start it with https:// and a host")
    scheme, authority = form["scheme"].lower(), form["authority"]
    if scheme not in DEFAULT_PORTS:
        raise FormRefused("url.scheme", f"URLs of the scheme {shown(scheme)} are not taken", "start it with https://")
    host, port = _host_and_port(authority, scheme)
    path, query, fragment = (_decoded(form[part] or "") for part in ("path", "query", "fragment"))
    _check_path(path)
    read = _parsed(f"{scheme}://{host}:{port}{path}{query}{fragment}", host)
    target = _decoded(read["pathname"]) + _decoded(read["search"] or ("?" if query else ""))
    url = Url(scheme, host, port, target, _decoded(read["hash"]))
    if len(url.text) > URL_LENGTH_MAX:
        raise FormRefused(
            "url.size", f"a URL has at most {URL_LENGTH_MAX} characters when percent-encoded", "send less"
        )
    return url


def normalise_url(text: str) -> str:
    """Returns the one spelling of a URL, with its fragment.

    Raises:
        FormRefused: See `read_url`.
    """
    return read_url(text).text


def _host_and_port(authority: str, scheme: str) -> tuple[str, int]:
    if "@" in authority:
        raise FormRefused(
            "url.userinfo", "a URL with a user name or password before the host is refused", "leave out all up to @"
        )
    if "%" in authority:
        raise FormRefused("url.host_escape", "a host has no percent-encoding", "write its plain characters")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or not parts["host"]:
        raise FormRefused("url.form", f"{shown(authority)} is not host or host:port", "write one host after //")
    port = int(parts["port"]) if parts["port"] else DEFAULT_PORTS[scheme]
    if not 0 < port <= _PORT_MAX:
        raise FormRefused("url.port", f"{port} is not a port", f"write 1 to {_PORT_MAX}")
    return normalise_host(parts["host"]), port


def _decoded(text: str) -> str:
    """Decodes what needs no percent-encoding, encodes what always does, and writes escapes in capitals."""

    def one(escape: re.Match[str]) -> str:
        if escape[1] is None:
            raise FormRefused(
                "url.escape", "a % in a URL must be followed by two hexadecimal digits", "write %25 for a %"
            )
        character = chr(int(escape[1], 16))
        if character == "\0":
            raise FormRefused("text.nul", "a URL has no NUL", "leave out %00")
        return character if character in _UNRESERVED else escape[0].upper()

    return _NEVER_LITERAL.sub(lambda found: f"%{ord(found[0]):02X}", _ESCAPE.sub(one, text))


def _check_path(path: str) -> None:
    """Refuses in a path what some servers decode once more.

    `..%2F`, `..;` and the like are resolved by some, and then a path that policy saw below a prefix leads out of it.
    """
    if _TWICE.search(path):
        raise FormRefused("url.encoded_twice", "the path is percent-encoded twice", "encode it once")
    if _CONTROL.search(path):
        raise FormRefused("url.control", "the path has an encoded control character", "leave it out")
    if OVERLONG.search(path):
        raise FormRefused("url.dot_segment", "the path has a . or / in overlong escapes", "write it plainly")
    for segment in path.split("/"):
        hidden = _HIDDEN_SEPARATOR.split(segment)
        if len(hidden) > 1 and any(part in (".", "..") for part in hidden):
            raise FormRefused(
                "url.dot_segment",
                f"the path segment {shown(segment)} hides a step upwards",
                "write the path that is meant",
            )


def _parsed(text: str, host: str) -> ada_url.ada_adapter.ParseAttributes:
    try:
        read = ada_url.parse_url(text, ("hostname", "username", "password", "pathname", "search", "hash"))
    except ValueError:
        raise FormRefused("url.form", "is not a URL by the WHATWG standard", "write its host plainly") from None
    # the strict reader and the standard's must see the same destination
    if read["hostname"] != host or read["username"] or read["password"]:
        raise FormRefused("url.form", "is a URL that readers read differently", "write its host plainly")
    return read
