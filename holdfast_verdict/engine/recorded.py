"""Facts as JSON: what a record keeps of them, and facts made of that again (LAW 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine.facts import (
    Approval,
    Consent,
    Estimate,
    Facts,
    HistoryFacts,
    LocalTime,
    Release,
)
from holdfast_verdict.engine.numbers import number_json, number_of
from holdfast_verdict.engine.unknown import UNKNOWN, Unknown
from holdfast_verdict.provenance.origin import Origin, OriginInvalid


class FactsMalformed(ValueError):  # an error of whoever gives facts; a decision by them is a deny
    """Facts are not of their form; the message names the place."""


def _watch_json(value: object) -> JsonValue:
    if isinstance(value, Unknown):
        return None
    number = number_of(value)
    return str(value) if isinstance(number, Unknown) else number_json(number)


def _plain(value: object) -> JsonValue:
    return list(value) if isinstance(value, tuple | list | set | frozenset) else value  # type: ignore[return-value]  # JSON


def read_to_json(read: Mapping[tuple[str, str], object]) -> dict[str, JsonValue]:
    """Returns what was read of facts, in the form of `Facts.to_json`; what was not read is not in it."""
    recorded: dict[str, Any] = {}
    for (member, name), value in sorted(read.items(), key=lambda item: item[0]):
        if member in ("now_ms", "labels", "released", "approvals"):
            recorded[member] = _MEMBERS_JSON[member](value)
        else:
            recorded.setdefault(member, {})[name] = _MEMBERS_JSON[member](value)
    return recorded


_MEMBERS_JSON: Final[Mapping[str, Callable[[Any], JsonValue]]] = {
    "principal": _plain,
    "now_ms": lambda value: value,
    "zones": asdict,
    "labels": lambda labels: sorted(labels),  # noqa: PLW0108 (typed for any)
    "released": lambda released: [{**asdict(each), "roles": list(each.roles)} for each in released],
    "origins": lambda origin: origin.to_json(),
    "history": _watch_json,
    "usage": lambda used: used,
    "approvals": lambda approvals: [_approval_json(each) for each in approvals],
    "estimate": lambda amount: amount,
}


def _approval_json(approval: Approval) -> JsonValue:
    consents = [{**asdict(consent), "roles": list(consent.roles)} for consent in approval.consents]
    return {**asdict(approval), "consents": consents}


def facts_to_json(facts: Facts) -> dict[str, JsonValue]:
    """Returns all facts that were given and can be written down."""
    read: dict[tuple[str, str], object] = {("released", ""): facts.released, ("approvals", ""): facts.approvals}
    if facts.now_ms is not None:
        read["now_ms", ""] = facts.now_ms
    labels = facts.run_labels()
    if labels is not None:
        read["labels", ""] = labels
    history = facts.history.watches if isinstance(facts.history, HistoryFacts) else {}
    estimate = {} if facts.estimate is None else asdict(facts.estimate)
    members: dict[str, Mapping[str, object]] = {
        "principal": facts.principal,
        "zones": facts.zones,
        "origins": facts.origins or {},
        "history": history,
        "usage": facts.usage or {},
        "estimate": {unit: amount for unit, amount in estimate.items() if amount is not None},
    }
    for member, values in members.items():
        read.update({(member, name): value for name, value in values.items()})
    recorded = read_to_json(read)
    empty = {"history": facts.history, "usage": facts.usage, "origins": facts.origins}
    for member, value in empty.items():
        if isinstance(value, HistoryFacts | Mapping):
            recorded.setdefault(member, {})  # given, and empty, is not the same as not given
    return recorded


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in value):
        raise FactsMalformed(f"{value!r} is no list of names")
    return tuple(value)


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise FactsMalformed(f"{what} is an object")
    return value


def _list(value: object, what: str) -> Iterable[Any]:
    if not isinstance(value, list | tuple):
        raise FactsMalformed(f"{what} is a list")
    return value


def _whole(value: object, what: str) -> int:
    if type(value) is not int:
        raise FactsMalformed(f"{what} is a whole number")
    return value


def _watch(value: object, name: str) -> Any:
    if value is None:
        return UNKNOWN
    if isinstance(value, str):
        return value
    number = number_of(value)
    if isinstance(number, Unknown):
        raise FactsMalformed(f"history.{name} is a number")
    return number


def _approval(value: object) -> Approval:
    fields = dict(_object(value, "an approval"))
    consents = tuple(
        Consent(**{**_object(each, "a consent"), "roles": _names(each.get("roles", ()))})
        for each in _list(fields.pop("consents", ()), "consents")
    )
    return Approval(**fields, consents=consents)


def _history(value: object) -> Any:
    if isinstance(value, Mapping):
        return HistoryFacts({name: _watch(each, name) for name, each in _object(value, "history").items()})
    return tuple(_list(value, "history"))


_READERS: Final[Mapping[str, Callable[[Any], object]]] = {
    "principal": lambda value: dict(_object(value, "principal")),
    "now_ms": lambda value: _whole(value, "now_ms"),
    "zones": lambda value: {zone: LocalTime(**_object(each, zone)) for zone, each in _object(value, "zones").items()},
    "labels": lambda value: frozenset(_names(value)),
    "released": lambda value: tuple(
        Release(**{**_object(each, "a release"), "roles": _names(each.get("roles", ()))})
        for each in _list(value, "released")
    ),
    "origins": lambda value: {path: Origin.from_json(each) for path, each in _object(value, "origins").items()},
    "history": _history,
    "usage": lambda value: {
        key: _whole(used, key) for key, used in _object(value, "usage").items() if used is not None
    },
    "approvals": lambda value: tuple(_approval(each) for each in _list(value, "approvals")),
    "estimate": lambda value: Estimate(**_object(value, "estimate")),
}


def facts_from_json(value: object) -> Facts:
    """Reads facts from JSON.

    Raises:
        FactsMalformed: A member is unknown or of another form.
    """
    members = _object(value, "facts")
    if unknown := members.keys() - _READERS.keys():
        raise FactsMalformed(f"facts have no {', '.join(sorted(unknown))}")
    try:
        return Facts(**{name: _READERS[name](member) for name, member in members.items()})  # type: ignore[arg-type]  # by name
    except (TypeError, AttributeError, OriginInvalid) as error:
        raise FactsMalformed(f"facts have a member of another form: {error}") from None
