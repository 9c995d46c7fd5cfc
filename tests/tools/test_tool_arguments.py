"""Arguments: one normal form, nothing unknown, and errors that a model can act on."""

from __future__ import annotations

import json
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import RequestInvalid
from holdfast.tools.registry import TOOLS, find_tool, json_schema, validate_arguments
from holdfast.tools.texts import normalise_mail_address
from holdfast.tools.urls import normalise_url
from holdfast_verdict.actions.hosts import host_allowed, normalise_host, refusal_of_address
from holdfast_verdict.canonical import JsonValue, canonical_bytes

GOOD: dict[str, dict[str, JsonValue]] = {
    "mail.list": {},
    "mail.read": {"mail_id": "01-broken-lantern"},
    "mail.send": {"to": ["a@b.example"], "subject": "Hi", "body": "Hello\n"},
    "orders.lookup": {"tenant": "acme", "order_id": "A-1003"},
    "payments.refund": {"order_id": "A-1003", "amount_usd_cents": 3490, "reason": "broken"},
    "http.request": {"method": "GET", "url": "https://api.partner.example/v1?x=1"},
    "account.delete": {"customer": "C-2211"},
    "approval.read": {"approval_id": "0199f3a0-0000-7000-8000-000000000000"},
    "approval.vote": {
        "approval_id": "0199f3a0-0000-7000-8000-000000000000",
        "binding": "ab" * 32,
        "verdict": "denied",
        "reason": "too much",
    },
}


def with_(tool: str, **changes: JsonValue) -> dict[str, JsonValue]:
    return validate_arguments(tool, {**GOOD[tool], **changes})


def test_every_tool_accepts_its_good_arguments_and_describes_them() -> None:
    assert set(GOOD) == set(TOOLS)
    for tool, arguments in GOOD.items():
        normal = validate_arguments(tool, arguments)
        assert validate_arguments(tool, normal) == normal
        canonical_bytes(normal)
        schema = json_schema(tool)
        json.dumps(schema)
        assert schema["additionalProperties"] is False
        assert set(cast("dict[str, object]", schema["properties"])) == set(find_tool(tool).arguments.model_fields)


def test_what_is_known_of_the_effects() -> None:
    assert not find_tool("mail.send").is_idempotent(GOOD["mail.send"])
    assert find_tool("payments.refund").is_idempotent(GOOD["payments.refund"])
    assert find_tool("http.request").is_idempotent({"method": "HEAD"})
    assert not find_tool("http.request").is_idempotent({"method": "POST"})
    assert not find_tool("http.request").is_idempotent({})
    assert {name for name, tool in TOOLS.items() if "untrusted" in tool.yields} == {
        "mail.list",
        "mail.read",
        "http.request",
        "approval.read",
    }


def test_unknown_tools_and_fields_are_refused_in_sentences() -> None:
    with pytest.raises(RequestInvalid, match=r"there is no tool 'mail\.burn'"):
        validate_arguments("mail.burn", {})
    with pytest.raises(RequestInvalid, match=r"mail\.send: .*`bcc` is not an argument of it \(its arguments are: to, "):
        with_("mail.send", bcc="x@y.example")
    with pytest.raises(RequestInvalid, match="`mail_id` is missing"):
        validate_arguments("mail.read", {})


@pytest.mark.parametrize("amount", [0, -1, 10_000_001, 1.0, "100", True, None, [1]])
def test_amounts_are_whole_positive_bounded_cents(amount: object) -> None:
    with pytest.raises(RequestInvalid, match="amount_usd_cents"):
        with_("payments.refund", amount_usd_cents=cast("JsonValue", amount))


@pytest.mark.parametrize(
    "subject",
    [
        "Hi\r\nBcc: x@evil.example",
        "Hi\nX: y",
        "Hi\rX: y",
        "a\x00b",
        "a\x0bb",
        "a\x85b",
        "a\u2028b",
        "\ud800",
        "pay \u202egnp.exe",
        "",
    ],
)
def test_a_subject_is_one_honest_line(subject: str) -> None:
    with pytest.raises(RequestInvalid, match="subject"):
        with_("mail.send", subject=subject)


@pytest.mark.parametrize(
    "address",
    [
        "Bob <bob@b.example>", "bob", "bob@", "@b.example", "bob@localhost", "bob@[127.0.0.1]", "bob@127.0.0.1", "a b@c.example",
        '"a b"@c.example', "a%evil.example@b.example", "evil!a@b.example", "a..b@c.example", ".a@c.example", "a@b..example",
        "a@b.example\r\nBcc: c@d.example", "a@b.example,c@d.example", "a@b.example c@d.example", "а@b.example", "a@b_c.example",
        "a" * 65 + "@b.example", "a@" + "b." * 130 + "example", "-oX@b.example",
    ],
)  # fmt: skip
def test_what_is_no_bare_mail_address_is_refused(address: str) -> None:
    with pytest.raises(RequestInvalid, match="to"):
        with_("mail.send", to=[address])


def test_addresses_have_one_spelling() -> None:
    assert with_("mail.send", to=["Bob.X+y@BÜCHER.Example."])["to"] == ["bob.x+y@xn--bcher-kva.example"]
    with pytest.raises(RequestInvalid, match="twice"):
        with_("mail.send", to=["a@b.example", "A@B.EXAMPLE"])
    with pytest.raises(RequestInvalid, match="to"):
        with_("mail.send", to=[f"a{n}@b.example" for n in range(11)])


@pytest.mark.parametrize("in_reply_to", ["x", "<a@b>\r\nBcc: <c@d>", "<a b@c>", "", "<a@b> <c@d>"])
def test_a_message_id_is_one_message_id(in_reply_to: str) -> None:
    with pytest.raises(RequestInvalid, match="in_reply_to"):
        with_("mail.send", in_reply_to=in_reply_to)


@pytest.mark.parametrize(
    "mail_id", ["../01", "a/b", "a\\b", "/etc/passwd", ".", "..", "a.eml", "", "a\n", "a\x00", "é", "a" * 101]
)
def test_a_mail_id_is_no_path(mail_id: str) -> None:
    with pytest.raises(RequestInvalid, match="mail_id"):
        with_("mail.read", mail_id=mail_id)


@pytest.mark.parametrize(
    ("given_url", "normal"),
    [
        ("HTTP://Example.COM", "http://example.com/"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("http://example.com:443/a", "http://example.com:443/a"),
        ("http://example.com./", "http://example.com/"),
        ("http://example.com/a/./b/../c#frag", "http://example.com/a/c"),
        ("http://example.com/a/%2e%2E/b", "http://example.com/b"),
        ("http://example.com/../../x", "http://example.com/x"),
        ("http://example.com/%7Euser/%c3%a4", "http://example.com/~user/%C3%A4"),
        ("http://example.com/ä?q=ü", "http://example.com/%C3%A4?q=%C3%BC"),
        ("http://example.com?q", "http://example.com/?q"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]/"),
        ("http://[2001:DB8:0:0::1]:8080/", "http://[2001:db8::1]:8080/"),
    ],
)
def test_urls_have_one_spelling(given_url: str, normal: str) -> None:
    assert normalise_url(given_url) == normal
    assert normalise_url(normal) == normal


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "//example.com/", "ftp://example.com/", "file:///etc/passwd", "javascript:alert(1)", "http:example.com",
        "http:///x", "http://user@example.com/", "http://user:pw@example.com/", "http://example.com@evil.example/",
        "http://example.com\\@evil.example/", "http://example.com\\.evil.example/", "http://exa mple.com/", "http://example.com/a b",
        "http://example.com/\r\nHost: evil", "http://example.com/\x00", "http://example.com/%00", "http://example.com/%zz",
        "http://ex%61mple.com/", "http://a..b/", "http://-a.example/", "http://a_b.example/", "http://example.com:0/",
        "http://example.com:65536/", "http://example.com:/", "http://example.com:80:80/", "http://[::1", "http://::1/",
        "http://[::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[::1]x/", "http://[v1.x]/", "http://" + "a" * 64 + ".example/",
        # what some resolvers read as 127.0.0.1
        "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.1/",
        "http://0/", "http://127.0.0.0x1/", "http://00127.0.0.1/", "http://127.0.0.1.1/", "http://1.1.1.256/", "http://①②⑦.1/",
        # second spellings: of letters, and of an IPv4 address
        "http://１２７.0.0.1/", "http://[::FFFF:10.0.0.1]:8080/", "http://[64:ff9b::a00:1]/", "http://[2002:a00:1::]/",
        # what some servers read as a way up
        "http://example.com/a/..%2fb", "http://example.com/a/..%5Cb", "http://example.com/a/..;/b", "http://example.com/a/%2e%2e;x/b",
        "http://example.com/" + "a" * 2048, "http://example.com/" + "ä" * 700,
    ],
)  # fmt: skip
def test_ambiguous_urls_are_refused(url: str) -> None:
    with pytest.raises(RequestInvalid, match="url"):
        with_("http.request", url=url)


def test_reading_methods_carry_no_body() -> None:
    assert with_("http.request", method="post", body="x")["method"] == "POST"
    with pytest.raises(RequestInvalid, match="GET carries no `body`"):
        with_("http.request", body="x")
    for method in ("CONNECT", "TRACE", "GET\r\n", "", 1):
        with pytest.raises(RequestInvalid, match="method"):
            with_("http.request", method=method)


def test_hosts_are_allowed_exactly() -> None:
    allowed = ("api.example.com", "*.wild.example", "odd.example:8443", "*", "*.", "", "a b")
    assert host_allowed("api.example.com", 443, 443, allowed)
    assert host_allowed("api.example.com", 80, 80, allowed)
    assert not host_allowed("api.example.com", 8443, 443, allowed)
    assert not host_allowed("api.example.com", 80, 443, allowed)
    assert host_allowed("a.b.wild.example", 443, 443, allowed)
    assert not host_allowed("wild.example", 443, 443, allowed)
    assert not host_allowed("evilwild.example", 443, 443, allowed)
    assert host_allowed("odd.example", 8443, 443, allowed)
    assert not host_allowed("odd.example", 443, 443, allowed)
    assert not host_allowed("xapi.example.com", 443, 443, allowed)
    assert not host_allowed("api.example.com.evil.example", 443, 443, allowed)
    assert host_allowed("[::1]", 443, 443, ("[::1]",))
    assert host_allowed("[::1]", 8080, 80, ("[0:0::1]:8080",))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.169.254",
        "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "2001::1",
        "2001:db8::1", "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0",
        "2600::1%eth0", "fec0::1", "ff02::1", "example.com", "0177.0.0.1", "2130706433", "",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert refusal_of_address(address) is not None


def test_public_addresses_pass_and_private_ones_by_opt_in_only() -> None:
    for address in ("8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"):
        assert refusal_of_address(address) is None
    for address in ("127.0.0.1", "10.0.0.1", "192.168.0.1", "::1", "fd00::1"):
        assert refusal_of_address(address, allow_private=True) is None
    for address in ("169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1", "::ffff:127.0.0.1", "100.64.0.1"):
        assert refusal_of_address(address, allow_private=True) is not None


_TEXTS = st.text(max_size=60) | st.text(alphabet="ab.@:/%\\[]?#;=-_0127xf\r\n\u202e\x00é", max_size=60)


@settings(max_examples=300, deadline=None)
@given(_TEXTS)
def test_normal_forms_are_fixed_points_and_nothing_else_is_raised(text: str) -> None:
    for prefix, normalise in (
        ("", normalise_host),
        ("", normalise_mail_address),
        ("a@", normalise_mail_address),
        ("", normalise_url),
        ("http://a.example/", normalise_url),
        ("http://", normalise_url),
    ):
        try:
            once = normalise(prefix + text)
        except ValueError:
            continue
        assert normalise(once) == once
        assert once.isascii()
        assert once.isprintable()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(TOOLS)), st.data())
def test_any_rubbish_is_refused_or_becomes_a_fixed_point(tool: str, data: st.DataObject) -> None:
    names = st.sampled_from(sorted({*find_tool(tool).arguments.model_fields, "other"}))
    arguments = cast("dict[str, JsonValue]", {**GOOD[tool], **data.draw(st.dictionaries(names, _JSON, max_size=3))})
    try:
        normal = validate_arguments(tool, arguments)
    except RequestInvalid as refusal:
        error = refusal
    else:
        assert validate_arguments(tool, normal) == normal
        canonical_bytes(normal)
        return
    assert error.message.startswith(f"{tool}: ")
    assert len(error.message) < 2000
