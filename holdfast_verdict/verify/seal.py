"""The seal: the record of the export in the log, over a digest of every line before it; and the list that names each line."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from holdfast_verdict.record import record_hash
from holdfast_verdict.verify.findings import DoesNotHold, Finding
from holdfast_verdict.verify.lines import hashes_of
from holdfast_verdict.verify.records import read_part

KIND: Final = "audit.export"
CODE: Final = "audit.exported"
_HASH: Final = 32
_NAMED_MAX: Final = 20


def content_hash(digests: bytes | bytearray) -> str:
    """Returns what a seal holds: the SHA-256, hex, over the SHA-256 of each line."""
    return hashlib.sha256(digests).hexdigest()


def read_seal(header: Mapping[str, Any], line: Mapping[str, Any]) -> tuple[bytes, str, int]:
    """Reads the export's record.

    Returns:
        Its record hash, the digest over the lines before it, and how many there were.

    Raises:
        DoesNotHold: It is no record of this export.
    """
    a_raw, a = read_part("A", line["part_a"])
    b_raw, b = read_part("B", line["part_b"])
    facts = a.get("facts")
    if a.get("kind") != KIND or type(facts) is not dict or b.get("decision_id") != line["decision_id"]:
        raise DoesNotHold("audit.record", "it is no record of an export")
    for name in ("tenant_id", "scope", "read_at_ms"):
        if facts.get(name) != header[name]:
            raise DoesNotHold("audit.record", f"it seals another export: its {name} is {facts.get(name)}")
    return record_hash(a_raw, b_raw), str(facts.get("content_sha256")), int(facts.get("lines", -1))


def check_lines(
    digests: bytes, sealed: tuple[str, int], lists: Sequence[Mapping[str, Any]], subject_at: Callable[[int], str]
) -> Iterator[Finding]:
    """Sees that the lines before the seal are those that were sealed, and names those that are not.

    Args:
        digests: SHA-256 of each of these lines as it stands in the file.
        sealed: What the seal says: the digest over them, and how many.
        lists: Lines of type `lines`.
        subject_at: Names a line of the file.
    """
    told, first = bytearray(), 1
    for line in lists:
        if line["first"] != first:
            yield Finding("audit.line", "the list of lines", f"it goes on at {line['first']} and not at {first}")
        try:
            told += b"".join(hashes_of(line["sha256"]))
        except DoesNotHold as wrong:
            yield Finding(wrong.code, "the list of lines", wrong.wrong)
        first = len(told) // _HASH + 1
    content, count = sealed
    if content_hash(told) != content or len(told) != count * _HASH:
        yield Finding("audit.line", "the list of lines", "it is not the one that was sealed")
        if content_hash(digests) != content:
            yield Finding(
                "audit.line", "the file", "its lines are not those that were sealed; which of them cannot be told"
            )
    elif digests != told:
        yield from _name(_split(digests), _split(bytes(told)), subject_at)


def _split(digests: bytes) -> list[bytes]:
    return [digests[place : place + _HASH] for place in range(0, len(digests), _HASH)]


def _name(there: list[bytes], sealed: list[bytes], subject_at: Callable[[int], str]) -> Iterator[Finding]:
    """Names lines that were changed or added, are missing, are there twice, or stand elsewhere."""
    left = Counter(sealed)
    found = []
    for number, digest in enumerate(there, 1):
        if left[digest]:
            left[digest] -= 1
        else:
            twice = "it is there twice" if digest in left else "it was changed or added after the export"
            found.append(Finding("audit.line", subject_at(number), twice, number))
    missing = [number for number, digest in enumerate(sealed, 1) if left[digest]]
    found += [
        Finding("audit.line", f"line {number} of the export", "it is not in the file as it was") for number in missing
    ]
    if not found:
        place = next(place for place, pair in enumerate(zip(there, sealed, strict=True), 1) if pair[0] != pair[1])
        found = [Finding("audit.line", subject_at(place), "it does not stand where it stood in the export", place)]
    yield from found[:_NAMED_MAX]
    if len(found) > _NAMED_MAX:
        yield Finding("audit.line", "the file", f"{len(found) - _NAMED_MAX} more lines are not as they were")
