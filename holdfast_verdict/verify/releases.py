"""Releases: whoever let a label pass said so in a record of their own, before it was relied on, and not for a run of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from holdfast_verdict.verify.across import Bundle, at
from holdfast_verdict.verify.findings import Finding
from holdfast_verdict.verify.records import Decided

_CODE: Final = "audit.release"
_KIND: Final = "release"


def check_releases(bundle: Bundle) -> Iterator[Finding]:
    """Checks that each release which an allowed action read among its facts has its record.

    Where the export begins at a time, a release may have been made before it; then nobody can tell, and nothing is said.
    """
    made: dict[str, list[Decided]] = {}
    for one in bundle.decided:
        if one.kind == _KIND and one.verdict == "allow" and one.facts is not None:
            made.setdefault(one.run_id, []).append(one)
    is_whole = bundle.header["scope"]["from_ms"] is None
    for one in bundle.decided:
        for label, by, roles in one.released:
            found = [each for each in made.get(one.run_id, ()) if _says(each, label, by, roles)]
            if not found:
                if is_whole:
                    yield at(one, _CODE, f"it relied on {by}'s release of {label}, and no record has one")
            elif all(each.time_ms > one.time_ms for each in found):
                yield at(one, _CODE, f"it relied on {by}'s release of {label}, which was made after it")
            elif all(_subject(each).get("user_id") in (one.user_id, None) for each in found):
                yield at(one, _CODE, f"it relied on a release of {label} by the one whose run it is")


def _says(release: Decided, label: str, by: str, roles: tuple[str, ...]) -> bool:
    facts, subject = release.facts or {}, _subject(release)
    said = (facts.get("label"), facts.get("run"), subject.get("user"), subject.get("roles"))
    return said == (label, release.run_id, by, list(roles))


def _subject(release: Decided) -> dict[str, Any]:  # Any: JSON
    subject = (release.facts or {}).get("subject")
    return subject if isinstance(subject, dict) else {}
