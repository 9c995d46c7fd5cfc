"""Policies by chance: of every form that the grammar has, spelled in every way that means the same."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

Tokens = list[str]


def one(*texts: str) -> st.SearchStrategy[Tokens]:
    """One of these texts; their words are tokens."""
    return st.sampled_from([text.split() for text in texts])


def row(*parts: st.SearchStrategy[Tokens] | str) -> st.SearchStrategy[Tokens]:
    """All of the parts, one behind the other."""
    strategies = [st.just(part.split()) if isinstance(part, str) else part for part in parts]
    return st.tuples(*strategies).map(lambda found: [token for tokens in found for token in tokens])


def maybe(*parts: st.SearchStrategy[Tokens] | str) -> st.SearchStrategy[Tokens]:
    """All of the parts, or nothing."""
    return st.one_of(st.just([]), row(*parts))


def several(part: st.SearchStrategy[Tokens], between: str, most: int = 3) -> st.SearchStrategy[Tokens]:
    """One to `most` parts with something between them."""

    def joined(found: Sequence[Tokens]) -> Tokens:
        first, *rest = found
        return [*first, *(token for tokens in rest for token in [*between.split(), *tokens])]

    return st.lists(part, min_size=1, max_size=most, unique_by=tuple).map(joined)


NAME = one("a", "pay", "bank.pay", "crm.export", '"x/y"')
PATTERN = st.one_of(NAME, one("crm.*", "send_*", "*", "external"))
ACTIONS = several(PATTERN, ",")
ARG = one("args.a", "args.b.c", 'args["odd.one"]', "principal.user", "item.price")
ONCE = ("0", "5", "20_000", "1.50", "-3", "12345.678")
NUMBER = one("20000", *ONCE)
TEXT = one('"x"', '""', '"a\\"b\\\\c\\n"', '"#"', '"{"', '"ü"')
LITERAL = st.one_of(NUMBER, TEXT, one("true", "false", "usd ( 5 )", "usd ( 0.01 )"))
SOURCED = one("args.a", "args.b.c")
MEMBER = st.one_of(
    one(*ONCE), TEXT, one("principal.user", "1..5", '"g-*"', 'exactly("h*")', 'domain("acme.com", "*.acme.com")')
)
LIST = row("[", several(MEMBER, ","), maybe(","), "]")
MATCHERS = st.one_of(LIST, one('domain ( "acme.com" )', 'host("api.acme.com")', 'path("/srv")', 'cidr("10.0.0.0/8")'))
DURATION = one("500ms", "90s", "30m", "24h", "7d")
LEAF = st.one_of(
    row(SOURCED, one("==", "!="), LITERAL.filter(lambda tokens: "*" not in tokens[0])),
    row(SOURCED, one("<", "<=", ">", ">="), st.one_of(NUMBER, one("usd(3)", "args.z", "estimate.spend"))),
    row(SOURCED, one("in", "all in", "any in", "none in", "not in"), MATCHERS),
    row(SOURCED, one("starts with", "ends with", "contains"), one('"x"', "principal.user")),
    row(SOURCED, one("is present", "is absent", "is empty", "between 1 and 5", "from user", "from untrusted, secret")),
    row(SOURCED, 'only from user, tool("crm.*")'),
    row(one("args.a.bytes", "chars(args.a)", "size ( args.b )"), "<=", one("5", "20000")),
    one("run has secret", 'secret released by role ( "dpo" )', 'date("UTC") <= "2026-12-31"'),
    row(
        'time in "Europe/Berlin"', one("between 09:00 and 18:00", "on mon..fri", "between 00:00 and 24:00 on sat, sun")
    ),
)


def _deeper(inner: st.SearchStrategy[Tokens]) -> st.SearchStrategy[Tokens]:
    closed = row("(", inner, ")")
    atom = st.one_of(LEAF, closed, row("not", closed))
    return st.one_of(
        several(atom, "and"),
        several(atom, "or"),
        row("not", LEAF),
        row(one("every", "some"), SOURCED, "as item : (", inner, ")"),
    )


# a name is bound once: `every` within `every` of the same name is refused
CONDITION = st.recursive(LEAF, _deeper, max_leaves=3).filter(
    lambda tokens: len(tokens) <= 60 and tokens.count("item") <= 1
)
PLAIN = one("args.a == 1", "args.a == 1 and args.b == 2", 'args.a in ["x"]')
REACH = row(
    maybe("within", DURATION),
    maybe("per", one("run", "tenant", "role")),
    maybe("with same", SOURCED, maybe("== its args.q")),
)
ENDING = maybe("because", one('"Because."', '"a#b"', '"\\"quoted\\""'))
PAST = row(several(NAME, ","), maybe("where", PLAIN))
GRANTED = CONDITION.filter(lambda tokens: "from" not in tokens)
PERMIT = row("permit", ACTIONS, maybe('to hosts [ "a.com" , "*.b.com" ]', maybe("methods [ GET , POST ]")),
             maybe(one("where", "when"), GRANTED), ENDING)  # fmt: skip
FROM = row(SOURCED, one("from untrusted, secret", "from untrusted and args.a == 1"))
FORBID = row("forbid", ACTIONS, maybe(one("where", "when"), st.one_of(GRANTED, FROM)), maybe("unless", GRANTED),
             maybe("after", PAST, maybe(one("succeeded", "requested")), REACH), ENDING)  # fmt: skip
PER = one("per run", "per day per tenant", "in total per user", "per 24h per role")
LIMIT = row("limit", st.one_of(
    row(ACTIONS, maybe("where", PLAIN), "count <= 20000"),
    row(ACTIONS, maybe("where", PLAIN), "sum(args.a) <=", one("usd(5)", "7")),
    row("spend", maybe("of", ACTIONS, maybe("where", PLAIN)), "<= usd(5)"),
    row("tokens <= 100000"),
), PER, ENDING)  # fmt: skip
COUNTED = row(one("at most 3", "at most 20000"), PAST, REACH)
SUMMED = row("sum ( args.a ) of", PAST, "<=", one("usd(20)", "7"), REACH)
REQUIRED = row(ACTIONS, maybe("where", GRANTED), "requires", PAST, maybe("succeeded"), REACH)
INVARIANT = st.one_of(REQUIRED, row("forbid", ACTIONS, maybe("when", GRANTED)), COUNTED, SUMMED)
GATE = row(ACTIONS, maybe("where", st.one_of(GRANTED, FROM)), "needs", one('2 of role("boss")', '1 of role("a"), 1 of agent("b")'),
           maybe(", expires 3d"), maybe(", not requester"), maybe(', escalate to role("chief") after 1h'), ENDING)  # fmt: skip
LABEL = row(
    "label",
    ACTIONS,
    maybe("field body.text"),
    maybe("where", PLAIN),
    "yields",
    several(one("secret", "untrusted"), ","),
)
SET = st.one_of(LIST, one('domain("acme.com")'))
FACTS = row(
    maybe("external"),
    maybe("args.fee is", one("usd", "usd cents", "nano_usd")),
    maybe("field x yields secret"),
    maybe("yields mine"),
)


@st.composite
def policies(draw: st.DrawFn) -> Tokens:
    """The tokens of a policy that compiles."""
    tokens: Tokens = []
    for number in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["role", "set", "action", "named", "gate", "label", "bare"]))
        if kind == "role":
            body = [token for each in draw(st.lists(st.one_of(PERMIT, FORBID, LIMIT), max_size=3)) for token in each]
            tokens += ["role", f"r{number}", *(["extends", "r0"] if number and "r0" in tokens else []), "{", *body, "}"]
        elif kind == "set":
            tokens += ["set", f"s{number}", "=", *draw(SET)]
        elif kind == "action":
            tokens += ["action", f"act{number}", "{", *draw(FACTS), "}"]
        elif kind == "named":
            tokens += ["invariant", f"i{number}", ":", *draw(INVARIANT), *draw(ENDING)]
        elif kind == "gate":
            tokens += ["gate", f"g{number}", ":", *draw(GATE)]
        elif kind == "label":
            tokens += draw(LABEL)
        else:
            tokens += [*draw(st.one_of(COUNTED, SUMMED)), "as", f"n{number}", *draw(ENDING)]
    return tokens


SPACES = st.sampled_from([" ", "  ", "\n", "\n\n\n", "\t", " # why\n", '\n# "odd { comment\n', "\r\n"])


@st.composite
def sources(draw: st.DrawFn) -> str:
    """The text of a policy that compiles, with spaces and comments by chance."""
    return "".join(f"{token}{draw(SPACES)}" for token in draw(policies()))
