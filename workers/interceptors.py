"""The worker's interceptors: inbound, no executing activity runs without a permit; outbound, no workflow schedules one (LAW 1)."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NoReturn

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    Interceptor,
    StartActivityInput,
    StartChildWorkflowInput,
    StartLocalActivityInput,
    StartNexusOperationInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

with workflow.unsafe.imports_passed_through():
    from activities import execution
    from activities.broker import BrokerClient
    from activities.execution import Execution
    from activities.heartbeat import beating
    from holdfast import permits
    from holdfast.contracts import names
    from holdfast.contracts.execution import ExecuteRequest
    from holdfast.errors import ExecutorStopped, HoldfastError, PermitInvalid, Unavailable
    from holdfast.permits import Permit


def _refuse(error: HoldfastError) -> NoReturn:
    raise ApplicationError(error.message, type=error.code, non_retryable=True) from None


def _bind_ids(input: ExecuteActivityInput) -> None:  # noqa: A002 (the SDK's name)
    """Lets every line that this activity logs name what it is about; an activity has a context of its own."""
    info, request = activity.info(), input.args[0] if input.args else None
    asked = {name: getattr(request, name, None) for name in ("step", "try_number", "hold_id")}
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(
        run_id=info.workflow_id,
        activity_type=info.activity_type,
        **{name: value for name, value in asked.items() if value},
    )


class PermitInterceptor(Interceptor):
    """For executors: redeems the permit of every activity before it runs."""

    def __init__(self, broker: BrokerClient, permit_key: Ed25519PublicKey) -> None:
        self._broker = broker
        self._permit_key = permit_key

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 (the SDK's name)
        """See `temporalio.worker.Interceptor`."""
        return _PermitInbound(next, self._broker, self._permit_key)


class _PermitInbound(ActivityInboundInterceptor):
    def __init__(
        self, following: ActivityInboundInterceptor, broker: BrokerClient, permit_key: Ed25519PublicKey
    ) -> None:
        super().__init__(following)
        self._broker = broker
        self._permit_key = permit_key

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 (the SDK's names and types)
        _bind_ids(input)
        # from the very start, for the broker may be away for longer than an executor may be silent
        async with beating():
            try:
                execution.enter(await self._redeem(input))
                return await super().execute_activity(input)
            except HoldfastError as error:
                _refuse(error)
            except asyncio.CancelledError:
                if not execution.handed_back():
                    raise
                _refuse(ExecutorStopped("the executor was told to stop and has handed this back"))

    async def _redeem(self, input: ExecuteActivityInput) -> Execution:  # noqa: A002 (the SDK's names)
        info = activity.info()
        request = input.args[0] if len(input.args) == 1 else None
        token = request.permit if isinstance(request, ExecuteRequest) else ""
        permit: Permit | None = None
        # INVARIANT (LAW 1): checked here, by signature, and again by the broker, which also records what it refuses; the
        # credential comes only with the redemption
        try:
            try:
                permit = permits.verify(token, self._permit_key, now_ms=int(time.time() * 1000))
                structlog.contextvars.bind_contextvars(
                    tenant_id=permit.tenant_id, step=permit.step, try_number=permit.try_number, hold_id=permit.hold_id
                )
            except PermitInvalid:
                await self._broker.redeem(
                    token, None, workflow_id=info.workflow_id or "", activity_type=info.activity_type
                )
                raise
            return await self._broker.redeem(
                token, permit, workflow_id=info.workflow_id or "", activity_type=info.activity_type
            )
        except HoldfastError as error:
            _refuse(error)


class GateInterceptor(Interceptor):
    """For the governor: a workflow may start the gate's local activities, and executing activities with a permit; nothing else."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 (the SDK's name)
        """See `temporalio.worker.Interceptor`."""
        return _LocalInbound(next)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:  # noqa: A002 (the SDK's name)
        """See `temporalio.worker.Interceptor`."""
        return _GateInbound


class _LocalInbound(ActivityInboundInterceptor):
    """Tells Temporal which errors of the gate pass: what is unavailable is tried again, what cannot be is not."""

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 (the SDK's names and types)
        _bind_ids(input)
        try:
            return await super().execute_activity(input)
        except Unavailable as error:
            raise ApplicationError(error.message, type=error.code) from None
        except HoldfastError as error:
            _refuse(error)


class _GateInbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_GateOutbound(outbound))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002 (the SDK's names and types)
        # What a stranger starts by hand may have any arguments, or none: it has to come as far as being refused (rule 5).
        first = input.args[0] if input.args else None
        input.args = [first if isinstance(first, RawValue) else RawValue(Payload())]
        return await super().execute_workflow(input)


class _GateOutbound(WorkflowOutboundInterceptor):
    def start_activity(self, input: StartActivityInput) -> Any:  # noqa: A002 (the SDK's names and types)
        request = input.args[0] if len(input.args) == 1 else None
        known = input.activity in names.EXECUTING_ACTIVITIES.values()
        if not known or not isinstance(request, ExecuteRequest) or not request.permit:
            _refuse(PermitInvalid(f"the activity {input.activity} may not be scheduled without a permit"))
        if input.retry_policy is None or input.retry_policy.maximum_attempts != 1:
            _refuse(PermitInvalid(f"the activity {input.activity} must have one attempt: permits are single-use"))
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> Any:  # noqa: A002 (the SDK's names and types)
        if input.activity not in names.LOCAL_ACTIVITIES:
            _refuse(PermitInvalid(f"{input.activity} is no local activity of the gate"))
        return super().start_local_activity(input)

    async def start_child_workflow(self, input: StartChildWorkflowInput) -> Any:  # noqa: A002 (the SDK's names and types)
        _refuse(PermitInvalid(f"the workflow {input.workflow} may not be started by a run: nobody admitted it"))

    async def start_nexus_operation(self, input: StartNexusOperationInput[Any, Any]) -> Any:  # noqa: A002 (the SDK's names and types)
        _refuse(PermitInvalid("a run may not call another service: no permit goes with it"))
