"""Sealed values: in a record, a personal argument stands as a salted hash; its clear text and its salt are kept apart from it.

Which arguments are personal, the tool's schema says. The action that is decided, approved and executed has them in clear, and has the
salt, so that its digest is a salted hash as well. Its record has neither. Whoever is given both can put them back and sees that
they are the ones that were decided on; once they are erased, nobody can guess them from what stays.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

from holdfast_verdict.canonical import JsonValue, canonical_bytes
from holdfast_verdict.canonical import digest as digest_of

RECORD_VERSION: Final = 2
"""Version of part A of a record with sealed values."""
PERSONAL: Final = "x-holdfast-personal"
"""Keyword by which a schema says that a value is personal or secret; JSON Schema's own `writeOnly` says the same."""
MARK: Final = "$sealed"
SALT: Final = "salt"
SALT_BYTES: Final = 32
_EACH: Final = "*"

Pattern = tuple[str, ...]
"""Where personal values stand: names of fields, `*` for each member of a list."""


class NotThese(ValueError):
    """Values or a salt are not those that a record was made with."""


class Sealed(NamedTuple):
    """An action as its record has it.

    Attributes:
        value: The action without salt and personal values.
        values: What was taken out, by JSON pointer into the arguments (RFC 6901).
    """

    value: dict[str, JsonValue]
    values: dict[str, JsonValue]


def is_personal(schema: Mapping[str, Any]) -> bool:  # Any: JSON
    """Says whether a schema marks its value as personal or secret."""
    return schema.get(PERSONAL) is True or schema.get("writeOnly") is True


def personal_in(schema: Mapping[str, Any]) -> tuple[Pattern, ...]:  # Any: JSON
    """Returns where a schema of arguments marks personal values: below `properties` and `items`."""
    if is_personal(schema):
        return tuple((name,) for name in schema.get("properties", {}))
    return tuple(_marked(schema, ()))


def _marked(schema: Mapping[str, Any], path: Pattern) -> Iterator[Pattern]:  # Any: JSON
    if path and is_personal(schema):
        yield path
        return
    named = schema.get("properties")
    for name, inner in named.items() if isinstance(named, Mapping) else ():
        if isinstance(inner, Mapping):
            yield from _marked(inner, (*path, name))
    items = schema.get("items")
    if isinstance(items, Mapping):
        yield from _marked(items, (*path, _EACH))


def marks_in(schema: Mapping[str, Any]) -> int:  # Any: JSON
    """Returns how many marks there are where `personal_in` looks."""
    inner = [*_members(schema, "properties"), *([schema["items"]] if isinstance(schema.get("items"), Mapping) else [])]
    return is_personal(schema) + sum(marks_in(each) for each in inner)


def _members(schema: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:  # Any: JSON
    members = schema.get(name)
    return [each for each in members.values() if isinstance(each, Mapping)] if isinstance(members, Mapping) else []


def commitment(salt: bytes, pointer: str, value: JsonValue) -> str:
    """Returns the salted hash that stands for a value in the record, hex."""
    own = hmac.digest(salt, pointer.encode(), "sha256")
    # in a list: canonical JSON is of a container
    return hashlib.sha256(own + canonical_bytes([value])).hexdigest()


def seal(action: Mapping[str, JsonValue], patterns: tuple[Pattern, ...], salt: bytes) -> Sealed:
    """Returns an action as its record has it, and what was taken out of it."""
    values: dict[str, JsonValue] = {}
    args: Any = action["args"]  # Any: JSON
    for pattern in patterns:
        args = _sealed(args, pattern, "", salt, values)
    return Sealed({**{name: member for name, member in action.items() if name != SALT}, "args": args}, values)


def _sealed(value: Any, pattern: Pattern, pointer: str, salt: bytes, values: dict[str, JsonValue]) -> Any:  # Any: JSON
    if not pattern:
        if pointer in values:
            return value  # two patterns lead here, and one has sealed it
        values[pointer] = value
        return {MARK: commitment(salt, pointer, value)}
    name, rest = pattern[0], pattern[1:]
    if name == _EACH and isinstance(value, list | tuple):
        return [_sealed(member, rest, f"{pointer}/{index}", salt, values) for index, member in enumerate(value)]
    if isinstance(value, Mapping) and name in value:
        return {**value, name: _sealed(value[name], rest, f"{pointer}/{_escaped(name)}", salt, values)}
    return value


def unseal(
    sealed: Mapping[str, JsonValue], pointers: list[str], digest: bytes, salt: bytes, values: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """Puts values and salt back into an action.

    Args:
        sealed: The action as its record has it.
        pointers: Where values were taken out, as the record says.
        digest: Digest of the action that was decided on.
        salt: The salt.
        values: The values by pointer.

    Raises:
        NotThese: They are not those of this record.
    """
    if sorted(values) != sorted(pointers):
        raise NotThese("these are not the values that were taken out of it")
    args: Any = sealed["args"]  # Any: JSON
    for pointer in pointers:
        args = _put(args, steps_of(pointer), {MARK: commitment(salt, pointer, values[pointer])}, values[pointer])
    whole = {**sealed, "args": args, SALT: salt.hex()}
    if digest_of(whole) != digest:
        raise NotThese("with these values and this salt it is another action than the one that was decided on")
    return whole


def _put(container: Any, steps: tuple[str, ...], mark: Mapping[str, str], value: JsonValue) -> Any:  # Any: JSON
    if not steps:
        if container != mark:
            raise NotThese("a value does not hash to what stands in its place")
        return value
    name, rest = steps[0], steps[1:]
    if isinstance(container, list) and name.isdecimal() and int(name) < len(container):
        place = int(name)
        return [*container[:place], _put(container[place], rest, mark, value), *container[place + 1 :]]
    if isinstance(container, dict) and name in container:
        return {**container, name: _put(container[name], rest, mark, value)}
    raise NotThese("a value was taken out of a place that it does not have")


def steps_of(pointer: str) -> tuple[str, ...]:
    """Returns the steps of a JSON pointer."""
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def opened(part_a: Mapping[str, Any], salt: bytes, values: Mapping[str, JsonValue]) -> dict[str, Any]:  # Any: JSON
    """Returns part A of a record with its values put back, as engines read it.

    Raises:
        NotThese: They are not those of this record.
    """
    pointers = part_a["sealed"]["paths"]
    whole = unseal(part_a["action"], pointers, bytes.fromhex(part_a["action_digest"]), salt, values)
    return {**{name: member for name, member in part_a.items() if name != "sealed"}, "v": 1, "action": whole}


class Withheld(BaseException):  # no Exception: nobody on the way may take it for an error of the policy's, which denies
    """An evaluation asked for a value that is not there any more.

    Attributes:
        pointer: Where it stood.
    """

    def __init__(self, pointer: str) -> None:
        super().__init__(pointer)
        self.pointer = pointer


class _Gone:
    """In the place of a value that is not there any more."""

    __slots__ = ("pointer",)

    def __init__(self, pointer: str) -> None:
        self.pointer = pointer


class _Object(dict[str, Any]):  # Any: JSON
    """An object that tells when a value is read that is not there any more."""

    def __getitem__(self, name: str) -> Any:  # Any: JSON
        return _there(super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:  # Any: JSON
        return _there(super().get(name, default))

    def values(self) -> Any:  # Any: a list in place of a view
        return [_there(member) for member in super().values()]

    def items(self) -> Any:  # Any: as above
        return [(name, _there(member)) for name, member in super().items()]

    def __eq__(self, other: object) -> bool:
        return dict(self.items()) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # as a dict has none


class _List(list[Any]):  # Any: JSON
    """A list that does the same."""

    def __getitem__(self, place: Any) -> Any:  # Any: an index or a slice
        found = super().__getitem__(place)
        return [_there(member) for member in found] if isinstance(place, slice) else _there(found)

    def __iter__(self) -> Iterator[Any]:  # Any: JSON
        return (_there(member) for member in super().__iter__())

    def __contains__(self, value: object) -> bool:
        return any(member == value for member in self)

    def __eq__(self, other: object) -> bool:
        return list(iter(self)) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # as a list has none


def _there(value: Any) -> Any:  # Any: JSON
    if isinstance(value, _Gone):
        raise Withheld(value.pointer)
    return value


def told(args: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Returns the arguments that can be read whole: those in which nothing is sealed.

    Whoever asks for another one, of an action of the past, finds that it is not there, and so that nobody can tell (LAW 7). A salted
    hash in its place would be taken for a value, which is like no other.
    """
    return {name: value for name, value in args.items() if not _is_sealed(value)}


def _is_sealed(value: JsonValue) -> bool:
    if isinstance(value, Mapping):
        return MARK in value or any(map(_is_sealed, value.values()))
    return isinstance(value, list | tuple) and any(map(_is_sealed, value))


def guarded(args: Mapping[str, JsonValue], pointers: list[str]) -> dict[str, Any]:  # Any: JSON
    """Returns arguments whose sealed values raise `Withheld` as soon as anybody reads them.

    Raises:
        NotThese: There is no sealed value in such a place.
    """
    whole: Any = args  # Any: JSON
    for pointer in pointers:
        whole = _gone(whole, steps_of(pointer), pointer)
    return cast("dict[str, Any]", _watching(whole))


def _gone(container: Any, steps: tuple[str, ...], pointer: str) -> Any:  # Any: JSON
    if not steps:
        if not isinstance(container, dict) or container.keys() != {MARK}:
            raise NotThese("no sealed value stands where one was taken out")
        return _Gone(pointer)
    name, rest = steps[0], steps[1:]
    if isinstance(container, list) and name.isdecimal() and int(name) < len(container):
        place = int(name)
        return [*container[:place], _gone(container[place], rest, pointer), *container[place + 1 :]]
    if isinstance(container, dict) and name in container:
        return {**container, name: _gone(container[name], rest, pointer)}
    raise NotThese("a value was taken out of a place that it does not have")


def _watching(value: Any) -> Any:  # Any: JSON
    if isinstance(value, dict):
        return _Object({name: _watching(member) for name, member in value.items()})
    if isinstance(value, list):
        return _List([_watching(member) for member in value])
    return value
