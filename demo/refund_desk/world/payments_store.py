"""What the payments service remembers: refunds, accounts, and the first answer under every idempotency key."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from holdfast_verdict.canonical import JsonValue

_SCHEMA = """
CREATE TABLE IF NOT EXISTS refunds (
    refund_id INTEGER PRIMARY KEY AUTOINCREMENT, idempotency_key TEXT NOT NULL, order_id TEXT NOT NULL,
    amount_usd_cents INTEGER NOT NULL, reason TEXT NOT NULL, created_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS deleted_accounts (customer TEXT PRIMARY KEY, deleted_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    idempotency_key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL,
    requests INTEGER NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An HTTP status and a JSON body."""

    status: int
    body: dict[str, JsonValue]


class PaymentsStore:
    """A SQLite file; an effect and its answer are one transaction, on disk before anybody hears of it."""

    def __init__(self, path: Path, customers: frozenset[str]) -> None:
        self._customers = customers
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def refund(self, key: str, order_id: str, amount_usd_cents: int, reason: str) -> StoredAnswer:
        """Refunds once for a key."""

        def effect() -> StoredAnswer:
            number = self._database.execute(
                "INSERT INTO refunds (idempotency_key, order_id, amount_usd_cents, reason, created_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (key, order_id, amount_usd_cents, reason, datetime.now(UTC).isoformat()),
            ).lastrowid
            return StoredAnswer(
                201,
                {
                    "refund_id": f"re_{number:05d}",
                    "order_id": order_id,
                    "amount_usd_cents": amount_usd_cents,
                    "status": "succeeded",
                },
            )

        return self._once(key, ["refund", order_id, amount_usd_cents, reason], effect)

    def delete_account(self, key: str, customer: str) -> StoredAnswer:
        """Deletes an account once."""

        def effect() -> StoredAnswer:
            if customer not in self._customers or self._deleted(customer):
                return StoredAnswer(404, {"detail": f"there is no account {customer}"})
            self._database.execute(
                "INSERT INTO deleted_accounts VALUES (?, ?)", (customer, datetime.now(UTC).isoformat())
            )
            return StoredAnswer(200, {"deleted": True, "customer": customer})

        return self._once(key, ["delete", customer], effect)

    def refunds(self) -> list[dict[str, JsonValue]]:
        """Returns all refunds, with how many requests came under the key of each."""
        rows = self._database.execute(
            "SELECT refund_id, idempotency_key, order_id, amount_usd_cents, reason, created_at, requests"
            " FROM refunds JOIN answers USING (idempotency_key) ORDER BY refund_id"
        )
        return [{**dict(row), "refund_id": f"re_{row['refund_id']:05d}"} for row in rows]

    def accounts(self) -> list[str]:
        """Returns the customers who still have an account."""
        return sorted(customer for customer in self._customers if not self._deleted(customer))

    def _deleted(self, customer: str) -> bool:
        found = self._database.execute("SELECT 1 FROM deleted_accounts WHERE customer = ?", (customer,))
        return found.fetchone() is not None

    def _once(self, key: str, request: list[JsonValue], effect: Callable[[], StoredAnswer]) -> StoredAnswer:
        fingerprint = hashlib.sha256(json.dumps(request).encode()).hexdigest()
        with self._transaction():
            first = self._database.execute("SELECT * FROM answers WHERE idempotency_key = ?", (key,)).fetchone()
            if first is None:
                answer = effect()
                self._database.execute(
                    "INSERT INTO answers VALUES (?, ?, ?, ?, 1)",
                    (key, fingerprint, answer.status, json.dumps(answer.body)),
                )
                return answer
            self._database.execute("UPDATE answers SET requests = requests + 1 WHERE idempotency_key = ?", (key,))
            if first["fingerprint"] != fingerprint:
                return StoredAnswer(422, {"detail": "this Idempotency-Key was used for another request"})
            return StoredAnswer(first["status"], json.loads(first["body"]))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
