"""The supervisor of one job: turns what the job asks for into calls of its owner, and executes nothing itself.

The job's process connects once, after it has become the job's uid and before its last layers, to a socket that lies in its own
folder for as long as that takes. Who connected is asked of the kernel before a byte is read. Code that runs later can make no socket;
all it has is that one connection, and only if its owner takes requests. No credential is here (LAW 6).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import json
import os
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from holdfast.errors import HoldfastError
from sandbox.frames import LENGTH, Malformed, Request, parse

Act = Callable[[Request], Awaitable[object]]
"""What a job's owner does with a request: it returns a JSON value. A `HoldfastError` is told to the job as a refusal; any other
exception ends the job, and is raised to whoever submitted it."""

_CREDENTIALS: Final = struct.Struct("3i")
_READ: Final = 65_536
_TEXT_MAX: Final = 4_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a job may ask of its supervisor.

    Attributes:
        frame_bytes: Size of one request.
        reply_bytes: Size of one reply.
        depth: How deeply a request may be nested.
        requests: How many a job may make.
        frame_ms: How long a request may take from its first byte to its last, and a reply to be taken.
    """

    frame_bytes: int = 256 * 1024
    reply_bytes: int = 1024 * 1024
    depth: int = 32
    requests: int = 1_000
    frame_ms: int = 5_000


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as the kernel says."""

    pid: int
    uid: int


def peer_of(link: socket.socket) -> Peer:
    """Returns who connected."""
    pid, uid, _ = _CREDENTIALS.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(pid, uid)


class Door:
    """The socket that a new process connects to. It lies in the process's own folder, and goes when it has been passed."""

    def __init__(self, folder: int, owner: int | None) -> None:
        """Opens it.

        Args:
            folder: Descriptor of the job's tmpfs.
            owner: The uid that may connect, if it is not this process's own.
        """
        self.path = f"/proc/self/fd/{folder}/tmp/door"  # noqa: S108 (of the job's own folder)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.bind(self.path)
            if owner is not None:
                os.chown("tmp/door", owner, owner, dir_fd=folder, follow_symlinks=False)
            self._socket.listen(4)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def admit(self, is_job: Callable[[Peer], bool], *, checked: bool = True) -> socket.socket | None:
        """Returns the connection of whom it is for; every other is closed, and not a byte of it was read."""
        found = None
        while found is None:
            try:
                link = self._socket.accept()[0]
            except BlockingIOError:
                return None
            if checked and not is_job(peer_of(link)):
                link.close()
            else:
                link.setblocking(False)
                found = link
        return found

    def close(self) -> None:
        """Closes it; whoever still waits before it is refused."""
        self._socket.close()


class _CutOff(Exception):
    """The connection is closed, and why."""


class Supervisor:
    """The end of one job's connection that is its owner's."""

    def __init__(
        self, link: socket.socket, act: Act, on_failed: Callable[[], None], bounds: Bounds, *, checked: bool = True
    ) -> None:
        """Makes one that does not serve yet.

        Args:
            link: The connection, of which it was asked who is at its other end.
            act: What is called with each request.
            on_failed: Called if `act` fails other than by refusing.
            bounds: What the job may ask.
            checked: Whether token and bounds are looked at; without it this layer is missing, as tests of the canary have it.
        """
        self.token = secrets.token_urlsafe(24)
        self.calls = 0
        self.cut_off = ""
        self._link = link
        self._act = act
        self._on_failed = on_failed
        self._bounds = bounds
        self._checked = checked
        self._buffer = bytearray()
        self._ended = False
        self._failed: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Starts to serve."""
        self._task = asyncio.create_task(self._serve())

    async def end(self, *, cancel: bool = False) -> None:
        """Serves no further request. What is being done for the last one is done to its end (LAW 4), unless it is to be cancelled.

        INVARIANT: nothing is being done any more when this ends. Who is cancelled meanwhile has that cancelled, and waits for it.

        Args:
            cancel: Whether it is to be cancelled.

        Raises:
            Exception: What `act` failed with, other than by refusing.
        """
        self._ended = True
        if self._task is None:
            return
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RD)  # wakes it where it waits for a request
        if cancel:
            self._task.cancel()
        given_up: asyncio.CancelledError | None = None
        while not self._task.done():
            try:
                await asyncio.wait([self._task])
            except asyncio.CancelledError as error:
                if not cancel and given_up is None:  # once: it is not disturbed while it ends
                    self._task.cancel()
                given_up = error
        if given_up is not None:
            raise given_up
        if self._failed is not None and not cancel:
            raise self._failed

    async def _serve(self) -> None:
        try:
            while not self._ended and (body := await self._frame()) is not None:
                await self._answer(body)
        except _CutOff as why:
            self.cut_off = str(why)
        except (ConnectionResetError, BrokenPipeError):
            return  # the job has ended
        except Exception as error:  # noqa: BLE001 (raised again by `end`; a job whose owner hears nothing more does not go on: LAW 7)
            self._fail(error)
        finally:
            self._link.close()

    async def _frame(self) -> bytes | None:
        """Returns the next request's bytes; nothing if the job closed its end."""
        if not self._buffer and not await self._more():
            return None
        if not self._complete():
            try:
                async with asyncio.timeout(self._bounds.frame_ms / 1000):
                    while not self._complete():
                        if not await self._more():
                            return None
            except TimeoutError:
                raise _CutOff("it sent half a request, and then nothing") from None
        size = LENGTH.unpack_from(self._buffer)[0]
        body = bytes(self._buffer[LENGTH.size : LENGTH.size + size])
        del self._buffer[: LENGTH.size + size]
        return body

    def _complete(self) -> bool:
        if len(self._buffer) < LENGTH.size:
            return False
        size: int = LENGTH.unpack_from(self._buffer)[0]
        if size > self._bounds.frame_bytes and self._checked:
            raise _CutOff("it sent a request that is larger than one may be")
        return len(self._buffer) >= LENGTH.size + size

    async def _more(self) -> bool:
        """Takes what has come, as soon as something has."""
        while True:
            try:
                part, _, flags, _ = self._link.recvmsg(_READ)
            except BlockingIOError:
                await _ready(self._link, writing=False)
                continue
            if flags & socket.MSG_CTRUNC:  # there was no room for descriptors, so that none came here
                raise _CutOff("it sent descriptors")
            self._buffer += part
            return bool(part)

    async def _answer(self, body: bytes) -> None:
        try:
            token, request = parse(body, self.calls + 1, self._bounds.depth)
        except Malformed as error:
            raise _CutOff(f"it sent what is no request: {error}") from error
        if self._checked and not hmac.compare_digest(token.encode(), self.token.encode()):
            raise _CutOff("it sent a request without the token of its run")
        if self.calls >= self._bounds.requests and self._checked:
            raise _CutOff("it made more requests than it may")
        if self._ended:
            return  # it came too late: nobody waits for an answer, so nothing is done
        self.calls += 1
        try:
            reply = self._encode({"value": await self._act(request)})
        except HoldfastError as error:
            reply = self._encode({"refused": {"code": error.code, "message": str(error)[:_TEXT_MAX]}})
        except Exception as error:  # noqa: BLE001 (raised again by `end`; meanwhile the job gets no answer to go on with)
            self._fail(error)
            return
        await self._send(reply)

    def _fail(self, error: Exception) -> None:
        self._failed = error
        self._ended = True
        self._on_failed()

    def _encode(self, reply: dict[str, object]) -> bytes:
        body = json.dumps(reply, allow_nan=False).encode()
        if len(body) > self._bounds.reply_bytes:
            too_large = {"code": "request.too_large", "message": "The reply is larger than a job may be sent."}
            body = json.dumps({"refused": too_large}).encode()
        return LENGTH.pack(len(body)) + body

    async def _send(self, reply: bytes) -> None:
        view = memoryview(reply)
        try:
            async with asyncio.timeout(self._bounds.frame_ms / 1000):
                while view:
                    try:
                        view = view[self._link.send(view) :]
                    except BlockingIOError:
                        await _ready(self._link, writing=True)
        except TimeoutError:
            raise _CutOff("it did not take a reply") from None


async def _ready(link: socket.socket, *, writing: bool) -> None:
    """Waits until something can be read, or written."""
    loop, waiting = asyncio.get_running_loop(), asyncio.Event()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(link.fileno(), waiting.set)
    try:
        await waiting.wait()
    finally:
        remove(link.fileno())


def intrude(door: Door) -> socket.socket:
    """Connects to a door from where nobody has any business to: the canary's attack."""
    link = socket.socket(socket.AF_UNIX)
    link.setblocking(False)
    link.connect(door.path)
    return link


def was_let_in(link: socket.socket) -> bool:
    """Says whether a connection is still open after it should have been refused."""
    with link:
        try:
            return bool(link.recv(1))
        except OSError as error:
            return error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)
