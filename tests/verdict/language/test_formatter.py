"""The formatter changes spaces and nothing that counts."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from holdfast_verdict import PolicyRefused, compile_policy, format_policy
from holdfast_verdict.language.statements import WIDTH

from .generated import sources
from .sources import SAMPLE


def comments(text: str) -> Counter[str]:
    """Returns the comments of a text of `sources()`, where no other `# ` is."""
    return Counter(line[line.find("# ") :].strip() for line in text.splitlines() if "# " in line)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(sources())
def test_it_keeps_what_a_policy_is_and_says_and_is_stable(text: str) -> None:
    formatted = format_policy(text)
    assert compile_policy(formatted).policy_hash == compile_policy(text).policy_hash
    assert format_policy(formatted) == formatted
    assert comments(formatted) == comments(text)
    assert "\t" not in formatted
    assert not [line for line in formatted.split("\n") if line != line.rstrip()]


def test_the_sample() -> None:
    formatted = format_policy(SAMPLE)
    assert compile_policy(formatted).policy_hash == compile_policy(SAMPLE).policy_hash
    assert format_policy(formatted) == formatted
    assert "  permit llm.call where model in [" in formatted


UGLY = r"""
# About it.
set a = ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","cccccccccccccccccccccccccccc"] # long
role x { # the x

 # one
 permit a when # inside
   (args.x==1 and ((args.y == 20000) or args.z between 1 and 2)) # tail

 forbid b  where args.x==1 as bb because "x # no \" comment"
 # end


 # end 2
} # done
action q{args.a is usd cents} action r { external # why
 yields foo } role y extends x {}
forbid aaaaaaaaaaaaaaaaaa where args.bbbbbbbbbbbbbbbbbbbbbbbbbbbbb == 1 and args.ccccccccccccccccccccccccc == 2 unless args.e == 1
# the end"""

NEAT = r"""# About it.
set a = [
  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
  "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
  "cccccccccccccccccccccccccccc",
]  # long

role x {  # the x
  # one
  # inside
  permit a where args.x == 1 and (args.y == 20_000 or (args.z between 1 and 2))  # tail

  forbid b when args.x == 1 as bb because "x # no \" comment"
  # end

  # end 2
}  # done

action q { args.a is usd cents }

action r {
  external  # why
  yields foo
}

role y extends x {}
forbid aaaaaaaaaaaaaaaaaa
  when args.bbbbbbbbbbbbbbbbbbbbbbbbbbbbb == 1 and args.ccccccccccccccccccccccccc == 2
  unless args.e == 1
# the end
"""


def test_one_layout() -> None:
    assert format_policy(UGLY) == NEAT


def test_a_long_condition_is_broken_at_its_ands() -> None:
    parts = [f"args.argument_number_{number} == {number}" for number in range(8)]
    formatted = format_policy(f"forbid pay where {' and '.join(parts)}")
    assert formatted.split("\n")[1:4] == [f"  when {parts[0]}", f"    and {parts[1]}", f"    and {parts[2]}"]
    assert max(map(len, formatted.split("\n"))) <= WIDTH


def test_what_does_not_parse_is_refused() -> None:
    with pytest.raises(PolicyRefused, match=r"mine\.policy:1:8"):
        format_policy("permit where", "mine.policy")
    assert format_policy("") == ""
    assert format_policy("# only a comment") == "# only a comment\n"
