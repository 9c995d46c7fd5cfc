"""Paths: POSIX, without steps upwards, and without what another system or a decoder would read as one."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import unquote

from holdfast_verdict.actions.refused import FormRefused, shown
from holdfast_verdict.actions.texts import check_visible, normal_text

PATH_LENGTH_MAX: Final = 4096

_SCHEME_OR_DRIVE: Final = re.compile(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*:/")
# what a decoder turns into a dot, a separator, a NUL or another escape, also by overlong UTF-8 or %u
_ESCAPES: Final = re.compile(r"%(?:[01][0-9a-f]|25|2e|2f|3a|5c|7e|7f|c0|c1|e0%80|f0%80|u[0-9a-f]{4})", re.IGNORECASE)
_SLASHES: Final = frozenset("\u2044\u2215\u2216\u29f5\u29f8\u29f9\ufe68\uff0f\uff3c")
_AS_SLASH: Final = str.maketrans(dict.fromkeys({"\\", *_SLASHES}, "/"))
# a dot and a slash in two, three and four bytes, which lenient decoders take
OVERLONG: Final = re.compile(r"%(?:c0%(?:ae|af)|e0%80%(?:ae|af)|f0%80%80%(?:ae|af))", re.IGNORECASE)
_DECODINGS: Final = 4


def normalise_path(text: str) -> str:
    """Brings a path to its one spelling: no `.` segments, no doubled or trailing slashes; a relative one stays relative.

    Raises:
        FormRefused: It is no path, or one that some reader takes to another place.
    """
    if not text or len(text) > PATH_LENGTH_MAX:
        raise FormRefused("path.form", f"a path has 1 to {PATH_LENGTH_MAX} characters", "write a shorter one")
    text = normal_text(text)
    check_visible(text)
    if "\\" in text:
        raise FormRefused("path.backslash", "a path has no backslash, which some readers take for /", "write /")
    if _SCHEME_OR_DRIVE.match(text):
        raise FormRefused(
            "path.form", f"{shown(text)} has a scheme or drive", "write a path such as /srv/data/file.txt"
        )
    if text.startswith("//"):
        raise FormRefused(
            "path.form", "a path starts with one / at most, as // may name another machine", "write one /"
        )
    if text.startswith("~"):
        raise FormRefused("path.home", "~ stands for a folder that is not known here", "write the whole path")
    if _ESCAPES.search(text):
        raise FormRefused("path.escape", f"{shown(text)} is percent-encoded", "write the plain characters")
    kept = [segment for segment in text.split("/") if segment not in ("", ".")]
    for segment in kept:
        _check_segment(segment)
    absolute = "/" if text.startswith("/") else ""
    return absolute + "/".join(kept) or "."


def may_step_upwards(text: str) -> bool:
    """Says whether some reader of a text that is no path to us sees a `..` between slashes in it, plainly or behind escapes."""
    if text.isascii() and ".." not in text and "%" not in text:
        return False
    for _ in range(_DECODINGS):
        plain = unicodedata.normalize("NFKC", text).translate(_AS_SLASH)
        if any(segment.partition(";")[0].strip() == ".." for segment in plain.split("/")):
            return True
        decoded = unquote(OVERLONG.sub(_of_overlong, text))
        if decoded == text:
            return False
        text = decoded
    return True  # nobody encodes so often who means well


def _of_overlong(found: re.Match[str]) -> str:
    return "." if found[0].lower().endswith("ae") else "/"


def _check_segment(segment: str) -> None:
    if segment.partition(";")[0] == "..":
        raise FormRefused("path.parent", "a path has no .., which links lead elsewhere", "write the path that is meant")
    if segment[-1] in " ." or segment[0] == " ":
        raise FormRefused(
            "path.trailing",
            f"{shown(segment)} has ends that some systems drop",
            "leave out spaces and dots at its ends",
        )
    if segment.isascii():
        return
    plain = unicodedata.normalize("NFKC", segment)
    if not _SLASHES.isdisjoint(segment) or "/" in plain or "\\" in plain or not plain.strip(" ."):
        raise FormRefused(
            "path.lookalike", f"{shown(segment)} has characters that look like / or ..", "write the plain characters"
        )
