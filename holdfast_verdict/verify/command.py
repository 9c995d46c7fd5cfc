"""`holdfast-verify FILE`: checks a bundle and says what happened. It reads files and calls nobody.

Exit code 0 = all of it holds, 1 = something does not, 2 = it could not be looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import orjson

from holdfast_verdict.verify.findings import DoesNotHold
from holdfast_verdict.verify.page import page
from holdfast_verdict.verify.report import Report
from holdfast_verdict.verify.story import TOLD_MAX, chapters, summary, totals
from holdfast_verdict.verify.trust import parse_keys
from holdfast_verdict.verify.verifying import Request, verify

HOLDS: Final = 0
DOES_NOT_HOLD: Final = 1
NOT_LOOKED_AT: Final = 2

_PROGRESS_BYTES: Final = 20_000_000
_CONTROLS: Final = dict.fromkeys((*range(32), *range(127, 160), *range(8234, 8239), *range(8294, 8298)), "�")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command takes.

    Attributes:
        file: The bundle.
        key: Keys that are trusted, as text or as files of them.
        since: A checkpoint that was seen before.
        html: Where to write the page.
        json: Whether to print JSON.
        quiet: Whether to leave the story out.
        workers: How many processes; 0 = one per core.
    """

    file: Path
    key: Sequence[str] = ()
    since: Path | None = None
    html: Path | None = None
    json: bool = False
    quiet: bool = False
    workers: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="holdfast-verify",
        description="Check a bundle of decisions without its server.",
        epilog="Exit codes: 0 all of it holds, 1 something does not, 2 it could not be looked at.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the bundle")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY",
        help="a public key that you trust, name+id+key, or a file with one a line; else the bundle's own are taken, and it says so",
    )
    parser.add_argument(
        "--since", type=Path, metavar="FILE", help="a checkpoint that you saw before: the log has to go on from it"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write what happened as a page to read, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="say whether it holds, and not what happened")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes to use; default: one per core")
    return run(Options(**vars(parser.parse_args(arguments))), sys.stdout, sys.stderr)


def run(given: Options, out: TextIO, errors: TextIO) -> int:
    """Verifies as the command line says."""
    try:
        keys = parse_keys(key for text in given.key for key in _keys(text))
        since = given.since.read_text(encoding="utf-8") if given.since else ""
        told = not given.quiet or given.html is not None
        request = Request(given.file, keys, since, given.workers, tells=told)
        report = verify(request, _progress(given.file, errors))
        if given.html:
            given.html.write_text(page(report), encoding="utf-8")
    except DoesNotHold as wrong:
        errors.write(f"error: {wrong.wrong}\n")
        return NOT_LOOKED_AT
    except (OSError, UnicodeDecodeError) as error:
        errors.write(f"error: {error}\n")
        return NOT_LOOKED_AT
    if given.json:
        out.write(orjson.dumps(_json(report, told=not given.quiet), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        out.writelines(f"{line.translate(_CONTROLS)}\n" for line in _text(report, told=not given.quiet))
    return HOLDS if report.holds else DOES_NOT_HOLD


def _keys(text: str) -> Iterator[str]:
    path = Path(text)
    if "+" not in text or path.is_file():
        yield from filter(None, (line.strip() for line in path.read_text(encoding="utf-8").splitlines()))
    else:
        yield text


def _progress(path: Path, errors: TextIO) -> Callable[[int, int], None] | None:
    if not errors.isatty() or path.stat().st_size < _PROGRESS_BYTES:
        return None

    def say(done: int, total: int) -> None:
        errors.write(f"\rverified {100 * done // total} %" + ("\n" if done == total else ""))
        errors.flush()

    return say


def _json(report: Report, *, told: bool) -> dict[str, object]:
    story: dict[str, object] = {}
    if told and report.records <= TOLD_MAX:
        story["story"] = [
            {"title": chapter.title, "told": [one._asdict() for one in chapter.told]} for chapter in chapters(report)
        ]
    return {**report.to_json(), "summary": summary(report), **story}


def _text(report: Report, *, told: bool) -> Iterator[str]:
    yield from summary(report)
    for finding in report.findings:
        yield ""
        at = f" (line {finding.line})" if finding.line else ""
        yield f"WRONG  {finding.subject}{at}: {finding.wrong}."
        yield f"       {finding.code}: {finding.means}."
    if not told:
        return
    if report.records > TOLD_MAX:
        yield ""
        yield from (f"{count:>9}  {what}" for what, count in totals(report))
        return
    for chapter in chapters(report):
        yield ""
        yield f"{chapter.title}:"
        for one in chapter.told:
            yield f"  {one.time}  {one.sentence}" + ("" if one.holds else "  THIS RECORD DOES NOT HOLD.")


if __name__ == "__main__":
    sys.exit(main())
