"""Rehearsing a candidate: each recorded decision made again, on the facts as they were, and as they would have become.

Facts as they were are those of the record. What a record does not hold because its policy did not ask, and that follows from the
other records, is made of these: what a run did before, if all of it is known. Nothing else is put in the place of a fact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from holdfast_verdict.engine.deciding import decide, decide_read
from holdfast_verdict.engine.facts import Approval, Facts, HistoryFacts, LocalTime
from holdfast_verdict.engine.gates import approval_binding
from holdfast_verdict.engine.program import Plan, program_of
from holdfast_verdict.engine.recorded import FactsMalformed
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.policy import Policy
from holdfast_verdict.rehearse.asking import asks_of, hangs_on_release, missing
from holdfast_verdict.rehearse.past import Past
from holdfast_verdict.rehearse.reading import Asked, Pasts, Usage, Watches
from holdfast_verdict.rehearse.recorded import (
    ADMISSION,
    Became,
    Decided,
    Recorded,
    Unreadable,
    begins_child,
    parent_of,
    read,
)
from holdfast_verdict.rehearse.same import NOTHING, Same, compare
from holdfast_verdict.rehearse.tally import Answer, Tally
from holdfast_verdict.sealing import Withheld

Clocks = Callable[[Iterable[str], int], Mapping[str, LocalTime]]
"""Tells what the clocks of zones say at a time; a zone that it leaves out is unknown."""
_ALL_RUNS: Final = ""
"""Stands for all runs together, where a candidate looks at what more than one did."""


class Rehearser:
    """Rehearses the records of some runs, in the order of their time.

    Attributes:
        tally: What was found so far.
    """

    def __init__(
        self,
        candidate: Policy,
        deciders: Mapping[str, Policy],
        *,
        clocks: Clocks | None = None,
        since_ms: int | None = None,
    ) -> None:
        """Begins.

        Args:
            candidate: The policy that is rehearsed.
            deciders: The policies that decided, by hash.
            clocks: What clocks say, for candidates that ask.
            since_ms: From when on every record of the tenant is given; `None` if those of single runs are.
        """
        self._policy = candidate
        self._program = program_of(candidate)
        self._hash = self._program.policy_hash.hex()
        self._deciders = deciders
        self._same: dict[str, Same] = {}
        self._clocks = clocks
        self._asks = asks_of(candidate)
        self._pasts = Pasts(self._program, Past(self._program), Past(self._program), since_ms)
        self._parted: set[str] = set()  # runs whose two pasts differ
        self._untaken: set[str] = set()  # of these, those that would have done what they never did
        self._early: dict[tuple[str, int], bytes] = {}  # steps that would have been done at an earlier try
        self.tally = Tally()

    def take(self, record: Recorded) -> None:
        """Rehearses one record; whatever it holds, this does not raise."""
        if not record.part_a:
            if record.became is not None:
                self._leave_out(record, "deleted")
            return
        try:
            decided = read(record)
        except Unreadable:
            self._leave_out(record, "unreadable")
            return
        if isinstance(decided, str):
            if record.kind == ADMISSION:
                self._begin(record)
            elif decided:
                self._leave_out(record, f"engine {decided}")
        elif record.superseded:
            self.tally.skip("superseded")
        else:
            self._rehearse(decided)

    def _leave_out(self, record: Recorded, why: str) -> None:
        """Counts a record that no candidate can be asked about. What it was allowed to do, nobody can take in (LAW 7)."""
        self.tally.skip(why)
        if record.became is not None:
            self._pasts.lose(record.run_id, record.at_ms)

    def _begin(self, record: Recorded) -> None:
        """A run begins, so all it does is known; of one that has others beside it, not what these have read."""
        if record.verdict == "allow":
            self._pasts.whole.add(record.run_id)
        if begins_child(record):
            self._pasts.kin.update((record.run_id, parent_of(record)))

    def _rehearse(self, decided: Decided) -> None:
        record = decided.record
        try:
            recorded = Facts.from_json(decided.part_a["facts"])
        except FactsMalformed:
            self._leave_out(record, "unreadable")
            return
        self.tally.decisions += 1
        if decided.refused:
            return  # no policy was asked, and none would be
        if self._asks.keeps:
            self._pasts.done.to(record.at_ms)
            self._pasts.would.to(record.at_ms)
        own = decided.policy_hash == self._hash
        # its own records hold all that it asked, and what it lacked then it lacked
        was = self._ask(decided, recorded if own else self._facts(decided, recorded), own=own)
        would = was
        parted = _is_in(record.run_id, self._parted)
        early = bool(self._early) and self._early.get((record.run_id, decided.step)) == decided.action.digest
        if early:
            would = Answer("allow", "policy.permitted", "", ())
        elif parted and self._asks.keeps:
            would = self._ask(decided, self._facts(decided, recorded, become=True), own=False)
        self.tally.add(decided, was, would, unsure=parted and _is_in(record.run_id, self._untaken))
        self._go_on(decided, recorded, would, early=early)

    def _ask(self, decided: Decided, facts: Facts, *, own: bool) -> Answer:
        def evaluate(facts: Facts) -> Verdict:
            if decided.guarded is not None:
                return decide_read(self._program, decided.guarded, facts)
            return decide(self._policy, decided.action, facts)

        try:
            verdict = evaluate(facts)
            lacking = () if own else missing(verdict, self._asks)
            if not own and not lacking and self._asks.releases and "released" not in decided.part_a["facts"]:
                lacking = ("released",) if hangs_on_release(evaluate, facts, verdict, self._asks) else ()
        except Withheld as gone:
            return Answer("deny", "facts.missing", "", (f"args{gone.pointer}, which was erased",))
        return Answer(verdict.verdict, verdict.code, verdict.rule_id, lacking)

    def _facts(self, decided: Decided, recorded: Facts, *, become: bool = False) -> Facts:
        """Returns a record's facts, as the candidate may read them."""
        record, asks = decided.record, self._asks
        same = self._same_as(decided.policy_hash)
        now_ms = record.at_ms if recorded.now_ms is None else recorded.now_ms
        zones = recorded.zones
        if self._clocks is not None and self._policy.zones:
            zones = {**self._clocks([zone for zone in self._policy.zones if zone not in zones], now_ms), **zones}
        estimate = recorded.estimate
        if estimate is None or estimate.nano_usd is None or estimate.tokens is None:
            estimate = decided.estimate
        labels = None
        if asks.labels:
            told = frozenset(recorded.labels) if same.labels and recorded.labels is not None else None
            labels = self._pasts.labels(record.run_id, told, become=become)
        facts = Facts(
            {**dict(record.principal), **decided.names, **recorded.principal},
            now_ms,
            zones,
            labels,
            recorded.released,
            origins=recorded.origins if same.labels or not asks.labelled else None,
            approvals=self._approvals(decided, recorded, same) if recorded.approvals else (),
            estimate=estimate,
        )
        if not asks.keeps:
            return facts
        asked = Asked(self._pasts, decided, same, become)
        history = recorded.history if isinstance(recorded.history, HistoryFacts) else None
        return replace(facts, history=HistoryFacts(Watches(asked, facts, history)), usage=Usage(asked, recorded.usage))

    def _same_as(self, policy_hash: str) -> Same:
        same = self._same.get(policy_hash)
        if same is None:
            decider = self._policy if policy_hash == self._hash else self._deciders.get(policy_hash)
            same = self._same[policy_hash] = NOTHING if decider is None else compare(self._policy, decider)
        return same

    def _approvals(self, decided: Decided, recorded: Facts, same: Same) -> tuple[Approval, ...]:
        """Returns the approvals that the candidate would have asked for in the same words, bound to its own gates.

        Whoever consented at a gate that the candidate has as well would have been asked the same; at another gate nobody was asked.
        """
        taken = []
        digest = decided.action.digest
        for approval in recorded.approvals:
            rule = same.gates.get(approval.rule_id)
            if rule is None or rule.gate is None:
                continue
            theirs = approval_binding(
                bytes.fromhex(decided.policy_hash), digest, approval.rule_id, rule.gate, approval.expires_at_ms
            )
            own = approval_binding(self._program.policy_hash, digest, rule.id, rule.gate, approval.expires_at_ms)
            # an approval of other arguments stays one
            binding = own.hex() if approval.binding == theirs.hex() else approval.binding
            taken.append(replace(approval, rule_id=rule.id, binding=binding))
        return tuple(taken)

    def _go_on(self, decided: Decided, recorded: Facts, would: Answer, *, early: bool) -> None:
        """Keeps what was done, and what would have been. What cannot be told stays as it was."""
        record = decided.record
        run_id, key = record.run_id, (record.run_id, decided.step)
        was_done = record.verdict == "allow"
        if not was_done and (would.verdict != "allow" or would.missing or early or decided.was[0] == "allow"):
            return  # neither; what the ledger refused, it would have refused as well
        keeps = self._asks.keeps
        plan, facts = (self._plan(decided), self._facts(decided, recorded)) if keeps else (None, recorded)
        became = record.became or Became()
        if was_done and keeps:
            self._pasts.done.add(decided, plan, facts, became)
        if was_done and (would.verdict == "allow" or would.missing):
            if keeps:
                self._pasts.would.add(decided, plan, facts, became, begun=early)
            if early:
                del self._early[key]  # what would have come of it is known after all
                self.tally.untaken -= 1
            return
        self._parted.update((run_id, _ALL_RUNS) if self._asks.wide else (run_id,))
        if not was_done:
            self._untaken.update((run_id, _ALL_RUNS) if self._asks.wide else (run_id,))
            self._early[key] = decided.action.digest
            self.tally.untaken += 1
            if keeps:
                self._pasts.would.add(decided, plan, facts, None)

    def _plan(self, decided: Decided) -> Plan | None:
        if decided.role not in self._policy.roles:
            return None
        action = decided.action
        external = self._program.is_external(action.name, declared=action.external)
        return self._program.plan(decided.role, action.name, external=external)


def _is_in(run_id: str, runs: set[str]) -> bool:
    return bool(runs) and (run_id in runs or _ALL_RUNS in runs)
