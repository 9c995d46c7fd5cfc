"""A workflow under the run's name that does nothing but remember what it was told, for tests of the API alone."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from holdfast.contracts import names
    from holdfast.contracts.run import ApprovalSignal, InputSignal, ResolutionSignal, StartRun


@workflow.defn(name=names.AGENT_RUN)
class TrivialRun:
    """Waits to be cancelled."""

    def __init__(self) -> None:
        self._heard: list[str] = []

    @workflow.signal(name=names.SIGNAL_INPUT)
    def on_input(self, signal: InputSignal) -> None:
        self._heard.append(f"input {signal.seq} {signal.mode}")

    @workflow.signal(name=names.SIGNAL_APPROVAL)
    def on_approval(self, signal: ApprovalSignal) -> None:
        self._heard.append(f"approval {signal.approval_id}")

    @workflow.signal(name=names.SIGNAL_RESOLUTION)
    def on_resolution(self, signal: ResolutionSignal) -> None:
        self._heard.append(f"resolution {signal.hold_id}")

    @workflow.query(name="heard")
    def heard(self) -> list[str]:
        return self._heard

    @workflow.run
    async def run(self, start: StartRun) -> None:
        await workflow.wait_condition(lambda: False)
