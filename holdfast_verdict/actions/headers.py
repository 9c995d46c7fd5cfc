"""HTTP headers: names in lower case, each once, none that says where a request goes or how long it is; values of one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeVar

from holdfast_verdict.actions.refused import FormRefused, shown

HEADERS: Final = "headers"
HEADER_LENGTH_MAX: Final = 8_000

_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE: Final = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")
_OF_THE_CONNECTION: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect",
     "proxy-authorization", "proxy-connection"}
)  # fmt: skip

Value = TypeVar("Value")


def normalise_header_value(text: str) -> str:
    """Accepts the value of a header: one line of printable ASCII, without spaces around it.

    Raises:
        FormRefused: It is none, such as one by which another header is smuggled in.
    """
    if len(text) > HEADER_LENGTH_MAX or _VALUE.fullmatch(text) is None:
        raise FormRefused(
            "header.value",
            f"{shown(text)} is no value of a header",
            f"write at most {HEADER_LENGTH_MAX} characters of ASCII in one line",
        )
    return text


def normalise_headers(headers: Mapping[str, Value]) -> dict[str, Value]:
    """Brings the names of headers to lower case and checks their values.

    Raises:
        FormRefused: A name is none, stands twice, or is that of the connection's own header; or a value is none.
    """
    found: dict[str, Value] = {}
    for name, value in headers.items():
        lowered = name.lower()
        if _NAME.fullmatch(lowered) is None:
            raise FormRefused("header.name", f"{shown(name)} is no name of a header", "write a name such as accept")
        if lowered in _OF_THE_CONNECTION:
            raise FormRefused(
                "header.name", f"the header {shown(name)} is set by who sends the request", "leave it out"
            )
        if lowered in found:
            raise FormRefused("header.name", f"the header {shown(name)} stands twice", "write each header once")
        if isinstance(value, str):
            normalise_header_value(value)
        found[lowered] = value
    return found
