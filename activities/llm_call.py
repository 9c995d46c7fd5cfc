"""`llm.call`: streams a model's answer under a redeemed permit and stores the outcome as its last act."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import orjson
from temporalio import activity

from activities import execution
from activities.model_call import call_model
from holdfast.contracts import names
from holdfast.contracts.execution import ExecuteReply, ExecuteRequest
from holdfast.errors import ExecutorStopped, LeaseLost
from holdfast.failpoint import failpoint
from holdfast.ledger.types import OutcomeView
from holdfast.providers.model import Delta, ModelOutcome
from holdfast.timeline.stream import Publisher


def _view(outcome: ModelOutcome) -> OutcomeView:
    return OutcomeView(
        ok=outcome.ok,
        error_code=outcome.error_code or "",
        retryable=outcome.retryable,
        retry_after_ms=outcome.retry_after_ms,
        cost_class=outcome.cost,
        provider_request_id=outcome.provider_request_id or "",
        simulated=outcome.simulated,
        result=orjson.dumps(outcome.to_json()),
    )


def _withheld(error: LeaseLost) -> ModelOutcome:
    """Returns the outcome of a call whose lease ran out before its first byte was sent."""
    return ModelOutcome(
        ok=False,
        text="",
        thinking="",
        tool_calls=(),
        stop_reason=None,
        usage=None,
        provider_request_id=None,
        error_code=error.code,
        error_message=error.message,
        retryable=True,
        retry_after_ms=None,
        cost="nothing",
        received_output_bytes=0,
        simulated=False,
    )


class LlmCall:
    """The executing activity of `llm.call`."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    @activity.defn(name=names.EXECUTE_LLM_CALL)
    async def execute_llm_call(self, request: ExecuteRequest) -> ExecuteReply:
        """Calls the model once. Retries are the workflow's, each with a hold of its own (rule 2)."""
        current = execution.current()
        assert current.request is not None  # the broker sends the request with every llm.call
        permit, lease = current.permit, current.lease
        tenant_id, run_id = UUID(permit.tenant_id), UUID(permit.run_id)
        partial: list[ModelOutcome] = []

        async def on_delta(delta: Delta) -> None:
            await failpoint("execute.in_stream", permit.kind)
            await self._publisher.delta(
                tenant_id,
                run_id,
                delta.channel,
                f"{delta.channel}.delta",
                {"step": permit.step, "try": permit.try_number, "text": delta.text},
            )

        if permit.try_number > 1:
            await self._publisher.attempt_reset(tenant_id, run_id, permit.step, permit.try_number)
        try:
            outcome = await call_model(
                current.request,
                current.credential,
                current.idempotency_key,
                lease,
                on_delta,
                lease.remaining_ms,
                on_partial=partial.append,
            )
        except LeaseLost as error:
            if not lease.withheld:
                raise  # never begun: settling sees by itself that nothing went outside
            outcome = _withheld(error)
        except BaseException:
            # cancelled: what was received so far was paid for (LAW 4)
            for outcome in partial:
                code = ExecutorStopped.code if execution.handed_back() else outcome.error_code
                await lease.store(_view(replace(outcome, error_code=code)))
            raise
        await lease.store(_view(outcome))
        return ExecuteReply(stored=True)
