"""Which server a command speaks to, with which key, and how it answers: the same for all commands that call the API."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from cli import profile_file
from cli.profile_file import LOCAL, Profile
from cli.stack.data_folder import DataFolder, default_path, write_atomically
from cli.stack.errors import NotRunning
from cli.terminal import Refused, errors, note, reported, say
from cli.text import columns, json_line, safe
from holdfast.errors import ConfigurationInvalid, HoldfastError, RequestInvalid

if TYPE_CHECKING:
    from pydantic import JsonValue

    from sdk import Holdfast

P = ParamSpec("P")

_KEY_VARIABLE = "HOLDFAST_API_KEY"
_URL_VARIABLE = "HOLDFAST_URL"
_DATA_DIR_VARIABLE = "HOLDFAST_DATA_DIR"

Url = Annotated[
    str | None, typer.Option("--url", help=f"The server's API. Default: {_URL_VARIABLE}, else the profile's.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        help=f"File with the API key. Default: the profile's, else {_KEY_VARIABLE}, else that of the first tenant of the "
        "data folder's stack."
    ),
]
ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile",
        help="Which server. Default: HOLDFAST_PROFILE, else the current profile, else the stack on the data folder.",
        autocompletion=lambda: [LOCAL, *known_profiles()],
    ),
]
StackFolder = Annotated[
    Path | None,
    typer.Option("--data-dir", help=f"Call the stack on this data folder. Default: {_DATA_DIR_VARIABLE}."),
]
KeyOut = Annotated[
    Path | None,
    typer.Option("--out", help="Write the key into this new file, which only you can read. Default: stdout."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


_PATIENCE_S = 2.0
"""A person at a terminal hears soon that a server is away, and asks again."""


def known_profiles() -> list[str]:
    """Returns the names of profiles, for completion: nothing is said of a broken file there."""
    try:
        return sorted(profile_file.read().by_name)
    except HoldfastError:
        return []


@dataclass(frozen=True, slots=True)
class Server:
    """A server as it was chosen.

    Attributes:
        url: Its address; None: the stack on the data folder.
        profile: The profile that it is of, if it is of one.
        named_by: What has chosen it, for sentences.
    """

    url: str | None
    profile: Profile | None
    named_by: str


@dataclass
class Session:
    """One command's way to the server.

    Attributes:
        operates: Whether the command is the platform operator's: then the data folder's stack has a key for that, too.
    """

    url: str | None
    key_file: Path | None
    data_dir: Path | None
    as_json: bool
    profile: str | None = None
    operates: bool = False
    _client: Holdfast | None = field(default=None, init=False)
    _key_from: str = field(default="", init=False)

    @property
    def client(self) -> Holdfast:
        """The client, made when it is first asked for."""
        if self._client is None:
            from sdk import Holdfast

            server = self.server()
            self._client = Holdfast(self._find_url(server), self._find_key(server), patience_s=_PATIENCE_S)
        return self._client

    def close(self) -> None:
        """Closes the client."""
        if self._client is not None:
            self._client.close()

    @property
    def folder(self) -> DataFolder:
        """The data folder of the embedded stack."""
        named = os.environ.get(_DATA_DIR_VARIABLE)
        return DataFolder(self.data_dir or (Path(named) if named else default_path()))

    @property
    def key_from(self) -> str:
        """Where the key was taken from, for sentences."""
        return self._key_from

    def server(self) -> Server:
        """Chooses the server: options, then the environment, then the current profile, then the stack on this machine.

        Raises:
            BadParameter: Two options name different ones.
            ConfigurationInvalid: There is no such profile, or the address is none.
        """
        if self.profile is not None and (self.url is not None or self.data_dir is not None):
            raise typer.BadParameter("--profile names a server, and so does --url or --data-dir: give one of them")
        if self.url is not None:
            return Server(profile_file.check_url(self.url), None, "--url")
        if self.profile is not None:
            return self._of_profile(self.profile, "--profile")
        if self.data_dir is not None:
            return Server(None, None, "--data-dir")
        if url := os.environ.get(_URL_VARIABLE):
            return Server(profile_file.check_url(url), None, _URL_VARIABLE)
        if name := profile_file.from_environment():
            return self._of_profile(name, "HOLDFAST_PROFILE")
        if os.environ.get(_DATA_DIR_VARIABLE):
            return Server(None, None, _DATA_DIR_VARIABLE)
        return self._of_profile(profile_file.read().current, "the current profile")

    @staticmethod
    def _of_profile(name: str, named_by: str) -> Server:
        if name == LOCAL:
            return Server(None, None, named_by)
        profile = profile_file.read().find(name)
        return Server(profile.url, profile, f"{named_by} {name}")

    def flags(self) -> str:
        """Returns the options that name the same server again, for commands that are printed to be copied."""
        named = {"--url": self.url, "--profile": self.profile, "--data-dir": self.data_dir}
        return "".join(f" {option} {shlex.quote(str(value))}" for option, value in named.items() if value is not None)

    def _find_url(self, server: Server) -> str:
        return server.url if server.url is not None else str(_object(running_stack(self.folder)["urls"])["api"])

    def _find_key(self, server: Server) -> str:
        """A profile's key comes before the environment's: no key goes to a server that it was not meant for."""
        if self.key_file is not None:
            return self._read_key(self.key_file)
        if server.profile is not None and server.profile.key_file is not None:
            return self._read_key(profile_file.check_key_file(server.profile.key_file))
        if key := os.environ.get(_KEY_VARIABLE):
            self._key_from = _KEY_VARIABLE
            return check_key(key.strip(), _KEY_VARIABLE)
        if server.url is not None:
            raise ConfigurationInvalid(
                "there is no API key for this server", remedy=f"set {_KEY_VARIABLE}, or name a file with --key-file"
            )
        return self._read_key(Path(str(running_stack(self.folder)["bootstrap_key_file"])))

    def _read_key(self, path: Path) -> str:
        self._key_from = str(path)
        return _read_key(path, "operator_key" if self.operates else "tenant_key")

    def show(self, answer: object, lines: Callable[[], Iterable[str]]) -> None:
        """Prints an answer: as JSON if that was asked for, else the lines."""
        if self.as_json:
            say(json_line(plain(answer)))
        else:
            for line in lines():
                say(safe(line))

    def show_key(self, answer: Mapping[str, JsonValue], key: str, words: str, out: Path | None) -> None:
        """Shows a new key this once: into a file that only its owner can read, or alone on stdout; words go to stderr.

        Args:
            answer: What `--json` prints, the key with it.
            key: The key.
            words: What was made.
            out: The file, or None for stdout; `check_out` has looked at it before the key was made.
        """
        if out is not None:
            write_atomically(out, key + "\n")
        if self.as_json:
            say(json_line(answer))
            return
        note(words if out is None else f"{words}; it is in {out}")
        if out is None:
            say(key)

    def show_table(
        self, answers: Sequence[object], headings: Sequence[str], rows: Iterable[Sequence[str]], none: str
    ) -> None:
        """Prints a list: as JSON if that was asked for, else as a table, or a sentence if it is empty."""
        if self.as_json or not answers:
            self.show(list(answers), lambda: [none])
            return
        for line in columns([headings, *rows]):
            say(line)


def plain(answer: object) -> JsonValue:
    """Returns answers of the SDK as JSON."""
    from sdk.types import to_json

    if isinstance(answer, Mapping):
        return {str(name): plain(member) for name, member in answer.items()}
    if isinstance(answer, list):
        return [plain(member) for member in answer]
    if answer is None or isinstance(answer, str | int | float | bool):
        return answer
    return to_json(answer)


def running_stack(folder: DataFolder) -> dict[str, JsonValue]:
    """Returns what the stack on this folder says of itself.

    Raises:
        NotRunning: None runs there.
    """
    if folder.running_pid() is None:
        raise NotRunning(
            f"Holdfast does not run on {folder.path}",
            remedy="start it with `holdfast up`, or name another server with --url or --data-dir",
        )
    return folder.read_state()


def _object(value: JsonValue) -> dict[str, JsonValue]:
    assert isinstance(value, dict)  # written by the stack's supervisor
    return value


def _read_key(path: Path, member: str) -> str:
    """Reads a key's file: the key alone, or the JSON that the bootstrap wrote, of which one key is taken."""
    try:
        text = path.expanduser().read_text(encoding="ascii").strip()
        key = str(json.loads(text)[member]) if text.startswith("{") else text
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationInvalid(f"cannot read the API key from {path}: {error}") from None
    return check_key(key, str(path))


def check_out(out: Path | None) -> Path | None:
    """Returns where a new key shall go; a key that was made and cannot be written would be lost.

    Raises:
        RequestInvalid: There is a file already, or none can be written there.
    """
    if out is None:
        return None
    out = out.expanduser().absolute()
    if out.exists():
        raise RequestInvalid(f"{out} is there already", remedy="name another file")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise RequestInvalid(f"no file can be written in {out.parent}", remedy="name another file")
    return out


def check_key(key: str, where: str) -> str:
    """Returns an API key, if it can be one; it is never repeated in a message.

    Raises:
        ConfigurationInvalid: It cannot be sent.
    """
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigurationInvalid(f"{where} holds no API key", remedy="it should hold one line, such as hf_…")
    return key


def read_json_object(file: Path | None, what: str) -> dict[str, JsonValue]:
    """Reads a JSON object from a file, or from standard input.

    Raises:
        RequestInvalid: There is none; what was read is not repeated, for it may be a secret.
    """
    import sys

    if file is None or str(file) == "-":
        if sys.stdin.isatty():
            errors.print(f"{what}: enter a JSON object, then Ctrl-D", markup=False)
        text = sys.stdin.read()
    else:
        try:
            text = file.expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestInvalid(f"cannot read {file}: {error}") from None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RequestInvalid(f"{what} is not a JSON object", remedy='write it like {"name": "value"}')
    return value


@contextmanager
def api_errors(session: Session | None = None) -> Iterator[None]:
    """Turns the SDK's errors into those that commands report."""
    from sdk import AnswerUnreadable, HoldfastApiError, NoAnswer

    try:
        yield
    except HoldfastApiError as error:
        message = f"{error.detail} ({error.code}, request {error.request_id})"
        remedy = _remedy(error.code, session) or ("" if error.remedy in error.detail else error.remedy)
        raise Refused(message, error.code, remedy=remedy) from None
    except NoAnswer as error:
        raise NotRunning(str(error), remedy="is it up? see `holdfast status`, or name another with --url") from None
    except AnswerUnreadable as error:
        raise HoldfastError(str(error), remedy="is --url the address of Holdfast's API?") from None


def _remedy(code: str, session: Session | None) -> str:
    key = f"the key of {session.key_from}" if session is not None and session.key_from else "the key"
    return {
        "auth.not_authenticated": f"{key} is not in force there: name another with --key-file, or make one with "
        "`holdfast keys create`",
        "auth.not_permitted": f"{key} lacks the role: name another with --key-file",
        "budget.insufficient": "see `holdfast caps`, and raise one with `holdfast caps set`; `holdfast estimate` says what "
        "is needed",
    }.get(code, "")


def refuse_options(context: typer.Context) -> None:
    """An option before the subcommand would be lost, and the subcommand might go to another server than was meant."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"options come after `{context.invoked_subcommand}`, not before it")


def with_session(command: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
    """Makes a command of a function: gives it a session from the options that all such commands share."""
    shared: dict[str, tuple[object, object]] = {
        "url": (Url, None),
        "key_file": (KeyFile, None),
        "data_dir": (StackFolder, None),
        "as_json": (AsJson, False),
        "profile": (ProfileName, None),
    }

    @wraps(command)
    def wrapped(*args: Any, **options: Any) -> None:  # Any: Typer fills them in by the signature below
        session = Session(*(options.pop(name) for name in shared))
        try:
            with reported(), api_errors(session):
                command(session, *args, **options)
        finally:
            session.close()

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    parameters = [
        *own,
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in shared.items()
        ),
    ]
    # Typer reads a command's options from its signature.
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions may have it
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped
