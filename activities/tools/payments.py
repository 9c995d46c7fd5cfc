"""Runs `payments.refund`."""

from __future__ import annotations

import json

from activities.tools.invocation import ToolInvocation, ToolResult
from activities.tools.service import call_service
from holdfast.tools.registry import PaymentsRefund


async def run(call: ToolInvocation) -> ToolResult:
    """Refunds an order, once for all tries of the step."""
    arguments = PaymentsRefund.model_validate(call.arguments)
    answer = await call_service(call, "POST", "/refunds", arguments.model_dump(mode="json"))
    if isinstance(answer, ToolResult):
        return answer
    asked = (arguments.order_id, arguments.amount_usd_cents)
    if (answer.get("order_id"), answer.get("amount_usd_cents")) != asked or not answer.get("refund_id"):
        return ToolResult.unknown(
            "payments.answer_contradicts", "the payments service confirmed something other than what was asked"
        )
    shown = {name: answer.get(name) for name in ("refund_id", "order_id", "amount_usd_cents", "status")}
    return ToolResult.done(json.dumps(shown, ensure_ascii=False))
