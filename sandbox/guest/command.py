"""`holdfast-guest`: what a shell's script asks its run by. Standard library only; it lies beside `holdfast_guest` where it runs.

Exit statuses: 0, answered; 1, refused; 2, called wrongly; 3, nobody answers any more. A refusal is one line of standard error that
begins with its code and a colon.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from types import ModuleType
from typing import Final, NoReturn

REFUSED: Final = 1
LOST: Final = 3
_VARIABLE: Final = "HOLDFAST_GUEST"
_PAIRS: Final = "an argument: KEY=TEXT, or KEY:=JSON"
_JSON: Final = "all arguments as one object; - reads it from standard input"


def _connect(guest: ModuleType) -> None:
    """Takes over the connection that the job's process left to its programs; without it, each request is refused."""
    number, _, token = os.environ.get(_VARIABLE, "").partition(":")
    if token and number.isdecimal():
        guest._connect(int(number), token)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _parse(parser: argparse.ArgumentParser, text: str) -> object:
    try:
        return json.loads(sys.stdin.read() if text == "-" else text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        parser.error(f"this is no JSON: {text[:80]!r} ({error})")


def _arguments(parser: argparse.ArgumentParser, pairs: list[str], whole: str | None) -> dict[str, object]:
    """Returns the arguments of a call: one object, or what the pairs say."""
    if whole is not None:
        if pairs:
            parser.error("say the arguments one by one or by --json, not both")
        found = _parse(parser, whole)
        if not isinstance(found, dict):
            parser.error('--json takes an object, such as \'{"order_id": "A-1"}\'')
        return found
    said: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        name = key.removesuffix(":")
        if not equals or not name or name in said:
            parser.error(f"an argument is KEY=TEXT or KEY:=JSON, each once, and not {pair[:80]!r}")
        said[name] = _parse(parser, value) if key.endswith(":") else value
    return said


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "holdfast-guest", description="Asks the run that this code belongs to.", allow_abbrev=False
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="tool|emit|cite")
    for kind, name, words in (
        ("tool", "NAME", "call a tool of the run, and print what it answers"),
        ("cite", "SOURCE", "name a source of what the code says"),
    ):
        one = kinds.add_parser(kind, help=words, description=words, allow_abbrev=False)
        one.add_argument("name", metavar=name)
        one.add_argument("pairs", nargs="*", metavar="KEY=TEXT", help=_PAIRS)
        one.add_argument("--json", dest="whole", metavar="JSON", help=_JSON)
    words = "say something on a channel of the run"
    emit = kinds.add_parser("emit", help=words, description=words, allow_abbrev=False)
    emit.add_argument("name", metavar="CHANNEL")
    emit.add_argument("text", nargs="?", metavar="TEXT")
    emit.add_argument("--json", dest="whole", metavar="JSON", help="anything that JSON can say, in place of a text")
    return parser


def _ask(guest: ModuleType, parser: argparse.ArgumentParser, asked: argparse.Namespace) -> object:
    if asked.kind == "emit":
        if (asked.text is None) == (asked.whole is None):
            parser.error("emit takes a TEXT or --json")
        data = asked.text if asked.whole is None else _parse(parser, asked.whole)
        return guest._ask("emit", asked.name, {"data": data})
    return guest._ask(asked.kind, asked.name, _arguments(parser, asked.pairs, asked.whole))


def main() -> int:
    """Asks once; returns an exit status."""
    import holdfast_guest as guest  # type: ignore[import-not-found]  # it lies beside this one in a job's root, and in no package

    parser = _parser()
    asked = parser.parse_args()
    _connect(guest)
    try:
        answer = _ask(guest, parser, asked)
    except guest.Refused as refused:
        print(f"{refused.code}: {' '.join(refused.message.split())}", file=sys.stderr)
        return LOST if isinstance(refused, guest.Lost) else REFUSED
    if asked.kind == "tool":
        print(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
