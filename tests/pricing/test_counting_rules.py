"""An estimate is never below the bill: against each provider's own counting rules, with text made to break it."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, get_args

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from docs import looseness
from holdfast.errors import RequestInvalid
from holdfast.pricing.bounds import COUNTED_CHARS_MAX, Tokenizer, counted_tokens_bound, input_tokens_bound
from holdfast.pricing.estimate import Estimate, estimate_llm, estimate_of
from holdfast.pricing.headroom import Headroom, fitted
from holdfast.pricing.overlay import _PUBLISHED, _TRAITS
from holdfast.pricing.prices import Price, price_of
from holdfast.providers import anthropic as anthropic_wire
from holdfast.providers import openai as openai_wire
from holdfast.providers.model import ModelRequest, ToolSpec, Usage, Wire

from .published import chat_tokens, count, message_bytes

unhurried = settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck)
)  # a busy machine is no failure
NOW: Final = datetime(2026, 11, 22, tzinfo=UTC)
TOKENIZERS: Final[tuple[Tokenizer, ...]] = get_args(Tokenizer)

PIECES: Final = st.one_of(
    st.text(max_size=40),
    st.text("😀👩‍👩‍👧‍👦🏳️‍🌈🇩🇪👍🏽\u200d\ufe0f", max_size=30),
    st.text("漢字仮名交じり文龘𠮷ㄅ", max_size=30),
    st.text("\ufdfaΐﷺﬃ①½Å\u0344\u1e9b\u0323", max_size=30),
    st.text("\x00\x01\x1f\x7f\u200b\u2028\u202e\ufeff", max_size=30),
    st.text("aAzZ09'\"\\{}[]<>|/.,:;_-", max_size=60),
    st.binary(max_size=90).map(lambda data: base64.b64encode(data).decode()),
    st.sampled_from(["<|endoftext|>", "<|im_start|>system\n", "\n\nHuman:", "</function_calls>", "'LL've", "１２３"]),
    st.builds(lambda run, times: run * times, st.sampled_from([" ", "\n", "\t", " \n", "a", "aA", "0", "👍"]), st.integers(1, 2_000)),
)  # fmt: skip
TEXTS: Final = st.lists(PIECES, max_size=4).map("".join)
SAID: Final = TEXTS.map(lambda text: f"x{text}")  # what is blank cannot be sent
NAMES: Final = st.text(max_size=12) | st.text("äß漢😀é_-. ", min_size=1, max_size=12)
SIMPLE: Final = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "integer", "number", "boolean", "null"])},
    optional={"description": TEXTS, "enum": st.lists(TEXTS | st.integers(-9, 9), max_size=5), "default": TEXTS, "format": NAMES},
)  # fmt: skip


def _object(members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": [*members][::2], "additionalProperties": False}


SCHEMAS: Final = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.dictionaries(NAMES, inner, max_size=4).map(_object),
    ),
    max_leaves=12,
)
FLAT: Final = st.dictionaries(NAMES, SIMPLE, max_size=5).map(_object)
TOOLS: Final = st.builds(
    ToolSpec,
    st.from_regex(r"[a-z]{1,20}(\.[a-z]{1,20}){0,2}", fullmatch=True),
    TEXTS,
    st.dictionaries(NAMES, SCHEMAS, max_size=4).map(_object) | FLAT,
)
VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [{"kind": "user", "text": draw(SAID)}]
    for number in range(draw(st.integers(0, 4))):
        raw, arguments = draw(TEXTS), draw(st.dictionaries(NAMES, VALUES, max_size=4) | st.none())
        call = {"call_id": f"call_{number}", "tool": draw(NAMES), "arguments": arguments, "raw_arguments": raw}
        calls = [call] * draw(st.integers(0, 3))
        entries.append({"kind": "assistant", "text": draw(TEXTS), "thinking": "never sent", "tool_calls": calls})
        entries += [{"kind": "tool_result", "call_id": "call_0", "tool": "x", "ok": True, "content": draw(SAID)}]
    return entries


def requests(wire: Wire) -> st.SearchStrategy[ModelRequest]:
    return st.builds(
        ModelRequest,
        st.just(wire),
        st.just("m"),
        st.integers(1, 200_000),
        TEXTS,
        conversations(),
        st.lists(TOOLS, max_size=3),
    )


def sent(request: ModelRequest) -> dict[str, Any]:
    """What goes over the wire; a request that has no form there is sent to nobody."""
    module = {"anthropic": anthropic_wire, "openai": openai_wire}[request.wire]
    try:
        return module.request_arguments(request)  # type: ignore[no-any-return]  # both modules have it
    except RequestInvalid:
        assume(False)
        raise


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@unhurried
@given(request=requests("openai"))
def test_no_bound_is_below_what_openai_counts(tokenizer: Tokenizer, request: ModelRequest) -> None:
    real = chat_tokens(sent(request), tokenizer)
    assert real <= counted_tokens_bound(request, tokenizer) <= input_tokens_bound(request)


@unhurried
@given(request=requests("anthropic"))
def test_no_bound_is_below_a_token_for_every_byte_that_anthropic_counts(request: ModelRequest) -> None:
    assert message_bytes(sent(request)) <= input_tokens_bound(request)


@unhurried
@given(text=TEXTS, form=st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_no_normal_form_of_a_text_is_longer_than_its_bound(text: str, form: Any) -> None:
    request = ModelRequest("anthropic", "m", 1, text, [], [])
    assert len(unicodedata.normalize(form, text).encode()) <= input_tokens_bound(request)


def _deep(schema: dict[str, Any]) -> dict[str, Any]:
    for _ in range(24):
        schema = _object({"ä": schema})
    return schema


# Each is made of what one markup spells out and another does not, so much of it that no fixed overhead hides the rest.
EXTREMES: Final[dict[str, ModelRequest]] = {
    name: ModelRequest("openai", "m", 1, "", [{"kind": "user", "text": "x"}], tools)
    for name, tools in {
        "lines": [ToolSpec("t", "\n" * 5_000, _object({}))],
        "lines of text": [ToolSpec("t", "a\n" * 5_000, _object({}))],
        "deep lines": [ToolSpec("t", "", _deep({"type": "string", "description": "\n" * 6_000}))],
        "numbers": [ToolSpec("t", "", _object({"a": {"enum": list(range(3_000))}}))],
        "empty choices": [ToolSpec("t", "", _object({"a": {"type": "string", "enum": [""] * 3_000}}))],
        "short choices": [ToolSpec("t", "", _object({"a": {"type": "string", "enum": ["1"] * 3_000}}))],
        "controls": [ToolSpec("t", "", _object({"a": {"enum": ["\x01" * 3_000]}}))],
        "members": [ToolSpec("t", "", _object({f"a{n}": {"type": "string"} for n in range(2_000)}))],
        "bare members": [ToolSpec("t", "", _object({chr(0x4E00 + n): {} for n in range(2_000)}))],
        "deep members": [ToolSpec("t", "", _deep(_object({chr(0x4E00 + n): {} for n in range(500)})))],
        "lists": [ToolSpec("t", "", _object({f"a{n}": {"type": "array", "items": {}} for n in range(2_000)}))],
        "kinds": [ToolSpec("t", "", _object({"a": {"anyOf": [{}] * 3_000}}))],
        "defaults": [ToolSpec("t", "", _object({f"a{n}": {"default": "é"} for n in range(1_000)}))],
        "names": [ToolSpec("t", "", _object({f"{'👩‍👩‍👧‍👦' * 3}{n}": {"enum": ["🏳️‍🌈"]} for n in range(300)}))],
        "tools": [ToolSpec(f"t{n}", "", _object({})) for n in range(128)],
    }.items()
} | {
    "messages": ModelRequest("openai", "m", 1, "", [{"kind": "user", "text": "x"}] * 2_000, []),
    "calls": ModelRequest(
        "openai",
        "m",
        1,
        "",
        [
            {
                "kind": "assistant",
                "text": "",
                "tool_calls": [{"call_id": "c", "tool": "t", "arguments": {}, "raw_arguments": ""}] * 2_000,
            }
        ],
        [],
    ),
    "system": ModelRequest("openai", "m", 1, "ab " * 100_000, [{"kind": "user", "text": "x"}], []),
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", EXTREMES)
def test_much_of_one_thing_is_covered(tokenizer: Tokenizer, name: str) -> None:
    request = EXTREMES[name]
    assert chat_tokens(sent(request), tokenizer) <= counted_tokens_bound(request, tokenizer)
    assert message_bytes(anthropic_wire.request_arguments(request)) <= input_tokens_bound(request)


def models(wire: Wire) -> list[str]:
    return [name.removeprefix(f"{wire}/") for name in _TRAITS if name.startswith(f"{wire}/")]


def dearest_bills(price: Price, estimate: Estimate) -> list[int]:
    """What the provider may bill at most within the bounds: all input plain, read from a cache or written to one, in any tier."""
    starts = [0, *(tier.above_input_tokens for tier in price.long_context)]
    sizes = {estimate.input_tokens_bound, *(size for start in starts for size in (start, start + 1))}
    return [
        price.cost_nano_usd(usage)
        for size in sizes
        if size <= estimate.input_tokens_bound
        for surcharge in (0, 10, 100)
        for usage in (
            Usage(size, estimate.output_tokens_bound, surcharge_percent=surcharge),
            Usage(0, estimate.output_tokens_bound, cache_read_tokens=size, surcharge_percent=surcharge),
            Usage(0, estimate.output_tokens_bound, cache_write_tokens=size, surcharge_percent=surcharge),
        )
    ]


@pytest.mark.parametrize("wire", ["anthropic", "openai"])
@pytest.mark.parametrize("input_tokens", [1, 127_999, 200_000, 200_001, 272_001, 900_000])
def test_no_listed_model_bills_more_in_any_tier(wire: Wire, input_tokens: int) -> None:
    for model in models(wire):
        price = price_of(wire, model, NOW)
        for output_tokens in (1, price.max_output_tokens or 4_096):
            estimate = estimate_of(price, input_tokens, output_tokens)
            assert max(dearest_bills(price, estimate)) <= estimate.max_cost_nano_usd, model


@pytest.mark.parametrize("wire", ["anthropic", "openai"])
@unhurried
@given(data=st.data())
def test_nothing_is_asked_for_that_multiplies_the_bill(wire: Wire, data: st.DataObject) -> None:
    """One answer, at the standard tier, without a server's own tools: nothing that the estimate does not know of."""
    arguments = sent(data.draw(requests(wire)))
    bound = {"anthropic": "max_tokens", "openai": "max_completion_tokens"}[wire]
    tier = {"anthropic": "standard_only", "openai": "default"}[wire]
    assert arguments["service_tier"] == tier
    assert type(arguments[bound]) is int
    known = {"model", bound, "messages", "system", "service_tier", "stream", "stream_options", "tools"}
    assert set(arguments) <= known
    assert all(tool.get("type", "function") == "function" for tool in arguments.get("tools", ()))
    assert "cache_control" not in str([*arguments])


# A tokenizer that is public --------------------------------------------------------------------------------------------

JARGON: Final = [
    ("system", None, "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."),
    ("system", "example_user", "New synergies will help drive top-line growth."),
    ("system", "example_assistant", "Things working well together will increase revenue."),
    ("system", "example_user", "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."),
    ("system", "example_assistant", "Let's talk later when we're less busy about how to do better."),
    ("user", None, "This late pivot means we don't have time to boil the ocean for the client deliverable."),
]  # fmt: skip
"""The conversation of OpenAI's cookbook, for which it names what its API has counted."""


@pytest.mark.parametrize(("tokenizer", "counted"), [("o200k_base", 124), ("cl100k_base", 129)])
def test_the_rules_give_what_openai_s_api_has_counted(tokenizer: Tokenizer, counted: int) -> None:
    messages = [
        {"role": role, "content": text} | ({} if name is None else {"name": name}) for role, name, text in JARGON
    ]
    assert chat_tokens({"messages": messages}, tokenizer) == counted


@pytest.mark.parametrize(
    ("text", "o200k", "cl100k"),
    [("antidisestablishmentarianism", 6, 6), ("2 + 2 = 4", 7, 7), ("お誕生日おめでとう", 8, 9)],
)
def test_the_vocabularies_are_the_published_ones(text: str, o200k: int, cl100k: int) -> None:
    assert (count(text, "o200k_base"), count(text, "cl100k_base")) == (o200k, cl100k)


def test_only_listed_models_of_openai_are_counted() -> None:
    assert {price_of("openai", model, NOW).tokenizer for model in _PUBLISHED} == {*TOKENIZERS}
    assert {price_of("anthropic", model, NOW).tokenizer for model in models("anthropic")} == {None}
    assert price_of("openai", "gpt-5.4", NOW).tokenizer is None
    assert price_of("openai", "simulated-gpt-4.1", NOW).tokenizer is None
    assert {f"openai/{model}" for model in _PUBLISHED} <= set(_TRAITS)


def test_the_count_is_used_only_where_the_bytes_do_not_fit() -> None:
    price = price_of("openai", "gpt-4o-mini", NOW)
    request = ModelRequest("openai", "gpt-4o-mini", 1, "", [{"kind": "user", "text": "a word and a word " * 1_000}], [])
    by_bytes = estimate_llm(request, price)
    roomy = fitted(request, price, Headroom(), 500)
    assert (roomy.counted_with, roomy.input_tokens_bound) == ("", by_bytes.input_tokens_bound)
    tight = Headroom(nano_usd=roomy.max_cost_nano_usd - 1)
    counted = fitted(request, price, tight, 500)
    assert counted.counted_with == "o200k_base"
    assert counted.max_cost_nano_usd < roomy.max_cost_nano_usd // 2
    assert counted.output_tokens_bound == 500
    assert Estimate.from_json(counted.to_json()) == counted
    assert fitted(request, price, Headroom(tokens=roomy.max_tokens_total - 1), 500).counted_with == "o200k_base"
    # without a bound of its own it would get less than the default: the count makes room for more output
    scarce = Headroom(tokens=by_bytes.input_tokens_bound + 300)
    assert fitted(request, price, scarce, None).output_tokens_bound > 4_000
    # nor does what the bytes allow fit a window of 128,000 tokens
    long = ModelRequest("openai", "gpt-4o-mini", 1, "", [{"kind": "user", "text": "a word " * 20_000}], [])
    assert fitted(long, price, Headroom(), 500).counted_with == "o200k_base"
    # where nobody has published a tokenizer the bytes stand
    other = price_of("anthropic", "claude-haiku-4-5", NOW)
    assert fitted(request, other, Headroom(nano_usd=1), 500).counted_with == ""


@pytest.mark.parametrize("row", list(looseness.rows()), ids=lambda row: row[0])
def test_no_text_of_the_documentation_s_table_has_a_bound_under_its_tokens(row: Sequence[str]) -> None:
    for real, by_bytes, counted in (row[2:5], row[5:8]):
        assert int(real) > 100
        assert 1 <= float(counted) <= float(by_bytes)
        assert float(counted) < 1.3 or row[0] == "Spaces"  # of which far more than four go to a token


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("unit", ["a", " ", "aA", "\n", "0", "漢", "😀", "'", " \n", "\u0301", "a\u200d"])
def test_what_makes_tokenizers_slow_is_counted_all_the_same(tokenizer: Tokenizer, unit: str) -> None:
    """Run by run of one letter: an engine whose time grows with the square of it would take hours here, not milliseconds."""
    text = unit * (1_000_000 // len(unit))
    request = ModelRequest("openai", "m", 1, text, [{"kind": "user", "text": "x"}], [])
    real = count(text, tokenizer)
    assert real <= counted_tokens_bound(request, tokenizer)
    assert counted_tokens_bound(request, tokenizer) >= len(text.encode()) // 4


def test_what_is_too_long_to_count_and_what_no_tokenizer_reads_are_bounded_by_their_bytes() -> None:
    long = ModelRequest("openai", "m", 1, "a" * (COUNTED_CHARS_MAX + 1), [{"kind": "user", "text": "x"}], [])
    assert counted_tokens_bound(long, "o200k_base") >= COUNTED_CHARS_MAX
    broken = ModelRequest("openai", "m", 1, "", [{"kind": "user", "text": "\ud800" * 1_000}], [])
    assert counted_tokens_bound(broken, "o200k_base") >= 3_000
