"""What a policy has to remember, compiled: which past actions count, under which key, and by how much."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import orjson

from holdfast_verdict.actions.texts import folded_text
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.expressions import Ask, compile_expression
from holdfast_verdict.engine.numbers import Number, number_json, number_of
from holdfast_verdict.engine.unknown import UNKNOWN, Unknown
from holdfast_verdict.engine.values import Read, compile_value
from holdfast_verdict.policy import Watch

Key = bytes
"""Digest of the values that past and present action must have in common."""
NO_KEY: Key = b""


def _key(reads: tuple[Read, ...], context: Context, *, folded: bool) -> Key | Unknown:
    if not reads:
        return NO_KEY
    values: list[object] = []
    for read in reads:
        value = read(context)
        if value is UNKNOWN:
            return UNKNOWN
        number = number_of(value)
        if not isinstance(number, Unknown):
            value = number_json(number)
        elif folded and isinstance(value, str):
            value = folded_text(value)  # what a lenient reader takes for the same is the same where it stands against
        values.append(value)
    return hashlib.sha256(orjson.dumps(values, option=orjson.OPT_SORT_KEYS)).digest()


@dataclass(frozen=True, slots=True)
class CompiledWatch:
    """A watch that can be asked.

    Attributes:
        watch: The watch.
        where: Which past actions count.
        of: For a sum, what is added up.
        past: What the past action must have in common with the present one.
        present: The same of the present one.
    """

    watch: Watch
    where: Ask
    of: Read | None
    past: tuple[Read, ...]
    present: tuple[Read, ...]

    @staticmethod
    def of_watch(watch: Watch) -> CompiledWatch:
        """Compiles a watch."""
        return CompiledWatch(
            watch,
            compile_expression(watch.where),
            None if watch.of is None else compile_value(watch.of),
            tuple(compile_value(past) for past, _ in watch.same),
            tuple(compile_value(present) for _, present in watch.same),
        )

    def counts(self, context: Context) -> bool:
        """Says whether a past action counts; where that cannot be told, the watch's own doubt does."""
        truth = self.where(context)
        return self.watch.doubt if truth is None else truth

    def past_key(self, context: Context) -> Key | Unknown:
        """Returns the key under which a past action is remembered."""
        return _key(self.past, context, folded=self.watch.doubt)

    def present_key(self, context: Context) -> Key | Unknown:
        """Returns the key under which the present action looks."""
        return _key(self.present, context, folded=self.watch.doubt)

    def amount(self, context: Context) -> Number | Unknown:
        """Returns how much a past action counts. A negative amount counts nothing: it would make room."""
        if self.of is None:
            return 1
        number = number_of(self.of(context))
        return number if isinstance(number, Unknown) else max(number, 0)
