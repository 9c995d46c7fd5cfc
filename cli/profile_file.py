"""The file of profiles: which servers there are, which one is current. It names key files and never holds a key."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import platformdirs

from cli.stack.data_folder import write_atomically
from holdfast.errors import ConfigurationInvalid

if TYPE_CHECKING:
    import tomlkit

LOCAL: Final = "local"
"""Not a profile: the stack on the data folder of this machine."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PROFILE_KEYS: Final = frozenset({"url", "key_file"})
_OTHERS_MAY_WRITE: Final = 0o022
_OTHERS_MAY_READ: Final = 0o077


@dataclass(frozen=True, slots=True)
class Profile:
    """A server under a short name.

    Attributes:
        key_file: Where its API key lies; None: `HOLDFAST_API_KEY` has to say it.
    """

    name: str
    url: str
    key_file: Path | None


@dataclass(frozen=True, slots=True)
class Profiles:
    """All profiles; `current` is the one that is taken when none is named, or `local`."""

    current: str = LOCAL
    by_name: Mapping[str, Profile] = field(default_factory=dict)

    def find(self, name: str) -> Profile:
        """Returns a profile.

        Raises:
            ConfigurationInvalid: There is none of that name.
        """
        if name in self.by_name:
            return self.by_name[name]
        there = ", ".join(sorted(self.by_name)) or "none"
        raise ConfigurationInvalid(
            f"there is no profile {name!r}; there are: {there}", remedy="see `holdfast profiles list`, or add it"
        )


def folder() -> Path:
    """Returns the user's configuration folder."""
    return platformdirs.user_config_path("holdfast")


def path() -> Path:
    """Returns where the profiles lie."""
    return folder() / "profiles.toml"


def check_name(name: str) -> str:
    """Returns the name of a profile.

    Raises:
        ConfigurationInvalid: It cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationInvalid(
            f"{name!r} is no name of a profile", remedy="use lower-case letters, digits, '.', '-' and '_'"
        )
    if name == LOCAL:
        raise ConfigurationInvalid("`local` is the stack on this machine, and needs no profile")
    return name


def check_url(url: str) -> str:
    """Returns the address of a server.

    Raises:
        ConfigurationInvalid: It is none.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise ConfigurationInvalid(f"{url!r} is no address", remedy="write it like https://holdfast.example:8080")
    return url


def check_key_file(file: Path) -> Path:
    """Returns the path of a key's file, absolute.

    Raises:
        ConfigurationInvalid: It is not there, or others can read it.
    """
    file = file.expanduser().absolute()
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise ConfigurationInvalid(f"cannot read the API key from {file}: {error.strerror}") from None
    if mode & _OTHERS_MAY_READ:
        raise ConfigurationInvalid(
            f"{file} can be read by others (mode {mode & 0o777:o})", remedy=f"chmod go-rwx {file}"
        )
    return file


def read() -> Profiles:
    """Reads all profiles; there may be none.

    Raises:
        ConfigurationInvalid: The file is broken (file and line are named), or others can change it.
    """
    text = _text()
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _broken(str(error)) from None
    if unknown := sorted(value.keys() - {"current", "profiles"}):
        raise _broken(f"`{unknown[0]}` is not known here", _line(text, unknown[0]))
    current, tables = value.get("current", LOCAL), value.get("profiles", {})
    if not isinstance(tables, dict):
        raise _broken("`profiles` is no table", _line(text, "profiles"))
    by_name = {name: _profile(text, name, table) for name, table in tables.items()}
    if not isinstance(current, str) or (current != LOCAL and current not in by_name):
        raise _broken(f"`current` names {current!r}, and there is no such profile", _line(text, "current"))
    return Profiles(current, by_name)


def _text() -> str:
    file = path()
    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(f"cannot read the profiles in {file}: {error}") from None
    if mode & _OTHERS_MAY_WRITE:
        # whoever can write here can have the user's keys sent elsewhere
        raise ConfigurationInvalid(f"{file} can be changed by others", remedy=f"chmod 600 {file}")
    return text


def _profile(text: str, name: str, table: object) -> Profile:
    line = _line(text, name)
    if not isinstance(table, dict):
        raise _broken(f"`profiles.{name}` is no table", line)
    if unknown := sorted(table.keys() - _PROFILE_KEYS):
        raise _broken(f"`{unknown[0]}` is not known in a profile", _line(text, unknown[0], line))
    url, key_file = table.get("url"), table.get("key_file")
    if not isinstance(url, str):
        raise _broken(f"profile {name} has no `url`", line)
    if key_file is not None and not isinstance(key_file, str):
        raise _broken("`key_file` is no text", _line(text, "key_file", line))
    try:
        return Profile(
            check_name(name), check_url(url), None if key_file is None else folder() / Path(key_file).expanduser()
        )
    except ConfigurationInvalid as error:
        raise _broken(error.message, _line(text, "url", line)) from None


def _line(text: str, word: str, after: int = 1) -> int:
    """Returns the first line, from a line on, that has a word as a key or in a heading."""
    for number, line in enumerate(text.split("\n"), 1):
        if number >= after and re.match(rf"\s*(\[.*\b{re.escape(word)}\b|{re.escape(word)}\s*=)", line):
            return number
    return after


def _broken(what: str, line: int | None = None) -> ConfigurationInvalid:
    place = f"{path()}" if line is None else f"{path()}, line {line}"
    return ConfigurationInvalid(f"{place}: {what}", remedy="correct the file, or move it away")


def put(profile: Profile) -> None:
    """Adds a profile, in place of one of the same name."""
    document = _document()
    tables = document.setdefault("profiles", _table())
    tables[profile.name] = {"url": profile.url}
    if profile.key_file is not None:
        tables[profile.name]["key_file"] = str(profile.key_file)
    _write(document)


def use(name: str) -> None:
    """Makes a profile, or `local`, the current one."""
    document = _document()
    document["current"] = name
    _write(document)


def remove(name: str) -> None:
    """Removes a profile; if it is the current one, the stack on this machine takes its place."""
    document = _document()
    del document["profiles"][name]
    if document.get("current") == name:
        document["current"] = LOCAL
    _write(document)


def _document() -> tomlkit.TOMLDocument:
    import tomlkit

    read()  # says what is wrong before anything is changed
    return tomlkit.parse(_text())


def _table() -> tomlkit.items.Table:
    import tomlkit

    return tomlkit.table(is_super_table=True)


def _write(document: tomlkit.TOMLDocument) -> None:
    import tomlkit

    make_folder()
    write_atomically(path(), tomlkit.dumps(document))


def make_folder() -> None:
    """Makes the configuration folder, for its owner only.

    Raises:
        ConfigurationInvalid: It cannot be made.
    """
    try:
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationInvalid(f"cannot make {folder()}: {error.strerror}") from None


def keep_key(name: str, key: str) -> Path:
    """Writes a profile's key into a file of its own, which only its owner can read, and returns where that is."""
    make_folder()
    file = folder() / f"{name}.key"
    file.unlink(missing_ok=True)  # its mode might be another
    write_atomically(file, key + "\n")
    return file


def forget_key(profile: Profile) -> None:
    """Deletes a removed profile's key, if it is one that `keep_key` wrote."""
    kept = folder() / f"{profile.name}.key"
    if profile.key_file == kept:
        kept.unlink(missing_ok=True)


def from_environment() -> str:
    """Returns the profile that the environment names, or nothing."""
    return os.environ.get("HOLDFAST_PROFILE", "")
