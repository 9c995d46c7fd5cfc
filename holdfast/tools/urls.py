"""URLs that tools request: over HTTP, without what no server sees, and not longer than every server takes."""

from __future__ import annotations

from typing import Final

from holdfast_verdict.actions.urls import DEFAULT_PORTS, Url, read_url

__all__ = ["DEFAULT_PORTS", "URL_LENGTH_MAX", "Url", "normalise_url", "parse_url"]

URL_LENGTH_MAX: Final = 2048

_SCHEMES: Final = ("http", "https")


def parse_url(text: str) -> Url:
    """Reads an absolute http or https URL.

    Raises:
        ValueError: It is not one, or two readers might disagree about where it leads.
    """
    if len(text) > URL_LENGTH_MAX:
        raise ValueError(f"a URL has at most {URL_LENGTH_MAX} characters")
    url = read_url(text).without_fragment()
    if url.scheme not in _SCHEMES:
        raise ValueError("the URL must be absolute and start with http:// or https://")
    if len(url.text) > URL_LENGTH_MAX:
        raise ValueError(f"a URL has at most {URL_LENGTH_MAX} characters when percent-encoded")
    return url


def normalise_url(text: str) -> str:
    """Returns the one spelling of a URL.

    Raises:
        ValueError: See `parse_url`.
    """
    return parse_url(text).text
