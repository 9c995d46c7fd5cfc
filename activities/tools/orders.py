"""Runs `orders.lookup`: one bound, read-only query in the customer's own order database."""

from __future__ import annotations

import json

import asyncpg
from pydantic import SecretStr

from activities.tools.invocation import Credential, ToolInvocation, ToolResult
from holdfast.tools.registry import OrdersLookup

_TIMEOUT_S = 10
_STATEMENT_TIMEOUT_MS = 5_000
_QUERY = """
SELECT tenant, order_id, customer_number, customer_name, customer_email, item, amount_usd_cents, status,
       ordered_on::text AS ordered_on, delivered_on::text AS delivered_on
FROM shop.orders
WHERE tenant = $1 AND order_id = $2
"""


class OrdersCredential(Credential):
    """The vault entry `tool.orders`: `dsn` of a role that may only read."""

    dsn: SecretStr


async def run(call: ToolInvocation) -> ToolResult:
    """Looks up one order.

    The database is told the tenant of the *run*, never the one in the arguments: should policy let another tenant's
    name pass, the table's row-level security still shows nothing (LAW 5).
    """
    dsn = call.read_credential(OrdersCredential).dsn.get_secret_value()
    arguments = OrdersLookup.model_validate(call.arguments)
    await call.outward.begin()
    try:
        connection = await asyncpg.connect(
            dsn,
            timeout=_TIMEOUT_S,
            command_timeout=_TIMEOUT_S,
            server_settings={
                "application_name": "holdfast",
                "default_transaction_read_only": "on",
                "statement_timeout": str(_STATEMENT_TIMEOUT_MS),
                "holdfast.tenant": call.tenant,
            },
        )
        try:
            call.outward.assert_live()
            row = await connection.fetchrow(_QUERY, arguments.tenant, arguments.order_id)
        finally:
            await connection.close(timeout=_TIMEOUT_S)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        return ToolResult.nothing(
            "orders.unavailable", f"the order database does not answer ({type(error).__name__})", retryable=True
        )
    if row is None:
        return ToolResult.answered(
            "orders.not_found",
            f"tenant {arguments.tenant} has no order {arguments.order_id}, or it is not yours to see",
        )
    return ToolResult.done(json.dumps(dict(row), ensure_ascii=False))
