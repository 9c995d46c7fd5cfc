"""Workflow code and what checks it, the same for the governor and for a replay: workflows, interceptors, sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from temporalio.worker import Interceptor
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from workers.interceptors import GateInterceptor
from workflows.agent_run import AgentRun

WORKFLOWS: Sequence[type] = (AgentRun,)

PASSED_THROUGH = (
    "holdfast",
    "holdfast_verdict",
    "workflows",
    "activities",
    "pydantic",
    "pydantic_core",
    "annotated_types",
)
"""Modules that the workflow sandbox need not load again: types, and code that workflows do not call."""


def interceptors() -> Sequence[Interceptor]:
    """Returns the interceptors of workflows."""
    return [GateInterceptor()]


def checking_runner() -> SandboxedWorkflowRunner:
    """Returns the sandbox in which histories are replayed: it finds workflow code that is not deterministic.

    The governor runs without it: the code is the same, every change of it is replayed in this sandbox before it ships, and the
    sandbox would take a sixth of the governor's time.
    """
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH))
