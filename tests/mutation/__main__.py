"""`python -m tests.mutation [--part P] [--only TEXT] [--sample N] [--kept FILE] [--json FILE]`: changes the core, and runs tests.

mutmut makes the changes, place by place, in a copy in a temporary folder; `tests.mutation.playing` tries them.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Final

import typer

from .copied import Copy, NothingChanged
from .kept import load
from .parts import PARTS, source_digest, test_digests

SEED: Final = 6
_UNNOTICED: Final = ("survived", "untested")


def main(
    *,
    part: Annotated[str, typer.Option(help=f"what is changed: {', '.join(PARTS)}")] = "engine",
    only: Annotated[str, typer.Option(help="only changes whose name has this text, such as `deciding.`")] = "",
    sample: Annotated[int, typer.Option(help="how many changes are tried; 0 = all")] = 0,
    seed: Annotated[int, typer.Option(help="which, if not all")] = SEED,
    minutes: Annotated[int, typer.Option(help="after so long no further change is tried; 0 = until all are")] = 0,
    processes: Annotated[int, typer.Option(help="how many changes are tried at once")] = 2,
    kept_file: Annotated[Path | None, typer.Option("--kept", help="keep results here, and go on from them")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result to this file")] = None,
) -> None:
    """Says how many changes of the core no test notices, and shows them."""
    if part not in PARTS:
        raise typer.BadParameter(f"there is no part {part}; there are {', '.join(PARTS)}")
    os.nice(10)
    with tempfile.TemporaryDirectory(prefix="holdfast-mutation-") as name:
        print("making the changes, and running the tests once without any", flush=True)
        try:
            copy = Copy.of(PARTS[part], Path(name))
        except NothingChanged as error:
            typer.echo(f"the tests do not pass without a change:\n{error}", err=True)
            raise typer.Exit(1) from None
        every = [change for change in copy.changes if only in change]
        tried = every if not sample else sorted(random.Random(seed).sample(every, min(sample, len(every))))
        file = Path(name) / "results.jsonl" if kept_file is None else kept_file.resolve()
        digests = source_digest(), test_digests()
        kept = load(file, *digests)
        left = [change for change in tried if change not in kept]
        print(f"trying {len(left)} of {len(copy.changes)} changes, {len(tried) - len(left)} are kept", flush=True)
        if left:
            copy.play(PARTS[part], left, file, processes=processes, minutes=minutes, digests=digests)
            kept = load(file, *digests)
        outcomes = {change: kept[change] for change in tried if change in kept}
        shown = {change: copy.difference(change) for change, (result, _) in outcomes.items() if result in _UNNOTICED}
    for change, lines in shown.items():
        print(f"\n{change} {outcomes[change][0]}")
        print("\n".join(lines))
    found = Counter(result for result, _ in outcomes.values())
    counts = {
        "changes": len(copy.changes),
        "tried": len(outcomes),
        **{result: found[result] for result in ("killed", "timed_out", "survived", "untested")},
    }
    print("\n" + ", ".join(f"{key} {count}" for key, count in counts.items()))
    if json_file is not None:
        document = {**counts, "part": part, "seed": seed, "survivors": shown, "results": outcomes}
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
