"""What a policy can never do: rules that cannot fire, permits that forbids swallow, gates that never ask, limits that hold nothing.

Each finding is either a proof by the solver, given with the rules that it rests on, or a request that the engine confirms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from holdfast_verdict.check.encode import watch_key
from holdfast_verdict.check.finding import Finding, Kind, Place, Report, Standing
from holdfast_verdict.check.formulas import Formula, conj, neg
from holdfast_verdict.check.limits import limit_findings
from holdfast_verdict.check.questions import Questions, Subject, roles_of, with_kinds
from holdfast_verdict.check.request import Request
from holdfast_verdict.check.ruling import Node, Ruling, walk
from holdfast_verdict.check.search import Found, Impossible, Outcome, Question, Undecided
from holdfast_verdict.engine.unknown import Truth
from holdfast_verdict.policy import Policy, Rule, Watch

_ALWAYS_THERE = frozenset({"untrusted"})
"""Labels that outputs carry without a policy's or a catalogue's word: those of MCP servers."""


def check_policy(policy: Policy, catalogue: object = None) -> Report:
    """Looks for what a policy can never do.

    Args:
        policy: The policy.
        catalogue: The actions there are; without, those that the policy names, with any arguments.
    """
    return _Check(policy, Questions((policy,), with_kinds(catalogue))).report()


@dataclass(eq=False)
class _Check:
    policy: Policy
    questions: Questions
    findings: list[Finding] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    _dead: set[str] = field(default_factory=set)
    _passes: dict[tuple[str, str], Outcome] = field(default_factory=dict)

    def report(self) -> Report:
        for rule in self.policy.rules:
            self._check_fires(rule)
        for rule in self.policy.rules:
            if rule.id in self._dead:
                continue
            if rule.effect == "permit":
                self._check_permit(rule)
            elif rule.effect == "gate":
                self._check_gate(rule)
            elif rule.effect == "forbid":
                self._check_prerequisites(rule)
        self._check_named_actions()
        self.findings += limit_findings(self.questions, self.policy, self._dead)
        self._check_labels()
        self._check_roles()
        order = {rule.id: number for number, rule in enumerate(self.policy.rules)}
        ordered = sorted(
            self.findings, key=lambda each: order.get(each.place.rule_id, -1) if each.place else len(order)
        )
        return Report(tuple(ordered), tuple(dict.fromkeys(self.undecided)), self.questions.asked)

    def place(self, rule_id: str) -> Place:
        return Place(rule_id, self.policy.lines.get(rule_id, 0))

    def say(
        self,
        kind: Kind,
        message: str,
        rule: Rule | None = None,
        *,
        standing: Standing = "proved",
        role: str = "",
        action: str = "",
        others: Iterable[str] = (),
        request: Request | None = None,
        remedy: str = "",
    ) -> None:
        self.findings.append(
            Finding(
                kind,
                message,
                standing,
                None if rule is None else self.place(rule.id),
                role,
                action,
                tuple(self.place(other) for other in others),
                None if request is None else self.questions.example(request),
                remedy,
            )
        )

    def _ruling(self, subject: Subject) -> Ruling:
        return subject.rulings[0]

    def _find(
        self,
        subject: Subject,
        role: str,
        goals: dict[str, Formula],
        asked: frozenset[Question],
        confirm: Callable[[Request], bool],
    ) -> Outcome:
        return self.questions.find(subject, {"role": self._ruling(subject).as_role(role), **goals}, asked, confirm)

    def _truth(self, rule: Rule, request: Request) -> Truth:
        return request.answer(self.policy, self.questions.canonicaliser, rule.id)

    def _check_fires(self, rule: Rule) -> None:
        """Can the rule fire at all, and is its condition ever true?"""
        pairs = list(self._distinct_pairs(rule))
        if not pairs:
            self._dead.add(rule.id)
            named = ", ".join(rule.actions)
            self.say(
                "rule-never-fires",
                f"rule {rule.id} never fires: there is no action {named} that a role of it could do",
                rule,
                remedy="name an action of the catalogue, or remove the rule",
            )
            return
        doubtful: Request | None = None
        open_: list[Undecided] = []
        for role, action in pairs:
            subject = self.questions.subject(action)
            ruling = self._ruling(subject)
            answer, asked = ruling.answer(rule), ruling.questions([rule])
            outcome = self._find(subject, role, {"true": answer.true}, asked, lambda q: self._truth(rule, q) is True)
            if isinstance(outcome, Found):
                return
            if isinstance(outcome, Undecided):
                open_.append(outcome)
            if rule.effect != "permit" and doubtful is None:
                outcome = self._find(
                    subject, role, {"unknown": answer.unknown}, asked, lambda q: self._truth(rule, q) is None
                )
                doubtful = outcome.request if isinstance(outcome, Found) else None
                open_ += [outcome] if isinstance(outcome, Undecided) else []
        self._say_never(rule, pairs, doubtful, open_)

    def _say_never(
        self, rule: Rule, pairs: list[tuple[str, str]], doubtful: Request | None, open_: list[Undecided]
    ) -> None:
        if open_:
            self._leave_open(f"whether rule {rule.id} ever fires", open_, "rule-never-fires", rule)
        elif doubtful is not None:
            self.say(
                "rule-fires-only-in-doubt",
                f"the condition of rule {rule.id} is never true: it fires only where nobody can tell",
                rule,
                role=doubtful.role,
                action=doubtful.action,
                request=doubtful,
                remedy="look for conditions that contradict each other",
            )
        else:
            self._dead.add(rule.id)
            self.say(
                "rule-never-fires",
                f"rule {rule.id} never fires: no {_either(action for _, action in pairs)} can be what it asks for",
                rule,
                remedy="look for conditions that contradict each other or the arguments' schema",
            )

    def _leave_open(self, what: str, open_: list[Undecided], kind: Kind, rule: Rule) -> None:
        request = next((each.request for each in open_ if each.request is not None), None)
        if request is None:
            self.undecided.append(f"{what}: {open_[0].why}")
            return
        message = f"{what} is not clear: the engine does not confirm this example"
        self.say(kind, message, rule, standing="unconfirmed", role=request.role, action=request.action, request=request)

    def _distinct_pairs(self, rule: Rule) -> Iterable[tuple[str, str]]:
        """Roles and actions for a rule's own condition: one role stands for all, unless the condition asks for the role."""
        asks_role = any(node == ("principal", "role") for node in walk(rule.when))
        for action in self.questions.spoken_of(self.policy, rule.actions):
            roles = roles_of(self.policy, rule)
            yield from ((role, action) for role in (roles if asks_role else roles[:1]))

    def _check_permit(self, permit: Rule) -> None:
        """Is there anything that the permit permits and no forbid forbids?"""
        swallowed: dict[str, None] = {}
        open_: list[Undecided] = []
        example: Request | None = None
        for role, action in self.questions.pairs(self.policy, permit):
            subject = self.questions.subject(action)
            outcome = self._passes_by(subject, role, permit)
            if isinstance(outcome, Found):
                return
            if isinstance(outcome, Undecided):
                open_.append(outcome)
            else:
                swallowed.update(dict.fromkeys(sorted(outcome.because & {rule.id for rule in self.policy.rules})))
                example = example or self._denied_by_forbid(subject, role, permit)
        if open_:
            self._leave_open(f"whether permit {permit.id} permits anything", open_, "permit-shadowed", permit)
            return
        self._dead.add(permit.id)
        by = [rule_id for rule_id in swallowed if rule_id != permit.id]
        self.say(
            "permit-shadowed",
            f"permit {permit.id} permits nothing: {' and '.join(by) or 'other rules'} stand against all of it",
            permit,
            standing="proved",
            others=by,
            role=example.role if example else "",
            action=example.action if example else "",
            request=example,
            remedy="narrow the forbid, or remove the permit",
        )

    def _passes_by(self, subject: Subject, role: str, permit: Rule) -> Outcome:
        """Looks for a request that one permit permits and nothing but a gate stands against."""
        ruling = self._ruling(subject)
        plan = ruling.plan(role)
        goals: dict[str, Formula] = {permit.id: ruling.answer(permit).true}
        for each in plan.forbids:
            goals[each.rule.id] = neg(ruling.fires(each.rule))
        for each in plan.limits:
            goals[each.rule.id] = neg(conj(ruling.fires(each.rule), ruling.over(each.rule)))
        asked = ruling.questions([permit, *(each.rule for each in (*plan.forbids, *plan.limits))])
        return self._find(
            subject,
            role,
            goals,
            asked,
            lambda q: self._truth(permit, q) is True and self.questions.verdict(self.policy, q).verdict != "deny",
        )

    def _denied_by_forbid(self, subject: Subject, role: str, permit: Rule) -> Request | None:
        ruling = self._ruling(subject)
        asked = ruling.questions(ruling.rules(role))
        outcome = self._find(
            subject,
            role,
            {"permitted": ruling.answer(permit).true},
            asked,
            lambda q: self.questions.verdict(self.policy, q).verdict == "deny",
        )
        return outcome.request if isinstance(outcome, Found) else None

    def passes(self, role: str, action: str) -> Outcome:
        """Looks for a request of a role and action that passes, at most through gates."""
        found = self._passes.get((role, action))
        if found is None:
            subject = self.questions.subject(action)
            ruling = self._ruling(subject)
            found = self._passes[role, action] = self._find(
                subject,
                role,
                {"passed": ruling.outcome(role).passed},
                ruling.questions(ruling.rules(role)),
                lambda q: self.questions.verdict(self.policy, q).verdict != "deny",
            )
        return found

    def _check_named_actions(self) -> None:
        """An action that a role is given by its name, and that is denied all the same whatever its arguments."""
        for action in self.questions.actions():
            for role in self.policy.roles:
                ruling = self._ruling(self.questions.subject(action))
                named = [each.rule for each in ruling.plan(role).permits if action in each.rule.actions]
                if not named or all(rule.id in self._dead for rule in named):
                    continue
                outcome = self.passes(role, action)
                if isinstance(outcome, Undecided):
                    self._leave_open(
                        f"whether role {role} may ever {action}", [outcome], "action-always-denied", named[0]
                    )
                elif isinstance(outcome, Impossible):
                    request = self._denied_by_forbid(self.questions.subject(action), role, named[0])
                    example = None if request is None else self.questions.verdict(self.policy, request).rule_id
                    self.say(
                        "action-always-denied",
                        f"{action} is always denied to role {role}, although {named[0].id} names it",
                        named[0],
                        role=role,
                        action=action,
                        others=[example] if example else [],
                        request=request,
                        remedy="remove the permit, or narrow what forbids it for this role",
                    )

    def _check_gate(self, gate: Rule) -> None:
        """Does the gate ever stand before something that is permitted?"""
        open_: list[Undecided] = []
        example: Request | None = None
        for role, action in self.questions.pairs(self.policy, gate):
            subject = self.questions.subject(action)
            ruling = self._ruling(subject)
            asked = ruling.questions(ruling.rules(role))
            goals = {"asks": ruling.fires(gate), "passed": ruling.outcome(role).passed}
            outcome = self._find(subject, role, goals, asked, lambda q: self._asks(gate, q))
            if isinstance(outcome, Found):
                return
            open_ += [outcome] if isinstance(outcome, Undecided) else []
            if example is None:
                fires = self._find(
                    subject, role, {"asks": ruling.fires(gate)}, asked, lambda q: self._truth(gate, q) is not False
                )
                example = fires.request if isinstance(fires, Found) else None
        if open_:
            self._leave_open(f"whether gate {gate.id} ever asks", open_, "gate-never-asks", gate)
            return
        self.say(
            "gate-never-asks",
            f"gate {gate.id} never asks anybody: whatever it stands before is denied",
            gate,
            role=example.role if example else "",
            action=example.action if example else "",
            request=example,
            remedy="permit what the gate is to stand before: a gate only narrows, it permits nothing",
        )

    def _asks(self, gate: Rule, request: Request) -> bool:
        verdict = self.questions.verdict(self.policy, request)
        return verdict.verdict == "needs_approval" and any(ask.rule_id == gate.id for ask in verdict.gates)

    def _check_prerequisites(self, rule: Rule) -> None:
        """An invariant that asks for a step which the role that needs it can never take."""
        watches = {watch.id: watch for watch in self.policy.watches}
        asked_for = [watches[str(node[1])] for node in walk(rule.when) if node[0] == "happened"]
        for watch in dict.fromkeys(asked_for):
            for role, action in self.questions.pairs(self.policy, rule):
                if self._needs(rule, watch, role, action) and self._is_never(watch, role):
                    self._say_prerequisite(rule, watch, role, action)
                    break

    def _needs(self, rule: Rule, watch: Watch, role: str, action: str) -> bool:
        """Says whether the rule stands against something that the role is permitted, unless the watched step was taken."""
        subject = self.questions.subject(action)
        ruling = self._ruling(subject)
        if not ruling.plan(role).permits:
            return False
        never = subject.search.world.watch(watch_key(watch)) == 0
        goals = {"permitted": ruling.outcome(role).permitted, "never": never}
        asked = ruling.questions(ruling.rules(role))
        fires = self._find(
            subject, role, {**goals, "fires": ruling.fires(rule)}, asked, lambda q: self._truth(rule, q) is not False
        )
        if not isinstance(fires, Found):
            return False
        apart = self._find(
            subject, role, {**goals, "quiet": neg(ruling.fires(rule))}, asked, lambda q: self._truth(rule, q) is False
        )
        return isinstance(apart, Impossible)

    def _is_never(self, watch: Watch, role: str) -> bool:
        """Says whether no role whose history counts can ever take the watched step."""
        roles = [role] if watch.scope in ("run", "role") else list(self.policy.roles)
        actions = self.questions.spoken_of(self.policy, watch.actions)
        return all(isinstance(self.passes(each, action), Impossible) for each in roles for action in actions)

    def _say_prerequisite(self, rule: Rule, watch: Watch, role: str, action: str) -> None:
        subject = self.questions.subject(action)
        permit = self._ruling(subject).plan(role).permits[0].rule
        request = self._denied_by_forbid(subject, role, permit)
        step = _either(watch.actions)
        self.say(
            "prerequisite-never-permitted",
            f"rule {rule.id} asks role {role} for {step} before {action}, and {step} is never permitted"
            f"{' to it' if watch.scope in ('run', 'role') else ''}: {action} is always denied",
            rule,
            role=role,
            action=action,
            request=request,
            remedy=f"permit {step} to role {role}, or take the rule from it",
        )

    def _check_labels(self) -> None:
        """Labels that rules ask for, and that no output carries."""
        catalogue = self.questions.catalogue
        if catalogue is None:
            return
        given = {label for each in self.policy.labels for label in each.labels} | set(_ALWAYS_THERE)
        given |= {label for about in catalogue.types.values() for labels in about.yields.values() for label in labels}
        for rule in self.policy.rules:
            for label in dict.fromkeys(label for node in walk(rule.when) for label in _labels_in(node)):
                if label not in given:
                    self.say(
                        "label-never-given",
                        f"rule {rule.id} asks for the label {label}, which no output carries",
                        rule,
                        remedy=f"write `label ACTION yields {label}`, or mend the label's name",
                    )

    def _check_roles(self) -> None:
        for role, parents in self.policy.roles.items():
            if not any(rule.effect == "permit" and rule.role in (role, *parents) for rule in self.policy.rules):
                self.say(
                    "role-permits-nothing",
                    f"role {role} permits nothing, so everything is denied to it",
                    role=role,
                    remedy="give it a permit, or let it extend a role that has some",
                )


def _labels_in(node: Node) -> list[str]:
    if node[0] in ("run_has", "released"):
        return [str(node[1])]
    if node[0] == "from" and isinstance(node[2], str) and node[2] not in ("user", "model", "tool"):
        return [node[2]]
    return []


def _either(names: Iterable[str]) -> str:
    listed = list(dict.fromkeys(names))
    return " or ".join([*listed[:3], *(["…"] if len(listed) > 3 else [])])  # noqa: PLR2004 (three names are enough to read)
