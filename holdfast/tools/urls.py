"""URLs: a strict reader whose result is the only spelling that policy, the approver and the executor see."""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.tools.hosts import normalise_host

URL_LENGTH_MAX = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}

_PORT_MAX = 65535
_FORM = re.compile(
    r"(?P<scheme>[A-Za-z]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?P<fragment>#.*)?"
)
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")
_HIDDEN_SEPARATOR = re.compile(r"%2F|%5C|;")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_ASCII_PRINTABLE = range(0x21, 0x7F)
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEVER_LITERAL = frozenset('"<>\\^`{|}')


@dataclass(frozen=True, slots=True)
class Url:
    """A normalised URL without user, password and fragment.

    Attributes:
        scheme: `http` or `https`.
        host: Normalised host, IPv6 in brackets.
        port: Port, the scheme's own if none was given.
        target: Path and query as they go into the request line.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host, and port where it is not the scheme's own: what the Host header says."""
        return self.host if self.port == DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def text(self) -> str:
        """The URL's one spelling."""
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_url(text: str) -> Url:
    """Reads an absolute http or https URL.

    Raises:
        ValueError: It is not one, or two readers might disagree about where it leads.
    """
    if len(text) > URL_LENGTH_MAX:
        raise ValueError(f"a URL has at most {URL_LENGTH_MAX} characters")
    if any(character.isspace() or not character.isprintable() or character == "\\" for character in text):
        raise ValueError("a URL has no spaces, control characters or backslashes; percent-encode them")
    form = _FORM.fullmatch(text)
    if form is None or form["scheme"].lower() not in DEFAULT_PORTS:
        raise ValueError("the URL must be absolute and start with http:// or https://")
    scheme, authority = form["scheme"].lower(), form["authority"]
    if "@" in authority:
        raise ValueError("a URL with a user name or password before the host is refused")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or not parts["host"]:
        raise ValueError(f"{authority!r} is not host or host:port")
    port = int(parts["port"]) if parts["port"] else DEFAULT_PORTS[scheme]
    if not 0 < port <= _PORT_MAX:
        raise ValueError(f"{port} is not a port")
    target = _without_dot_segments(_encode(form["path"])) + _encode(form["query"] or "")
    url = Url(scheme, normalise_host(parts["host"]), port, target)
    if len(url.text) > URL_LENGTH_MAX:
        raise ValueError(f"a URL has at most {URL_LENGTH_MAX} characters when percent-encoded")
    return url


def normalise_url(text: str) -> str:
    """Returns the one spelling of a URL.

    Raises:
        ValueError: See `parse_url`.
    """
    return parse_url(text).text


def _encode(text: str) -> str:
    """Percent-encodes what needs it, decodes what does not, and writes escapes in capitals."""

    def one(escape: re.Match[str]) -> str:
        if escape[1] is None:
            raise ValueError("a % in a URL must be followed by two hexadecimal digits")
        character = chr(int(escape[1], 16))
        if character == "\0":
            raise ValueError("a URL has no NUL")
        return character if character in _UNRESERVED else escape[0].upper()

    return "".join(
        character
        if ord(character) in _ASCII_PRINTABLE and character not in _NEVER_LITERAL
        else "".join(f"%{byte:02X}" for byte in character.encode())
        for character in _ESCAPE.sub(one, text)
    )


def _without_dot_segments(path: str) -> str:
    """Resolves `.` and `..`; runs after decoding, so that `%2e%2e` is resolved too.

    Refuses `..%2F`, `..;` and the like: some servers resolve them, and then a path that policy saw below a prefix
    leads out of it.
    """
    kept: list[str] = []
    segments = path.split("/")[1:] or [""]
    for index, segment in enumerate(segments):
        hidden = _HIDDEN_SEPARATOR.split(segment)
        if len(hidden) > 1 and any(part in (".", "..") for part in hidden):
            raise ValueError(f"the path segment {segment!r} hides a step upwards")
        last = index == len(segments) - 1
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
        if last and segment in (".", ".."):
            kept.append("")
    return "/" + "/".join(kept)
