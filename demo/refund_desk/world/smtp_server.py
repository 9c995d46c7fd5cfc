"""A mail server that delivers nothing: what it accepts lies in a folder, one `.eml` file a message."""

from __future__ import annotations

import asyncio
import os
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from demo.refund_desk.world.faults import Faults

LOOPBACK = "127.0.0.1"


class MailServer:
    """Takes mail on loopback.

    Args:
        folder: Where accepted messages go.
        faults: What goes wrong.
        port: Port, 0 for a free one.
    """

    def __init__(self, folder: Path, faults: Faults, port: int = 0) -> None:
        self._folder = folder
        self._faults = faults
        self._server: asyncio.Server | None = None
        self.port = port

    async def start(self) -> None:
        """Listens."""
        self._folder.mkdir(parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        handler = _Handler(self._folder, self._faults)
        self._server = await loop.create_server(
            lambda: SMTP(handler, hostname="mail.acme.example", ident="mail", loop=loop), LOOPBACK, self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


def stored_mails(folder: Path) -> list[EmailMessage]:
    """Returns the accepted messages in the order in which they came."""
    parser = BytesParser(policy=policy.default)
    return [parser.parsebytes(path.read_bytes()) for path in sorted(folder.glob("*.eml"))]


class _Handler:
    """The hooks that aiosmtpd calls by name."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        self._folder = folder
        self._faults = faults

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        fault = self._faults.take("mail")
        if fault is not None and fault.kind == "error_before":
            return "554 5.7.1 refused"
        if fault is not None and fault.kind == "rate_limited":
            return "451 4.7.1 come back later"
        self._store(envelope)
        if await self._faults.after_effect(fault) and isinstance(server.transport, asyncio.Transport):
            server.transport.abort()
        return "250 2.0.0 accepted"

    def _store(self, envelope: Envelope) -> None:
        number = len(list(self._folder.glob("*.eml"))) + 1
        recipients = ", ".join(str(recipient) for recipient in envelope.rcpt_tos)
        content = envelope.original_content or b""
        head = f"Return-Path: <{envelope.mail_from}>\r\nDelivered-To: {recipients}\r\n".encode()
        draft = self._folder / f"{number:06d}.draft"
        with draft.open("wb") as file:
            file.write(head + content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(draft.with_suffix(".eml"))
