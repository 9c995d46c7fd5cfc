"""Generated actions, rules and facts."""

from __future__ import annotations

from hypothesis import strategies as st

from holdfast_verdict.canonical import MAX_INTEGER, JsonValue
from holdfast_verdict.decide import ApprovalFact, Condition, Facts, Rule

integers = st.integers(-MAX_INTEGER, MAX_INTEGER)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
keys = st.text(st.characters(max_codepoint=127), max_size=8)
scalars = st.none() | st.booleans() | integers | texts
values: st.SearchStrategy[JsonValue] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
"""What canonical JSON accepts."""

anything = st.recursive(
    scalars | st.floats() | st.binary(max_size=4) | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4)
        | st.tuples(inner)
    ),
    max_leaves=12,
)
"""What a broken caller might pass."""

NAMES = ("amount", "to", "tenant", "env")
TOOLS = ("mail.send", "payments.refund")
names = st.sampled_from(NAMES)
arguments = st.dictionaries(
    names,
    st.integers(-3, 3) | st.booleans() | st.sampled_from(["a", "b", "acme", "x@acme.com", "y@evil.com"]) | st.none()
    | st.lists(st.sampled_from(["x@acme.com", "y@evil.com", "a", 1]), max_size=3),
    max_size=4,
)  # fmt: skip
actions = st.one_of(
    st.fixed_dictionaries({"kind": st.just("tool.call"), "tool": st.sampled_from(TOOLS), "args": arguments}),
    st.fixed_dictionaries({"kind": st.just("llm.call"), "args": arguments}),
)
OPERATORS = ("==", "!=", "<=", ">", "in", "not_in", "all_in_domains", "any_outside_domains")
conditions = st.builds(
    Condition,
    path=st.one_of(
        names.map("args.{}".format), st.sampled_from(["principal.tenant", "args", "nowhere.x", "args.to.0", ""])
    ),
    operator=st.sampled_from(OPERATORS),
    value=st.integers(-3, 3) | st.booleans() | st.sampled_from(["a", "acme", ["acme.com"], ["a", 1], [], None]),
    other_path=st.sampled_from(["", "", "", "principal.tenant", "args.env"]),
)
rules = st.builds(
    Rule,
    rule_id=st.sampled_from(["r1", "r2", "r3", "r4"]),
    effect=st.sampled_from(["forbid", "permit", "permit", "gate"]),
    kind=st.sampled_from(["tool.call", "tool.call", "llm.call"]),
    tool=st.sampled_from(["*", "*", "", *TOOLS]),
    conditions=st.lists(conditions, max_size=2).map(tuple),
    approver_role=st.sampled_from(["finance", "security"]),
)
approvals = st.none() | st.builds(
    ApprovalFact,
    approval_id=st.just("a1"),
    state=st.sampled_from(["pending", "approved", "denied", "expired", "consumed"]),
    binding=st.just("00" * 32),
    rule_id=st.sampled_from(["r1", "r2"]),
    expires_at_ms=st.just(1),
)
facts = st.builds(
    Facts,
    principal=st.fixed_dictionaries({"tenant": st.sampled_from(["acme", "other"]), "role": st.just("worker")}),
    rules=st.lists(rules, max_size=6).map(tuple),
    policy_hash=st.just("ab" * 32),
    known=st.booleans() | st.just(True),
    malformed=st.sampled_from(["", "", "", "no"]),
    approval=approvals,
)
