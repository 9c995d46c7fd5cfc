"""Temporal's own log lines, in our form: the SDK's core writes through Python's logging instead of to stderr by itself."""

from __future__ import annotations

import logging

from temporalio import activity, workflow
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter


def runtime() -> Runtime:
    """Returns a runtime whose core logs as this process does, and makes the SDK's loggers leave ids out of their sentences.

    They stand in the line as `run_id`, `activity_type` and `attempt` (see `holdfast.logs`). The fields of the core's messages are
    left away: they show what was sent.
    """
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False
    forwarding = LogForwardingConfig(
        logger=logging.getLogger("temporalio.core"),
        append_target_to_name=False,
        prepend_target_on_message=False,
        append_log_fields_to_message=False,
    )
    config = LoggingConfig(filter=TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding=forwarding)
    return Runtime(telemetry=TelemetryConfig(logging=config))
