"""Which server a command speaks to, with which key, and how it answers: the same for all commands that call the API."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from cli.stack.commands import DataDir
from cli.stack.data_folder import DataFolder, default_path
from cli.stack.errors import NotRunning
from cli.terminal import errors, reported, say
from holdfast.errors import ConfigurationInvalid, HoldfastError, RequestInvalid

if TYPE_CHECKING:
    from pydantic import JsonValue

    from sdk import Holdfast

P = ParamSpec("P")

_KEY_VARIABLE = "HOLDFAST_API_KEY"
_TABLE_WIDTH = 1_000

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="HOLDFAST_URL", help="The API. Default: the stack on the data folder."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        help=f"File with the API key. Default: {_KEY_VARIABLE}, else that of the first tenant of the data folder's stack."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass
class Session:
    """One command's way to the server."""

    url: str | None
    key_file: Path | None
    data_dir: Path | None
    as_json: bool
    _client: Holdfast | None = field(default=None, init=False)

    @property
    def client(self) -> Holdfast:
        """The client, made when it is first asked for."""
        if self._client is None:
            from sdk import Holdfast

            self._client = Holdfast(self._find_url(), self._find_key())
        return self._client

    def close(self) -> None:
        """Closes the client."""
        if self._client is not None:
            self._client.close()

    @property
    def folder(self) -> DataFolder:
        """The data folder of the embedded stack."""
        return DataFolder(self.data_dir or default_path())

    def _find_url(self) -> str:
        if self.url is not None:
            return self.url
        return str(_object(running_stack(self.folder)["urls"])["api"])

    def _find_key(self) -> str:
        if self.key_file is not None:
            return _read_key(self.key_file)
        if key := os.environ.get(_KEY_VARIABLE):
            return key.strip()
        if self.url is not None:
            raise ConfigurationInvalid(
                "there is no API key for this server", remedy=f"set {_KEY_VARIABLE}, or name a file with --key-file"
            )
        return _read_key(Path(str(running_stack(self.folder)["bootstrap_key_file"])))

    def show(self, answer: object, lines: Callable[[], Iterable[str]]) -> None:
        """Prints an answer: as JSON if that was asked for, else the lines."""
        if self.as_json:
            say(json.dumps(plain(answer), ensure_ascii=False))
        else:
            for line in lines():
                say(line)

    def show_table(
        self, answers: Sequence[object], headings: Sequence[str], rows: Iterable[Sequence[str]], none: str
    ) -> None:
        """Prints a list: as JSON if that was asked for, else as a table, or a sentence if it is empty."""
        if self.as_json or not answers:
            self.show(list(answers), lambda: [none])
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for heading in headings:
            table.add_column(heading, no_wrap=True)
        for row in rows:
            table.add_row(*row)
        # ids are there to be copied: a line may be longer than the terminal is wide, and nothing is cut
        Console(highlight=False, width=_TABLE_WIDTH).print(table)


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


def _read_key(path: Path) -> str:
    """Reads a key's file: the key alone, or the JSON that the bootstrap wrote, of which the first tenant's key is taken."""
    try:
        text = path.expanduser().read_text(encoding="ascii").strip()
        return str(json.loads(text)["tenant_key"]) if text.startswith("{") else text
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationInvalid(f"cannot read the API key from {path}: {error}") from None


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
def api_errors() -> Iterator[None]:
    """Turns the SDK's errors into those that commands report."""
    from sdk import AnswerUnreadable, HoldfastApiError, NoAnswer

    try:
        yield
    except HoldfastApiError as error:
        raise HoldfastError(
            f"{error.detail} ({error.code}, request {error.request_id})",
            remedy="" if error.remedy in error.detail else error.remedy,
        ) from None
    except NoAnswer as error:
        raise NotRunning(str(error), remedy="is it up? see `holdfast status`, or name another with --url") from None
    except AnswerUnreadable as error:
        raise HoldfastError(str(error), remedy="is --url the address of Holdfast's API?") from None


def with_session(command: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
    """Makes a command of a function: gives it a session from the options that all such commands share."""
    shared = {"url": (Url, None), "key_file": (KeyFile, None), "data_dir": (DataDir, None), "as_json": (AsJson, False)}

    @wraps(command)
    def wrapped(*args: Any, **options: Any) -> None:  # Any: Typer fills them in by the signature below
        session = Session(*(options.pop(name) for name in shared))
        try:
            with reported(), api_errors():
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
