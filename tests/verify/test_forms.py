"""What an expression of a form matches as it is written, the form allows and canonical JSON writes; nothing else gets by."""

from __future__ import annotations

import orjson
import pytest

from holdfast_verdict.verify import forms
from holdfast_verdict.verify.forms import Form, list_of, matcher, members, or_null

ID = "01900000-0000-7000-8000-000000000001"
ALLOWED = [
    (forms.AMOUNT, ["0", "7", "-7", "10", "9" * 19, "-" + "9" * 19]),
    (forms.NUMBER, [0, 7, -7, 10, 10**14, -(10**14)]),
    (forms.COUNT, [0, 7, 10**14]),
    (forms.FLAG, [True, False]),
    (forms.UUID, [ID]),
    (forms.HASH, ["0f" * 32]),
    (forms.TEXT, ["", "a b~", "[{}]"]),
    (or_null(forms.COUNT), [None, 1]),
    (list_of(forms.AMOUNT), [[], ["1"], ["1", "-2"]]),
    (members(b=forms.COUNT, a=forms.TEXT), [{"a": "x", "b": 1}]),
]
REFUSED: list[tuple[Form, list[bytes]]] = [
    (forms.AMOUNT, [b'"007"', b'"-0"', b'"+1"', b'"1 "', b'""', b'"-"', b'"' + b"9" * 20 + b'"', b'"1e3"', b"1", b'"1"\n']),
    (forms.NUMBER, [b"007", b"-0", b"1.0", b"1e3", b"true", b'"1"', b" 1", b""]),
    (forms.COUNT, [b"-1", b"01", b"1.5", b"null"]),
    (forms.FLAG, [b"True", b"1", b"null", b'"true"']),
    (forms.UUID, [b'"' + ID.upper().replace("0", "A", 1).encode() + b'"', b'"' + ID[:-1].encode() + b'"', b'"{' + ID.encode() + b'}"']),
    (forms.HASH, [b'"' + b"0F" * 32 + b'"', b'"' + b"0f" * 31 + b'"']),
    (forms.TEXT, [b'"\\u0061"', b'"a\nb"', b'"a"b"', b'"\x7f"', b'"\xff"', b"a"]),
    (or_null(forms.COUNT), [b"nul", b"-1", b"false"]),
    (list_of(forms.AMOUNT), [b'["1",]', b'[,"1"]', b'["1" ,"2"]', b'["01"]', b"[1]", b'["1","2"', b"null"]),
    (members(b=forms.COUNT, a=forms.TEXT), [
        b'{"b":1,"a":"x"}', b'{"a":"x","b":1,"c":1}', b'{"a":"x"}', b'{"a":"x","a":"x","b":1}', b'{"a":"x", "b":1}', b"{}",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "values"), ALLOWED)
def test_what_a_form_allows_is_matched_as_it_is_written(form: Form, values: list[object]) -> None:
    matches = matcher(form)
    assert matches is not None
    for value in values:
        assert form.holds(value), value
        assert matches(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)), value


@pytest.mark.parametrize(("form", "written"), REFUSED)
def test_what_is_of_another_form_or_written_otherwise_is_never_matched(form: Form, written: list[bytes]) -> None:
    matches = matcher(form)
    assert matches is not None
    for raw in written:
        assert not matches(raw), raw
