"""Names under which workflows and activities are registered, and the task queues they run on."""

from __future__ import annotations

AGENT_RUN = "AgentRun"

GOVERNOR_QUEUE = "holdfast-governor"
LLM_QUEUE = "holdfast-llm"
TOOL_QUEUE = "holdfast-tool"
CODE_QUEUE = "holdfast-code"

# Local activities of the governor: on no task queue, so nobody can schedule one from outside.
LOAD_RUN = "load_run"
ADOPT_INPUTS = "adopt_inputs"
RESERVE = "reserve"
SETTLE = "settle"
WRITE_REFUSAL = "write_refusal"
VERIFY_APPROVAL = "verify_approval"
MARK_RUN = "mark_run"
FINISH_RUN = "finish_run"
ANSWER_CODE = "answer_code"
LOCAL_ACTIVITIES = frozenset(
    {LOAD_RUN, ADOPT_INPUTS, RESERVE, SETTLE, WRITE_REFUSAL, VERIFY_APPROVAL, MARK_RUN, FINISH_RUN, ANSWER_CODE}
)

# Executing activities: they take a permit, and nothing else names what they do (LAW 1).
EXECUTE_LLM_CALL = "execute_llm_call"
EXECUTE_TOOL_CALL = "execute_tool_call"
EXECUTE_CODE = "execute_code"
EXECUTING_ACTIVITIES = {"llm.call": EXECUTE_LLM_CALL, "tool.call": EXECUTE_TOOL_CALL, "code.exec": EXECUTE_CODE}
EXECUTING_QUEUES = {"llm.call": LLM_QUEUE, "tool.call": TOOL_QUEUE, "code.exec": CODE_QUEUE}

QUEUE_WAIT_MS = 300_000
"""How long an execution may wait for a free executor, in milliseconds; its hold outlasts that."""

REDEEM_WAIT_MS = 30_000
"""How long an executor may wait for the broker, in milliseconds, before its lease begins."""

SIGNAL_INPUT = "input"
SIGNAL_APPROVAL = "approval"
SIGNAL_RESOLUTION = "resolution"
UPDATE_CODE_CALL = "code_call"

SEARCH_ATTRIBUTES = {
    "tenant": "HoldfastTenant",
    "project": "HoldfastProject",
    "user": "HoldfastUser",
    "agent": "HoldfastAgent",
    "role": "HoldfastRole",
    "status": "HoldfastStatus",
}
"""Search attributes of a run; Temporal never encrypts these, so they carry names only."""
