"""A text that starts with a folder and then goes up again is not below it, in whatever way it is written."""

from __future__ import annotations

from typing import Final

import pytest

from holdfast_verdict import Catalogue, Facts, compile_policy, decide_call

TEXT: Final = {"type": "string"}
CATALOGUE: Final = Catalogue.of({"open": {"parameters": {"type": "object", "properties": {"at": TEXT}}}})
UP: Final = (
    "../../etc/passwd",
    "a/..",
    "a\\..\\..\\x",
    "%2e%2e/x",
    "%2E./x",
    "..%2fx",
    "%252e%252e/x",
    "%c0%ae%c0%ae/x",
    "..%c0%afx",
    "%25252525252e%25252525252e/x",
    "..;/x",
    "\uff0e\uff0e/x",
    "..\u2215x",
    " .. /x",
)
HONEST: Final = ("a.txt", "a..b/c", "...", "50%/x", "100%25/x", "a b/%20c", "v1.0..v1.1", "é/ü", "a/;x=.")


@pytest.mark.parametrize("folder", ["/srv/data/", "https://api.acme.com/v1/"])
@pytest.mark.parametrize("rule", ['args.at starts with "{}"', 'args.at in ["{}*"]'])
def test_no_step_leads_out_of_a_folder_or_into_one(folder: str, rule: str) -> None:
    condition = rule.format(folder)
    inside = compile_policy(f"role r {{ permit open where {condition} }}", CATALOGUE)
    outside = compile_policy(f"role r {{ permit open }} forbid open when {condition} as no", CATALOGUE)
    facts = Facts(principal={"role": "r"})
    for rest in UP:
        for at in (folder + rest, "/srv/other/" + rest):
            assert decide_call(inside, CATALOGUE, "open", {"at": at}, facts).verdict == "deny", at
            assert decide_call(outside, CATALOGUE, "open", {"at": at}, facts).verdict == "deny", at
    for rest in HONEST:
        assert decide_call(inside, CATALOGUE, "open", {"at": folder + rest}, facts).verdict == "allow", rest
        assert decide_call(outside, CATALOGUE, "open", {"at": "/srv/other/" + rest}, facts).verdict == "allow", rest


def test_a_beginning_that_is_no_folder_is_a_beginning() -> None:
    policy = compile_policy('role r { permit open where args.at starts with "c-" }', CATALOGUE)
    assert decide_call(policy, CATALOGUE, "open", {"at": "c-/../x"}, Facts(principal={"role": "r"})).verdict == "allow"
