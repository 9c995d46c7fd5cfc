"""What goes into the head of a message, though nobody has given it a format: a line break there begins another header."""

from __future__ import annotations

from typing import Any, Final

import pytest

from holdfast_verdict import Catalogue
from holdfast_verdict.actions import ActionRefused

FREE: Final = {"type": "object", "additionalProperties": {"type": "string"}}
INJECTED: Final = "x\r\nBcc: eve@evil.com"


def catalogue(**properties: Any) -> Catalogue:  # JSON Schemas
    return Catalogue.of({"send": {"parameters": {"type": "object", "properties": properties}}})


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("subject", {"type": "string"}),
        ("Subject", {}),
        ("method", {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    ],
)
def test_text_of_a_head_is_one_line(name: str, schema: Any) -> None:  # JSON Schema
    send = catalogue(**{name: schema})
    with pytest.raises(ActionRefused) as refused:
        send.action("send", {name: INJECTED})
    assert refused.value.code == "text.line"
    assert send.action("send", {name: "Grüße,\tnaïve 😀"}).arguments() == {name: "Grüße,\tnaïve 😀"}


@pytest.mark.parametrize("name", ["headers", "http_headers", "extra-headers"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"X-A": "a\r\nHost: evil.com"}, "header.value"),
        ({"X A": "a"}, "header.name"),
        ({"Host": "evil.com"}, "header.name"),
        ({"Transfer-Encoding": "chunked"}, "header.name"),
        ({"X-A": "a", "x-a": "b"}, "header.name"),
    ],
)
@pytest.mark.parametrize("schema", [FREE, {"anyOf": [FREE, {"type": "null"}]}])
def test_headers_are_headers(name: str, headers: dict[str, str], code: str, schema: Any) -> None:  # JSON Schema
    fetch = catalogue(**{name: schema})
    with pytest.raises(ActionRefused) as refused:
        fetch.action("send", {name: headers})
    assert refused.value.code == code
    assert fetch.action("send", {name: {"Accept": "text/html"}}).arguments() == {name: {"accept": "text/html"}}


def test_what_says_more_of_itself_is_not_guessed() -> None:
    """A format, choices or named fields of one's own."""
    send = catalogue(
        subject={"type": "string", "format": "text"},
        method={"enum": ["a\nb"]},
        headers={"type": "object", "properties": {"Host": {"type": "string"}}},
    )
    given = {"subject": INJECTED, "method": "a\nb", "headers": {"Host": "a"}}
    assert send.action("send", given).arguments() == given
    rows = catalogue(headers={"type": "array", "items": {"type": "string"}}, body={"type": "string"})
    plain = {"headers": ["Name\nof it", "Host"], "body": INJECTED}
    assert rows.action("send", plain).arguments() == plain
