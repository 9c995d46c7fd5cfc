"""Verifying a large bundle in one pass and little memory, on all cores: that all of it holds is told by sums over its lines.

What does not hold is not named here. Then, and whenever it cannot be told in this way, the answer is `Unsure`, and each line is
compared with those that it is about.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import pairwise
from typing import Any, Final

from holdfast_verdict.verify import lines
from holdfast_verdict.verify.across import Bundle
from holdfast_verdict.verify.approvals import check_approvals
from holdfast_verdict.verify.balances import named_of
from holdfast_verdict.verify.chunks import Context
from holdfast_verdict.verify.engine import EnginePolicy
from holdfast_verdict.verify.findings import DoesNotHold, Unsure
from holdfast_verdict.verify.legs import Balances, Cap, Legs
from holdfast_verdict.verify.lines import ALONE, ORDER, Line
from holdfast_verdict.verify.reading import Block, Source
from holdfast_verdict.verify.records import Decided, Withheld
from holdfast_verdict.verify.releases import check_releases
from holdfast_verdict.verify.seal import read_seal
from holdfast_verdict.verify.summing import Known, LineSummer, Part, Span
from holdfast_verdict.verify.sums import MODULUS, PAIRS, SIDES, new_key, weigher
from holdfast_verdict.verify.trust import Trust, check_consistency
from holdfast_verdict.verify.workers import Workers

_HASH: Final = 32
_SECTIONS: Final = ("approval", "journal", "seal")
"""Where the file is cut: before the journal all holds, before these all records."""


class Summed:
    """One bundle's sums.

    Args:
        header: Its header.
        policies: Its policies.
        trust: Whom it is believed.

    Attributes:
        lines: How many lines it has.
        withheld: Records that could not be evaluated again.
        totals: How many decisions there are, by what they were on, verdict and code.
        rows: Lines of approvals, of the seal and behind it, by type.
    """

    def __init__(
        self,
        header: Mapping[str, Any],  # Any: as in Report
        policies: Mapping[str, EnginePolicy],
        trust: Trust,
    ) -> None:
        self._header = header
        self._policies = policies
        self._trust = trust
        self._sums = dict.fromkeys(SIDES, 0)
        self._ids, self._leaves, self._entries = Span(), Span(), Span()
        self._digests, self._listed = hashlib.sha256(), hashlib.sha256()
        self._count, self._last = 0, -1
        self._sealed = 0
        self._kept: list[Decided] = []
        self._returned: set[str] = set()
        self.lines = 0
        self.withheld: list[Withheld] = []
        self.totals: Counter[tuple[str, str, str]] = Counter()
        self.rows: dict[str, list[tuple[int, Line]]] = {name: [] for name in ORDER}

    def run(self, source: Source, context: Context, workers: Workers, say: Callable[[int], None]) -> None:
        """Looks at all of it.

        Args:
            source: The file.
            context: What is known for checking lines one by one.
            workers: What does it.
            say: Gets how many bytes were done.

        Raises:
            Unsure: Something does not hold, or it cannot be told here whether it does.
        """
        checkpoint = self._trust.checkpoint
        try:
            starts = [0, *map(source.section, _SECTIONS), source.size]
            caps = dict(_caps(source, starts[2]))
        except (DoesNotHold, KeyError, TypeError, ValueError):
            raise Unsure from None
        if checkpoint is None:
            raise Unsure
        known = Known(context, self._header["read_at_ms"], {name: _cap(row) for name, row in caps.items()}, new_key())
        weigh = weigher(known.key)
        balances = Balances(caps, Legs(known.caps, weigh))
        blocks = [list(source.blocks(*each)) for each in pairwise(starts)]
        with workers.started(LineSummer, known) as pool:
            # what the journal counts has to be known before it is seen what the records read
            journal, holds, rest = (pool.submit(blocks[section], ()) for section in (2, 1, 3))
            uncounted = frozenset(hold_id for part in _done(journal, say) for hold_id in part.uncounted)
            records = pool.submit(blocks[0], uncounted)
            for parts in (records, holds, journal, rest):
                for part in _done(parts, say if parts is not journal else _unsaid):
                    self._add(part, balances)
        self._close(balances, weigh)

    def _add(self, part: Part, balances: Balances) -> None:
        if part.first >= 0:
            if part.first < self._last or (part.first == self._last and ORDER[part.first] in ALONE):
                raise Unsure
            self._last = part.last
        for side, total in part.sums.items():
            self._sums[side] += total
        self._sums["stood"] += balances.go_on(part.moves)
        self._ids, self._leaves = self._ids.joined(part.ids), self._leaves.joined(part.leaves)
        self._entries = self._entries.joined(part.entries)
        self._digests.update(part.digests)
        self._sealed += len(part.digests) // _HASH
        for first, digests in part.listed:
            if first != self._count + 1:
                raise Unsure
            self._listed.update(digests)
            self._count += len(digests) // _HASH
        self.totals += part.totals
        self.withheld += part.withheld
        self._kept += part.kept
        self._returned.update(part.returned)
        for number, row in part.rows:
            self.rows[str(row["type"])].append((number + self.lines, row))
        self.lines += part.lines

    def _close(self, balances: Balances, weigh: Callable[[str], int]) -> None:
        """Sees that both sides of each sum are the same, and checks what was kept.

        Raises:
            Unsure: Something does not hold, or it cannot be told here whether it does.
        """
        ends, seals = self.rows["end"], self.rows["seal"]
        if self._last != ORDER.index("end") or [row["lines"] for _, row in ends] != [self.lines] or len(seals) != 1:
            raise Unsure
        try:
            hash_, content, count = read_seal(self._header, seals[0][1])
        except (DoesNotHold, KeyError, TypeError, ValueError):
            raise Unsure from None
        if not (self._digests.hexdigest() == self._listed.hexdigest() == content):
            raise Unsure
        if not self._sealed == self._count == count:
            raise Unsure
        self._ids.apart_from(seals[0][1]["decision_id"])
        self._sums["recorded"] += weigh(f"{seals[0][1]['decision_id']} {hash_.hex()}")
        if any((self._sums[one] - self._sums[other]) % MODULUS for one, other in PAIRS):
            raise Unsure
        balances.close()
        self._check_kept()

    def _check_kept(self) -> None:
        users: dict[str, list[Decided]] = {}
        for one in self._kept:
            for approval in one.approvals:
                users.setdefault(approval.approval_id, []).append(one)
        if any(one.hold_id not in self._returned for each in users.values() for one in each[:-1]):
            raise Unsure
        by_id = _Kept((one.decision_id, one) for one in self._kept)
        rows, none = self.rows["approval"], frozenset[str]()
        kept = Bundle(self._header, self._policies, self._kept, by_id, _Kept(), rows, [], [], [], none)
        found = [*check_approvals(kept), *check_releases(kept)]
        if self._trust.checkpoint is not None:
            found += check_consistency(self._trust.checkpoint, self.rows["consistency"])
        if found:
            raise Unsure


class _Kept(dict[str, Decided]):
    """Records that were kept. Whether there is another one in the file is not known here."""

    def get(self, name: str, default: object = None) -> Decided:
        """Returns one.

        Raises:
            Unsure: It was not kept.
        """
        if name not in self:
            raise Unsure
        return self[name]


def _caps(source: Source, end: int) -> Iterator[tuple[str, Line]]:
    """Reads the lines of the caps, which end where the journal begins."""
    place = source.section("cap")
    for raw in source.lines_from(place):
        if place >= end:
            return
        place += len(raw) + 1
        line = lines.parse(raw)
        yield str(line["cap_id"]), line


def _cap(row: Mapping[str, Any]) -> Cap:  # Any: of the form that `lines.MEMBERS` says
    return Cap(row["opening"] is not None, named_of(row))


def _unsaid(_: int) -> None:
    """What was said before is not said again."""


def _done(parts: Sequence[tuple[Block, Future[Part]]], say: Callable[[int], None]) -> Iterator[Part]:
    for (start, end), part in parts:
        yield part.result()
        say(end - start)
