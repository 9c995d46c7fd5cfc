"""Runs `account.delete`."""

from __future__ import annotations

import json

from activities.tools.invocation import ToolInvocation, ToolResult
from activities.tools.service import call_service
from holdfast.tools.registry import AccountDelete


async def run(call: ToolInvocation) -> ToolResult:
    """Deletes a customer's account for good."""
    customer = AccountDelete.model_validate(call.arguments).customer
    answer = await call_service(call, "DELETE", f"/accounts/{customer}", None)
    if isinstance(answer, ToolResult):
        return answer
    return ToolResult.done(json.dumps({"deleted": True, "customer": customer}))
