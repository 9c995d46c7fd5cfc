"""Results that were kept: a run that was ended goes on, and what cannot have changed is not tried again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def tests_of(by: str, digests: Mapping[str, str]) -> str:
    """Returns the digest of the tests that a result hangs on: those of the file that noticed, or all."""
    return digests.get(by.partition("::")[0], digests[""])


def load(path: Path, source: str, tests: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Reads what still holds: by change, what came of it and the test that noticed it.

    A result is one of exactly these sources. A change that a test noticed is noticed as long as the file with this test is the same;
    one that no test noticed is tried again when any test has changed.

    Args:
        path: The file: one result a line, written as they come. It is only ever added to.
        source: Digest of the sources.
        tests: Digests of the files of tests; `""` is all of them.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    results = {}
    for line in lines:
        if not line.endswith("\n"):
            continue  # whoever wrote it was ended in the middle
        told = json.loads(line)
        if told["source"] == source and told["tests"] == tests_of(told["by"], tests):
            results[told["change"]] = told["result"], told["by"]
    return results
