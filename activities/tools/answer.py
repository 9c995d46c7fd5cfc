"""An HTTP answer as a model is shown it."""

from __future__ import annotations

import httpx

from activities.tools.wire import Answer
from holdfast.tools.urls import Url, parse_url
from holdfast_verdict.canonical import JsonValue

REDIRECTS = range(300, 400)

_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/problem+json")
_TEXT_SUFFIXES = ("+json", "+xml")
_TYPE_LENGTH_MAX = 200


def shown(url: Url, reply: Answer) -> dict[str, JsonValue]:
    """Returns status, type and body; what is no text is named by its length only, and what was cut off is said."""
    content_type = reply.headers.get("content-type", "")[:_TYPE_LENGTH_MAX]
    parts: dict[str, JsonValue] = {"status": reply.status, "content_type": content_type}
    if reply.status in REDIRECTS:
        parts["location"] = _location(url, reply.headers.get("location", ""))
        parts["note"] = "redirects are not followed; ask for the location in a request of its own if it is needed"
    if _is_text(content_type, reply):
        parts["body"] = reply.body.decode("utf-8", "replace")
    else:
        parts["body"] = f"({len(reply.body)} bytes that are not text)"
    parts["truncated"] = reply.truncated
    return parts


def _is_text(content_type: str, reply: Answer) -> bool:
    if reply.headers.get("content-encoding", "identity") != "identity" or b"\0" in reply.body:
        return False
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind.startswith(_TEXT_TYPES) or kind.endswith(_TEXT_SUFFIXES)


def _location(url: Url, location: str) -> str:
    try:
        return parse_url(str(httpx.URL(url.text).join(location))).text
    except (ValueError, httpx.InvalidURL):
        return f"(not a usable address: {location[:200]!r})"
