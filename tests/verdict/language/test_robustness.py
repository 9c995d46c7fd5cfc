"""Whatever text comes, it is a policy or it is refused; and what is a policy has one compiled form."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_verdict import Catalogue, Policy, PolicyRefused, compile_policy, format_policy
from holdfast_verdict.language.grammar import reserved
from holdfast_verdict.language.source import MAX_BYTES, MAX_NESTING
from holdfast_verdict.problems import Problem

from .generated import policies, sources
from .sources import SAMPLE
from .test_problems import CATALOGUE

QUIET = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
SOUP = [*sorted(reserved()), "args.a", "a", "crm.*", "*", "external", '"x"', "5", "30m", "09:00", *"(){}[],:=", "==", "<=", "<", "..",
        "usd(5)", 'domain("a.com")', "role r {", "principal.user", "#", '"', "é"]  # fmt: skip


def outcome(text: object, catalogue: Catalogue | None = None) -> Policy | tuple[Problem, ...]:
    """Compiles; whatever else than a refusal is raised fails the test."""
    try:
        policy = compile_policy(text, catalogue)  # type: ignore[arg-type]  # not only text
    except PolicyRefused as refused:
        problems = refused.problems
    else:
        assert Policy.from_json(policy.to_json()) == policy
        assert Policy.from_json(json.loads(json.dumps(policy.to_json()))).policy_hash == policy.policy_hash
        return policy
    assert problems
    assert all(str(problem) and json.dumps(problem.to_json()) for problem in problems)
    return problems


@QUIET
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    outcome(text)


@QUIET
@given(st.lists(st.sampled_from(SOUP), max_size=40))
def test_any_words(words: list[str]) -> None:
    outcome(" ".join(words))
    outcome(" ".join(words), CATALOGUE)


@QUIET
@given(policies(), st.randoms(use_true_random=False))
def test_a_policy_with_words_lost_doubled_and_swapped(tokens: list[str], chance: random.Random) -> None:
    for _ in range(3):
        if tokens:
            place = chance.randrange(len(tokens))
            other = chance.randrange(len(tokens))
            tokens = chance.choice([
                [*tokens[:place], *tokens[place + 1 :]],
                [*tokens[:place], tokens[other], *tokens[place:]],
                [*tokens[:place], chance.choice(SOUP), *tokens[place + 1 :]],
                tokens[:place],
            ])  # fmt: skip
    outcome(" ".join(tokens))
    outcome("\n".join(tokens), CATALOGUE)


@QUIET
@given(sources())
def test_a_policy_by_chance_compiles_to_one_form(text: str) -> None:
    assert isinstance(outcome(text), Policy)


def test_every_prefix_and_every_letter_lost_of_the_sample() -> None:
    for place in range(0, len(SAMPLE), 11):
        outcome(SAMPLE[:place])
        outcome(SAMPLE[:place] + SAMPLE[place + 1 :])


@pytest.mark.parametrize("thing", [None, 5, b"forbid a", ["forbid a"], {"v": 1}])
def test_what_is_no_text_is_refused(thing: object) -> None:
    assert outcome(thing)


@pytest.mark.parametrize(("opened", "closed"), ["()", "[]", "{}"])
def test_nesting_is_bounded(opened: str, closed: str) -> None:
    for depth in (MAX_NESTING + 1, 100_000):
        problems = outcome(f"forbid a when {opened * depth}args.a == 1{closed * depth}")
        assert isinstance(problems, tuple)
        assert "nested deeper" in problems[0].message
    assert isinstance(outcome(f"forbid a when {'(' * MAX_NESTING}args.a == 1{')' * MAX_NESTING}"), Policy)


@pytest.mark.parametrize("step", ["not (not (", "not (every args.a{n} as i{n}: ("])
def test_nesting_that_means_something_is_bounded_too(step: str) -> None:
    depth = MAX_NESTING // 2
    opened = "".join(step.format(n=number) for number in range(depth))
    problems = outcome(f"forbid a when {opened}args.a == 1{'))' * depth}")
    assert isinstance(problems, tuple)
    assert "nested deeper" in problems[0].message
    shallow = "".join(step.format(n=number) for number in range(10))
    assert isinstance(outcome(f"forbid a when {shallow}args.a == 1{'))' * 10}"), Policy)


def test_size_is_bounded() -> None:
    assert isinstance(outcome("#" + "x" * (MAX_BYTES - 1)), Policy)
    problems = outcome("#" + "ü" * (MAX_BYTES // 2))
    assert isinstance(problems, tuple)
    assert str(MAX_BYTES) in problems[0].message


STATEMENTS = ["forbid a when args.x == 1\n", "permit x wher\n", "forbid ", "at most ", "# x\n"]


@pytest.mark.parametrize("unit", [*STATEMENTS, '"', "(", "ä", "}", "a ", "1x "])
def test_a_large_text_of_anything_ends(unit: str) -> None:
    outcome(unit * (MAX_BYTES // 8 // len(unit.encode())))


def test_many_rules_are_refused_and_no_error() -> None:
    problems = outcome("forbid a\n" * 10_001)
    assert isinstance(problems, tuple)


def test_the_hash_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = "import sys; from holdfast_verdict import compile_policy; print(compile_policy(sys.stdin.read()).policy_hash.hex())"
    for seed in ("0", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=SAMPLE,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.strip() == compile_policy(SAMPLE).policy_hash.hex()


def test_the_hash_is_of_what_counts() -> None:
    same = [
        SAMPLE,
        format_policy(SAMPLE),
        SAMPLE.replace("\n", "\r\n"),
        "# why\n" + SAMPLE,
        SAMPLE.replace("20000", "20_000"),
    ]
    assert len({compile_policy(text).policy_hash for text in same}) == 1
    others = [SAMPLE.replace(old, new) for old, new in
              [("20000", "20001"), ("500", "501"), ("expires 30m", "expires 31m"), ('acme.com")', 'acme.org")'), ("secret", "hidden"),
               ("billing-agent", "billing"), ("per run", "per hour per user"), ("GET, POST", "GET"), ("1h", "61m")]]  # fmt: skip
    assert len({compile_policy(text).policy_hash for text in [SAMPLE, *others]}) == len(others) + 1
