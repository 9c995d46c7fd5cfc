"""Text to syntax tree. The whole text is parsed at once; only if that fails are its statements parsed one by one, for all problems."""

from __future__ import annotations

from typing import Final, Literal, cast

from lark import Token, Tree
from lark.exceptions import UnexpectedInput

from holdfast_verdict.language import syntax as s
from holdfast_verdict.language.grammar import grammar
from holdfast_verdict.language.recovery import syntax_problems
from holdfast_verdict.language.source import MAX_NESTING, Text, read_text
from holdfast_verdict.problems import PolicyRefused

Quantity = Literal["in", "all_in", "any_in", "none_in"]
_QUANTITIES: Final[dict[str, Quantity]] = {"ALL": "all_in", "ANY": "any_in", "NONE": "none_in"}
_ESCAPES: Final = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}
Node = Tree[Token]


def parse(text: str, file: str = "") -> s.Source:
    """Returns the syntax tree of a policy.

    Args:
        text: The source.
        file: Its name, for messages.

    Raises:
        PolicyRefused: The text is no policy; `problems` holds everything that is wrong with its form.
    """
    return parse_text(read_text(text, file))


def parse_text(source: Text) -> s.Source:
    """Returns the syntax tree of a source that was read; see `parse`."""
    _check_nesting(source)
    try:
        tree = grammar().parse(source.text)
    except UnexpectedInput as found:
        raise PolicyRefused(syntax_problems(source, found)) from None
    return s.Source(tuple(_item(node) for node in _trees(tree)), source.text, source.file)


def _check_nesting(source: Text) -> None:
    depth, quoted, skip, comment = 0, False, False, False
    for position, letter in enumerate(source.text):
        if skip or comment:
            skip, comment = False, comment and letter != "\n"
        elif letter == '"' or (quoted and letter == "\n"):
            quoted = not quoted
        elif quoted:
            skip = letter == "\\"
        elif letter == "#":
            comment = True
        elif letter in "([{":
            depth += 1
            if depth > MAX_NESTING:
                message = f"The policy is nested deeper than {MAX_NESTING}."
                raise PolicyRefused([source.problem("policy.syntax", message, (position, position + 1))])
        elif letter in ")]}":
            depth -= 1


# --- reading the parser's tree. Every rule of the grammar has its function here.


def _at(node: Node | Token) -> s.Span:
    if isinstance(node, Token):
        return (node.start_pos or 0, node.end_pos or 0)
    return (0, 0) if node.meta.empty else (node.meta.start_pos, node.meta.end_pos)


def _trees(node: Node) -> list[Node]:
    return [child for child in node.children if isinstance(child, Tree)]


def _tokens(node: Node, *kinds: str) -> list[Token]:
    return [child for child in node.children if isinstance(child, Token) and (not kinds or child.type in kinds)]


def _all(node: Node, rule: str) -> list[Node]:
    return [child for child in _trees(node) if child.data == rule]


def _one(node: Node, rule: str) -> Node | None:
    found = _all(node, rule)
    return found[0] if found else None


def _need(node: Node, rule: str) -> Node:
    return _all(node, rule)[0]


def _unquoted(token: Token) -> str:
    letters = iter(token[1:-1])
    return "".join(_ESCAPES[next(letters)] if letter == "\\" else letter for letter in letters)


def _name(token: Token) -> s.Name:
    quoted = token.type == "STRING"
    return s.Name(_unquoted(token) if quoted else str(token), _at(token), quoted)


_NAMES = ("NAME", "PATH", "PATTERN", "STAR", "STRING")


def _names(node: Node | None) -> tuple[s.Name, ...]:
    return () if node is None else tuple(_name(token) for token in _tokens(node, *_NAMES))


def _item(node: Node) -> s.Item:
    if node.data == "role":
        return s.Role(
            _name(_tokens(node, "NAME", "STRING")[0]),
            _names(_one(node, "extends")),
            tuple(_statement(child) for child in _trees(node) if child.data != "extends"),
            _at(node),
        )
    if node.data == "set":
        (value,) = _trees(node)
        return s.SetStatement(
            _name(_tokens(node, "NAME")[0]), _list(value) if value.data == "list" else _call(value), _at(node)
        )
    if node.data == "action":
        return s.ActionStatement(
            _name(_tokens(node, *_NAMES)[0]), tuple(_fact(child) for child in _trees(node)), _at(node)
        )
    return _statement(node)


def _fact(node: Node) -> s.UnitOf | s.YieldsOf | s.Name:
    if node.data == "boundary":
        return _names(node)[0]
    if node.data == "yields":
        names = _names(node)
        return s.YieldsOf(names[0] if names else None, _names(_need(node, "names")), _at(node))
    words = tuple(_name(token) for token in _tokens(node, "NAME", "CENTS"))
    return s.UnitOf(_value(_need(node, "value")), words, _at(node))


def _statement(node: Node) -> s.Statement:
    if node.data == "permit":
        targets = _one(node, "targets")
        pairs = () if targets is None else zip(_names(targets), map(_list, _trees(targets)), strict=True)
        return s.Permit(_names(_one(node, "actions")), tuple(pairs), _guard(node), _ending(node), _at(node))
    if node.data in ("forbid", "never"):
        return _forbid(node)
    if node.data == "limit":
        return _limit(node)
    if node.data == "gate":
        return _gate(node)
    if node.data == "label":
        field = _one(node, "field")
        return s.LabelStatement(
            _names(_one(node, "actions")),
            None if field is None else _names(field)[0],
            _guard(node),
            _names(_one(node, "names")),
            _at(node),
        )
    if node.data == "invariant":
        body = next(child for child in _trees(node) if child.data != "because")
        return s.Invariant(_name(_tokens(node, "NAME")[0]), _body(body, _ending(node), _at(body)), _at(node))
    return cast(
        "s.AtMost | s.Total", _body(_trees(node)[0], _ending(node), _at(node))
    )  # of `bare_count` and `bare_sum`


def _body(node: Node, ending: s.Ending, at: s.Span) -> s.Requires | s.Forbid | s.AtMost | s.Total:
    if node.data == "never":
        return _forbid(node, ending)
    if node.data == "requires":
        past = _past(_need(node, "past"))
        return s.Requires(_names(_one(node, "actions")), _guard(node), past, ending, at)
    actions = _names(_one(node, "actions"))
    if node.data == "at_most":
        return s.AtMost(_number(_need(node, "number")), actions, _guard(node), _reach(node), ending, at)
    of, ceiling = _value(_need(node, "value")), _value(_trees(_need(node, "amount"))[0])
    return s.Total(of, actions, _guard(node), ceiling, _reach(node), ending, at)


def _forbid(node: Node, ending: s.Ending | None = None) -> s.Forbid:
    after = _one(node, "after")
    return s.Forbid(
        _names(_one(node, "actions")),
        _guard(node),
        None if after is None else _past(_need(after, "past")),
        ending or _ending(node),
        _at(node),
    )


def _limit(node: Node) -> s.Limit:
    body = _trees(node)[0]
    of = _one(body, "value")
    amount = _one(body, "amount")
    only = _one(body, "of")
    words = _tokens(body, "COUNT", "SUM", "NAME")
    return s.Limit(
        _name(words[0]),
        _names(_one(body if only is None else only, "actions")),
        _guard(body if only is None else only),
        None if of is None else _value(of),
        _number(_need(body, "number")) if amount is None else _value(_trees(amount)[0]),
        tuple(
            s.Per(str(child.children[-1]), _at(child)) for child in _trees(node) if child.data in ("per", "in_total")
        ),
        _ending(node),
        _at(node),
    )


def _gate(node: Node) -> s.GateStatement:
    terms = _trees(_need(node, "needs"))
    return s.GateStatement(
        _name(_tokens(node, "NAME", "STRING")[0]),
        _names(_one(node, "actions")),
        _guard(node),
        tuple(_need_of(term) for term in terms if term.data == "need"),
        tuple(_duration(term) for term in terms if term.data == "expires"),
        any(term.data == "not_requester" for term in terms),
        tuple(s.Escalates(_need_of(term), _duration(term), _at(term)) for term in terms if term.data == "escalate"),
        _ending(node),
        _at(node),
    )


def _need_of(node: Node) -> s.NeedOf:
    counts = _tokens(node, "NUMBER")
    who = _need(node, "who")
    return s.NeedOf(_digits(counts[0]) if counts else s.Number("1", _at(who)), _who(who), _at(node))


def _who(node: Node) -> s.Who:
    kind, name = _tokens(node)
    return s.Who(str(kind), _unquoted(name), _at(node))


def _duration(node: Node) -> s.Duration:
    (token,) = _tokens(node, "DURATION")
    return s.Duration(str(token), _at(token))


def _guard(node: Node) -> s.Guard:
    where, unless = _one(node, "where"), _one(node, "unless")
    return s.Guard(
        None if where is None else _condition(_trees(where)[0]),
        None if unless is None else _condition(_trees(unless)[0]),
    )


def _ending(node: Node) -> s.Ending:
    name, because, code = _one(node, "as"), _one(node, "because"), _one(node, "code")
    words = [] if code is None else _tokens(code, "NAME", "STRING")
    return s.Ending(
        None if name is None else _name(_tokens(name, "NAME", "STRING")[0]),
        None if because is None else _text(_tokens(because, "STRING")[0]),
        s.Code(_name(words[0]), _text(words[1])) if words else None,
    )


def _past(node: Node) -> s.Past:
    events = _tokens(node, "SUCCEEDED", "REQUESTED")
    return s.Past(
        _names(_one(node, "actions")), _guard(node), _name(events[0]) if events else None, _reach(node), _at(node)
    )


def _reach(node: Node) -> s.Reach:
    same = _one(node, "same")
    return s.Reach(
        tuple(_duration(span) for span in _all(node, "within")),
        tuple(_name(_tokens(span)[-1]) for span in _all(node, "scope")),
        () if same is None else tuple(_pair(pair) for pair in _all(same, "pair")),
    )


def _pair(node: Node) -> s.SamePair:
    present, *past = (_value(each) for each in _trees(node))
    return s.SamePair(present, past[0] if past else None, _at(node))


# --- values


def _text(token: Token) -> s.Text:
    return s.Text(_unquoted(token), _at(token))


def _digits(token: Token) -> s.Number:
    return s.Number(token.replace("_", ""), _at(token))


def _number(node: Node) -> s.Number:
    return _digits(_tokens(node, "NUMBER")[0])


def _value(node: Node) -> s.Value:
    (child,) = node.children
    if isinstance(child, Token):
        if child.type == "STRING":
            return _text(child)
        return _digits(child) if child.type == "NUMBER" else s.Flag(child.type == "TRUE", _at(child))
    if child.data == "call":
        return _call(child)
    keys = [_unquoted(token) for token in _tokens(child, "STRING")]
    return s.Path((*_tokens(child)[0].split("."), *keys), _at(child), len(keys))


def _call(node: Node) -> s.Call:
    arguments = (_value(_need(argument, "value")) for argument in _all(node, "argument"))
    return s.Call(str(_tokens(node, "NAME")[0]), tuple(arguments), _at(node))


def _list(node: Node) -> s.Members:
    members: list[s.Value | s.Range] = []
    for member in _all(node, "member"):
        low, *high = (_value(value) for value in _trees(member))
        members.append(s.Range(low, high[0], _at(member)) if high else low)
    return s.Members(tuple(members), _at(node))


def _matchers(node: Node) -> s.Matchers:
    (child,) = node.children
    if isinstance(child, Token):
        return _name(child)
    return _list(child) if child.data == "list" else _call(child)


# --- conditions


def _condition(node: Node) -> s.Condition:
    at = _at(node)
    if node.data == "group":
        return _condition(_trees(node)[0])
    if node.data in ("all", "any"):
        word: Literal["and", "or"] = "and" if node.data == "all" else "or"
        return s.Joined(word, tuple(_condition(child) for child in _trees(node)), at)
    if node.data == "negation":
        return s.Negated(_condition(_trees(node)[0]), at)
    if node.data == "quantified":
        quantifier: Literal["every", "some"] = "every" if _tokens(node, "EVERY") else "some"
        value, body = _trees(node)
        return s.Quantified(quantifier, _value(value), _name(_tokens(node, "NAME")[0]), _condition(body), at)
    return _leaf(node, at)


def _leaf(node: Node, at: s.Span) -> s.Condition:
    values = [_value(value) for value in _all(node, "value")]
    match str(node.data):
        case "comparison":
            return s.Comparison(str(_tokens(node)[0]), values[0], values[1], at)
        case "starts" | "ends" | "contains":
            return s.Comparison(str(node.data), values[0], values[1], at)
        case "exclusion":
            return s.Membership("not_in", values[0], _matchers(_need(node, "matchers")), at)
        case "membership":
            quantity = _QUANTITIES.get(_tokens(node)[0].type, "in")
            return s.Membership(quantity, values[0], _matchers(_need(node, "matchers")), at)
        case "state":
            return s.State(values[0], _name(_tokens(node, "NAME")[0]), at)
        case "between":
            return s.Between(values[0], values[1], values[2], at)
        case "provenance":
            return s.Provenance(values[0], bool(_tokens(node, "ONLY")), tuple(map(_origin, _all(node, "origin"))), at)
        case "run_has":
            return s.RunHas(_name(_tokens(node, "NAME")[0]), at)
        case "released":
            labels = _tokens(node, "NAME")
            return s.Released(_name(labels[0]) if labels else None, _who(_need(node, "who")), at)
    return _time(node, at)


def _origin(node: Node) -> s.Name | s.Call:
    (child,) = node.children
    return _name(child) if isinstance(child, Token) else _call(child)


def _time(node: Node, at: s.Span) -> s.TimeIn:
    clocks, days = _one(node, "between_times"), _one(node, "days")
    times = [] if clocks is None else [_name(token) for token in _tokens(clocks, "CLOCK")]
    spans = [] if days is None else [[_name(token) for token in _tokens(day, "NAME")] for day in _all(days, "day")]
    return s.TimeIn(
        _text(_tokens(node, "STRING")[0]),
        (times[0], times[1]) if times else None,
        tuple((span[0], span[-1]) for span in spans),
        at,
    )
