"""Syntax tree to compiled policy: names, types and meaning, with all problems at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast, get_args

from holdfast_verdict.canonical import MAX_INTEGER
from holdfast_verdict.expressions import Expr
from holdfast_verdict.language import syntax as s
from holdfast_verdict.language.conditions import Conditions, both
from holdfast_verdict.language.declarations import NOTHING, Declared, Problems, declare, meant
from holdfast_verdict.language.gates import gate_of
from holdfast_verdict.language.history import Watches, span_of
from holdfast_verdict.language.parser import parse_text
from holdfast_verdict.language.shapes import Catalogue
from holdfast_verdict.language.source import read_text
from holdfast_verdict.language.values import WRONG, Matchers, Values
from holdfast_verdict.policy import (
    Calendar,
    Effect,
    Gate,
    LabelRule,
    Limit,
    Per,
    Policy,
    Rule,
    is_code,
    is_rule_name,
)

MAX_MESSAGE: Final = 1_000
_WINDOWS: Final = ("run", "hour", "day", "month", "in total")
_PER: Final = get_args(Per)
_EVERYBODY: Final = "*"


def compile_policy(text: str, catalogue: Catalogue | None = None, *, file: str = "") -> Policy:
    """Compiles a policy.

    Args:
        text: Its source.
        catalogue: The actions there are; with it, unknown actions, arguments, labels and types that cannot be are problems. Without it,
            names are taken as they are.
        file: Name of the source, for messages.

    Returns:
        The compiled policy. The same text and catalogue give the same policy, everywhere.

    Raises:
        PolicyRefused: It is not well-formed or not well-typed; `problems` holds everything that was found.
    """
    source = read_text(text, file)
    tree = parse_text(source)
    problems = Problems(source)
    compiler = _Compiler(declare(tree.items, catalogue, problems))
    for item in tree.items:
        compiler.item(item)
    problems.raise_any()
    policy = compiler.policy()
    # LAW 7: what was compiled is held against the form that engines know, whatever the code above believes
    Policy.from_json(policy.to_json())
    return policy


@dataclass(slots=True)
class _Compiler:
    """Gathers rules, watches and labels while it goes over the statements."""

    declared: Declared
    rules: list[Rule] = field(default_factory=list)
    labels: list[LabelRule] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)
    watches: Watches = field(init=False)
    _counted: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.watches = Watches(self.declared)

    @property
    def _problems(self) -> Problems:
        return self.declared.problems

    def policy(self) -> Policy:
        """Returns what was gathered."""
        watches = tuple(self.watches.found)
        zones: set[str] = set()
        for where in [rule.when for rule in self.rules] + [label.where for label in self.labels]:
            _gather_zones(where, zones)
        for watch in watches:
            _gather_zones(watch.where, zones)
        for value in (rule.limit.of for rule in self.rules if rule.limit and rule.limit.of):
            _gather_zones(value, zones)
        return Policy(
            self.declared.roles,
            tuple(self.rules),
            tuple(self.labels),
            watches,
            tuple(sorted(zones)),
            self.declared.external,
            self.lines,
        )

    def item(self, item: s.Item) -> None:
        """Compiles one item of the source."""
        if isinstance(item, s.Role):
            for statement in item.statements:
                self._statement(statement, item.name.text)
        elif isinstance(item, s.SetStatement):
            self._check_set(item)
        elif isinstance(item, s.ActionStatement):
            self._action(item)
        else:
            self._statement(item, _EVERYBODY)

    def _check_set(self, item: s.SetStatement) -> None:
        Matchers(Values(self.declared, (), {})).of(item.value, (item.name.text,))

    def _action(self, item: s.ActionStatement) -> None:
        for fact in item.facts:
            if isinstance(fact, s.YieldsOf):
                self._label((item.name,), fact.field, s.Guard(), fact.labels)

    def _statement(self, node: s.Statement, role: str) -> None:
        match node:
            case s.Permit():
                self._permit(node, role)
            case s.Forbid():
                self._forbid(node, role, node.ending.name, invariant=False)
            case s.Limit():
                self._limit(node, role)
            case s.GateStatement():
                when = self._guard(node.actions, node.guard, grants=False)
                gate = gate_of(node, self.declared)
                self._add("gate", role, node.name, node, when, "policy.gate", gate=gate)
            case s.LabelStatement():
                if role != _EVERYBODY:
                    self._problems.add("Labels are the same for all roles.", node.at, "Move it out of the role.")
                self._label(node.actions, node.field, node.guard, node.labels)
            case s.Invariant():
                self._invariant(node.body, role, node.name)
            case s.AtMost() | s.Total():
                self._invariant(node, role, node.ending.name)

    def _conditions(self, actions: tuple[s.Name, ...], *, grants: bool) -> Conditions:
        patterns = tuple(self.declared.pattern(name) for name in actions)
        if len(set(patterns)) < len(patterns):
            self._problems.add("An action stands here twice.", (actions[0].at[0], actions[-1].at[1]))
        return Conditions(Values(self.declared, tuple(dict.fromkeys(patterns)), {}), grants)

    def _guard(self, actions: tuple[s.Name, ...], guard: s.Guard, *, grants: bool) -> Expr:
        return self._conditions(actions, grants=grants).guard(guard)

    # --- statements

    def _permit(self, node: s.Permit, role: str) -> None:
        if role == _EVERYBODY:
            self._problems.add("A permit is given to a role.", node.at, "Move it into `role NAME { … }`.")
        conditions = self._conditions(node.actions, grants=True)
        targets = self._targets(node, conditions)
        self._add(
            "permit", role, node.ending.name, node, both(targets, conditions.guard(node.guard)), "policy.permitted"
        )

    def _targets(self, node: s.Permit, conditions: Conditions) -> Expr:
        parts: list[Expr] = []
        for word, members in node.targets:
            if word.text == "hosts" and not parts:
                call = s.Call(
                    "host", tuple(each for each in members.members if isinstance(each, s.Text | s.Path)), members.at
                )
                if len(call.arguments) < len(members.members):
                    self._problems.add("Hosts are texts, or sets of them.", members.at)
                url = s.Path(("args", "url"), word.at)
                parts.append(conditions.of(s.Membership("in", url, call, members.at)))
            elif word.text == "methods" and parts:
                names = tuple(
                    s.Text(each.parts[0], each.at) if isinstance(each, s.Path) and len(each.parts) == 1 else each
                    for each in members.members
                )
                method = s.Path(("args", "method"), word.at)
                parts.append(conditions.of(s.Membership("in", method, s.Members(names, members.at), members.at)))
            else:
                expected = ("`methods`",) if parts else ("`hosts`",)
                self._problems.add(f"`{word.text}` cannot stand here.", word.at, expected=expected)
        return both(*parts)

    def _forbid(self, node: s.Forbid, role: str, name: s.Name | None, *, invariant: bool) -> None:
        when = self._guard(node.actions, node.guard, grants=False)
        code = _code_of(when, "policy.invariant" if invariant else "policy.forbidden")
        if node.after is not None:
            watch = self.watches.before(node.after, node.actions, precondition=False)
            when, code = both(when, ("happened", watch)), "policy.invariant"
        self._add("forbid", role, name, node, when, self._own_code(node.ending.code) or code)

    def _own_code(self, code: s.Code | None) -> str:
        """Returns the reason code that a forbid is given by its author, or nothing."""
        if code is None:
            return ""
        if code.word.text != "code":
            remedy = meant(code.word.text, ("code",))
            self._problems.add(f"`{code.word.text}` cannot stand here.", code.word.at, remedy, ("`code`", "`because`"))
        elif not is_code(code.text.value):
            remedy = "A reason code is lower-case letters, digits, `.`, `_` and `-`, such as `refund.too_much`."
            self._problems.add(f'"{code.text.value}" is no reason code.', code.text.at, remedy)
        return code.text.value

    def _invariant(self, node: s.Requires | s.Forbid | s.AtMost | s.Total, role: str, name: s.Name | None) -> None:
        if isinstance(node, s.Forbid):
            self._forbid(node, role, name, invariant=True)
            return
        when = self._guard(node.actions, node.guard, grants=False)
        if isinstance(node, s.Requires):
            watch = self.watches.before(node.past, node.actions, precondition=True)
            when = both(when, ("not", ("happened", watch)))
        elif isinstance(node, s.AtMost):
            count = self._whole(node.count, "count")
            when = both(when, ("not", ("count<=", self.watches.count(node), count)))
        else:
            when = both(when, ("not", self.watches.total(node)))
        self._add("forbid", role, name, node, when, "policy.invariant")

    def _whole(self, number: s.Value, what: str) -> int:
        if not isinstance(number, s.Number) or not number.text.isdigit() or int(number.text) > MAX_INTEGER:
            self._problems.add(f"The {what} is a whole number, of 0 at least.", number.at)
            return 0
        return int(number.text)

    def _limit(self, node: s.Limit, role: str) -> None:
        conditions = self._conditions(node.actions or (s.Name("*", node.measure.at),), grants=False)
        when = conditions.guard(node.guard)
        window, per = self._window(node)
        if node.measure.text == "count":
            limit = Limit("count", None, self._whole(node.ceiling, "count"), "calls", window, per)
        elif node.measure.text == "tokens":
            limit = Limit("tokens", None, self._whole(node.ceiling, "number of tokens"), "tokens", window, per)
        elif node.measure.text == "spend":
            ceiling = conditions.values.value(node.ceiling)
            if ceiling is not WRONG and ceiling.value[0] != "money":
                self._problems.add("Spend is money.", node.ceiling.at, "Write `usd(…)`.")
            limit = Limit("spend", None, _ceiling(ceiling.value), "nano_usd", window, per)
        elif node.of is not None:
            of, ceiling_value, money = self.watches.sum_of(conditions.values, node.of, node.ceiling)
            limit = Limit("sum", of, ceiling_value, "nano_usd" if money else "units", window, per)
        else:
            remedy = meant(node.measure.text, ("spend", "tokens"))
            self._problems.add("Only `spend` and `tokens` are limited without an action.", node.measure.at, remedy)
            return
        if node.actions or node.measure.text in ("spend", "tokens"):
            self._add("limit", role, node.ending.name, node, when, "policy.limit", limit=limit)

    def _window(self, node: s.Limit) -> tuple[Calendar | int, Per]:
        """Returns window and scope of a limit: `per run`, or one of each."""
        windows: list[Calendar | int] = []
        scopes: list[Per] = []
        for per in node.per:
            if per.word == "total":
                windows.append("total")
            elif per.word == "run":
                windows.append("run")
                scopes.append("run")
            elif per.word in _WINDOWS:
                windows.append(cast("Calendar", per.word))
            elif per.word in _PER:
                scopes.append(cast("Per", per.word))
            elif per.word[0].isdigit():
                windows.append(span_of(s.Duration(per.word, per.at), self._problems))
            else:
                known = (*_WINDOWS[:-1], *_PER)
                self._problems.add(
                    f"`per {per.word}` says nothing.", per.at, meant(per.word, known), sorted(set(known))
                )
                return "run", "run"
        at = (node.per[0].at[0], node.per[-1].at[1])
        if len(windows) > 1 or len(scopes) > 1:
            self._problems.add("A limit has one window and one scope.", at, "Write two limits.")
        elif not scopes:
            self._problems.add(
                "It is not said whose total this is.", at, "Add `per tenant`, `per user`, …; or `per run` alone."
            )
        elif not windows:
            remedy = f"Write `per day per {scopes[0]}`, `per 24h per {scopes[0]}`, or `in total per {scopes[0]}`."
            self._problems.add("It is not said over what time the total is.", at, remedy)
        return (windows[0] if windows else "run"), (scopes[0] if scopes else "run")

    def _label(
        self, actions: tuple[s.Name, ...], where: s.Name | None, guard: s.Guard, labels: tuple[s.Name, ...]
    ) -> None:
        when = self._guard(actions, guard, grants=False)
        self.watches.check_alone(when, actions[0].at)
        patterns = tuple(dict.fromkeys(self.declared.pattern(name) for name in actions))
        named = () if [label.text for label in labels] == [NOTHING] else labels
        names = tuple(self.declared.label(label, yielded=True) for label in named)
        if len(set(names)) < len(names):
            self._problems.add("A label stands here twice.", (labels[0].at[0], labels[-1].at[1]))
        self.labels.append(LabelRule(patterns, "" if where is None else where.text, tuple(dict.fromkeys(names)), when))

    # --- rules

    def _add(
        self,
        effect: Effect,
        role: str,
        name: s.Name | None,
        node: s.Permit | s.Forbid | s.Limit | s.GateStatement | s.Requires | s.AtMost | s.Total,
        when: Expr,
        code: str,
        *,
        gate: Gate | None = None,
        limit: Limit | None = None,
    ) -> None:
        patterns = tuple(dict.fromkeys(self.declared.pattern(each) for each in node.actions)) or ("*",)
        rule_id = self._id(role, patterns[0], name)
        because = node.ending.because
        message = "" if because is None else because.value
        if because is not None and (len(message) > MAX_MESSAGE or not message.isprintable()):
            self._problems.add(f"A reason is one line of at most {MAX_MESSAGE} characters.", because.at)
        self.lines[rule_id] = self._problems.line_of(node.at)
        self.rules.append(Rule(rule_id, effect, role, patterns, when, code, message, gate, limit))

    def _id(self, role: str, action: str, name: s.Name | None) -> str:
        if name is not None:
            if name.quoted and not is_rule_name(name.text):
                remedy = "Letters, digits, `.`, `/`, `_` and `-`, up to 200 of them."
                self._problems.add(f'"{name.text}" is no name of a rule.', name.at, remedy)
            if name.text in self.lines:
                self._problems.add(f"There is a rule `{name.text}` already.", name.at, "Give this one another name.")
            return name.text
        base = f"{role}/{action}"
        self._counted[base] = self._counted.get(base, 0) + 1
        return f"{base}-{self._counted[base]}"


def _ceiling(value: tuple[object, ...]) -> int:
    return value[1] if len(value) > 1 and isinstance(value[1], int) else 0


_CODES: Final[Mapping[str, str]] = {
    "run_has": "policy.label",
    "from": "policy.provenance",
    "only_from": "policy.provenance",
}


def _code_of(when: Expr, otherwise: str) -> str:
    """Returns the reason code of a forbid: what it asks about says what it is for."""
    found = set(_operators(when))
    return next((code for operator, code in _CODES.items() if operator in found), otherwise)


def _operators(node: tuple[object, ...]) -> list[str]:
    operators = [str(node[0])] if node and isinstance(node[0], str) else []
    return operators + [each for part in node if isinstance(part, tuple) for each in _operators(part)]


def _gather_zones(node: tuple[object, ...], zones: set[str]) -> None:
    if node and node[0] == "local":
        zones.add(str(node[1]))
    for part in node:
        if isinstance(part, tuple):
            _gather_zones(part, zones)
