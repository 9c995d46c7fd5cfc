"""Who holds the log's key can sign anything, and is still found: records that contradict each other, or evaluate to something else."""

from __future__ import annotations

import pytest

from holdfast_verdict.verify.lines import Line
from tests.verify.checking import Check, said, wrong
from tests.verify.forgeries import FORGERIES, Forgery, forged
from tests.verify.sealing import TestLog


def test_sealed_anew_without_a_change_it_holds(content: list[Line], log: TestLog, check: Check) -> None:
    report = check(log.bundle(content), keys=[log.key])
    assert report.holds, said(report)
    assert report.trust.source == "given"


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.__name__.strip("_"))
def test_a_forgery_that_is_signed_is_found_and_named(
    content: list[Line], log: TestLog, check: Check, forgery: Forgery
) -> None:
    changed, code, subject = forged(content, forgery)
    report = check(log.bundle(changed), keys=[log.key])
    assert (code, subject) in wrong(report), said(report)
