"""The mail server and the payments service together, with one control for both."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from demo.refund_desk.world.faults import Faults
from demo.refund_desk.world.payments_server import PaymentsServer
from demo.refund_desk.world.payments_store import PaymentsStore
from demo.refund_desk.world.smtp_server import LOOPBACK, MailServer
from holdfast_verdict.canonical import JsonValue

INBOX: Final = Path(__file__).resolve().parent.parent / "mails"
SUPPORT_ADDRESS: Final = "support@acme.example"
CUSTOMERS: Final = frozenset({f"C-22{number:02d}" for number in range(1, 13)})


class World:
    """The outside world of one demo or test, as an asynchronous context manager.

    Args:
        folder: Where it remembers; a new start in the same folder goes on where the last one ended.
        smtp_port: Port of the mail server, 0 for a free one.
        payments_port: Port of the payments service, 0 for a free one.
    """

    def __init__(self, folder: Path, *, smtp_port: int = 0, payments_port: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.api_key = _kept_key(folder / "payments.key")
        self.sent = folder / "sent"
        self.faults = Faults()
        self.store = PaymentsStore(folder / "payments.sqlite", CUSTOMERS)
        self.mail = MailServer(self.sent, self.faults, smtp_port)
        self.payments = PaymentsServer(self.store, self.faults, self.api_key, payments_port)

    async def __aenter__(self) -> Self:
        """Starts both servers."""
        await self.mail.start()
        await self.payments.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops both servers."""
        await self.payments.stop()
        await self.mail.stop()
        self.store.close()

    def credentials(self) -> dict[str, dict[str, JsonValue]]:
        """Returns the vault entries by which the tools reach this world; `tool.orders` is `create_orders`' to give."""
        service: dict[str, JsonValue] = {"base_url": self.payments.base_url, "api_key": self.api_key}
        return {
            "tool.mail": {
                "smtp_host": LOOPBACK,
                "smtp_port": self.mail.port,
                "username": None,
                "password": None,
                "from_address": SUPPORT_ADDRESS,
                "maildir": str(INBOX),
            },
            "tool.payments": service,
            "tool.accounts": dict(service),
        }


def _kept_key(path: Path) -> str:
    """Reads the service's API key, or makes it; nobody else may read it."""
    if path.exists():
        return path.read_text(encoding="ascii")
    key = secrets.token_urlsafe(24)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(key)
    return key
