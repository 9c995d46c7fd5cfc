"""What code in a job can ask of the run that it belongs to. Standard library only.

Every call is decided by the run's policy and paid from its budget, as if the model had made it. One request is answered after
another, also those of threads and of forked processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import threading

_LENGTH = struct.Struct("!I")
_REQUEST_MAX = 256 * 1024
_REPLY_MAX = 1024 * 1024
_TURN = "/job/tmp/.turn"

_descriptor = -1
_token = ""
_lock = threading.Lock()


class Refused(Exception):
    """The run refused a request.

    Attributes:
        code: The stable, dotted code of the reason.
        message: The reason in words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Lost(Refused):
    """The connection to the run is gone, and no later request will be answered."""


def tool(name: str, /, **arguments: object) -> object:
    """Calls a tool of the run and returns what it returned.

    Args:
        name: The tool's name.
        **arguments: Its arguments, of what JSON can say.

    Raises:
        Refused: If the run refuses, with the code of the reason; `Lost` if nobody answers any more.
    """
    return _ask("tool", name, arguments)


def emit(channel: str, data: object) -> None:
    """Says something on a channel of the run.

    Args:
        channel: The channel's name.
        data: Anything that JSON can say.

    Raises:
        Refused: As `tool`.
    """
    _ask("emit", channel, {"data": data})


def cite(source: str, /, **details: object) -> object:
    """Names a source of what the job says.

    Args:
        source: What it is.
        **details: Where in it, and whatever else is to be said of it.

    Raises:
        Refused: As `tool`.
    """
    return _ask("cite", source, details)


def _connect(descriptor: int, token: str) -> None:
    global _descriptor, _token
    _descriptor, _token = descriptor, token


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 (as above)
    _lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


def _ask(kind: str, name: str, arguments: dict[str, object]) -> object:
    if _descriptor < 0:
        raise Refused("supervisor.absent", "This job was given no way to ask its run for anything.")
    request = {"token": _token, "kind": kind, "name": name, "arguments": arguments}
    body = json.dumps(request, allow_nan=False).encode()
    if len(body) > _REQUEST_MAX:
        raise Refused("request.too_large", f"A request may have {_REQUEST_MAX} bytes.")
    with _lock:
        turn = os.open(_TURN, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(turn, fcntl.LOCK_EX)  # forked processes have the same connection
            if os.fstat(turn).st_size:
                _give_up()  # who asked before was ended before its reply came, which would be taken for the next one's
                raise Lost("supervisor.lost", "A process of this job was ended while it waited for a reply.")
            os.ftruncate(turn, 1)  # a hole: it takes nothing of a disk that is full
            reply = _exchange(_LENGTH.pack(len(body)) + body)
            os.ftruncate(turn, 0)
        finally:
            os.close(turn)
    refused = reply.get("refused")
    if isinstance(refused, dict):
        raise Refused(refused["code"], refused["message"])
    return reply["value"]


def _exchange(message: bytes) -> dict[str, object]:
    try:
        while message:
            message = message[os.write(_descriptor, message) :]
        size = _LENGTH.unpack(_read(_LENGTH.size))[0]
        reply: dict[str, object] = json.loads(_read(min(size, _REPLY_MAX)))
    except OSError as error:
        raise Lost("supervisor.lost", "The run no longer answers this job.") from error
    except BaseException:
        _give_up()  # a signal came between request and reply: the next request would be given the last one's
        raise
    return reply


def _give_up() -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(_descriptor)) as link:
        link.shutdown(socket.SHUT_RDWR)


def _read(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(_descriptor, size)
        if not part:
            raise ConnectionResetError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
