"""Metrics of a tenant's audit side, in the text form that Prometheus reads. All are read from PostgreSQL: they survive restarts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from api.authentication import Caller, require_reader
from api.context import Parts
from holdfast.audit.counts import AuditCounts, count_decisions, read_counts
from holdfast.database.engine import transaction

router = APIRouter(tags=["log"])

_MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {  # a part of an OpenAPI document
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus's text form"}
}


class _Collected(Collector):
    """The metrics of one answer."""

    def __init__(self, counts: AuditCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        yield from _log(self._counts)
        yield from _witnesses(self._counts)
        yield from _decisions(self._counts)
        yield from _checks(self._counts)


def _log(counts: AuditCounts) -> Iterator[Metric]:
    log = counts.log
    yield CounterMetricFamily("holdfast_log_records", "Records that have their number in the log.", log.size)
    yield CounterMetricFamily("holdfast_log_checkpoints", "Checkpoints that were signed.", counts.checkpoints)
    yield GaugeMetricFamily(
        "holdfast_log_signed_records", "Records that the newest checkpoint is over.", log.checkpoint_size or 0
    )
    signed_at = 0.0 if log.checkpoint_at is None else log.checkpoint_at.timestamp()
    yield GaugeMetricFamily(
        "holdfast_log_checkpoint_timestamp_seconds",
        "When the newest checkpoint was signed, in seconds since 1970; 0: there is none.",
        signed_at,
    )
    yield GaugeMetricFamily("holdfast_log_waiting_records", "Records that wait for their number.", log.waiting)
    yield GaugeMetricFamily(
        "holdfast_log_lag_seconds", "How long the oldest of them has waited; 0: none waits.", (log.lag_ms or 0) / 1000
    )
    yield GaugeMetricFamily("holdfast_log_keys", "Keys that sign the log's checkpoints.", counts.keys)


def _witnesses(counts: AuditCounts) -> Iterator[Metric]:
    taken = CounterMetricFamily("holdfast_log_cosignatures", "Cosignatures that the log has.", labels=["witness"])
    behind = GaugeMetricFamily(
        "holdfast_log_witness_behind_records",
        "Records of the newest checkpoint that a witness has not cosigned.",
        labels=["witness"],
    )
    for witness in counts.witnesses:
        taken.add_metric([witness.name], witness.cosignatures)
        behind.add_metric([witness.name], max(0, (counts.log.checkpoint_size or 0) - witness.size))
    yield taken
    yield behind
    yield _events(
        counts, "cosignature_refused", "holdfast_log_cosignatures_refused", "reason", "Cosignatures not taken."
    )


def _decisions(counts: AuditCounts) -> Iterator[Metric]:
    decisions = CounterMetricFamily("holdfast_decisions", "Decisions in the log.", labels=["verdict", "code"])
    for (verdict, code), count in counts.decisions.items():
        decisions.add_metric([verdict, code], count)
    yield decisions
    yield CounterMetricFamily(
        "holdfast_decisions_counted_records", "Records of the log that are in these counts.", counts.counted
    )


def _checks(counts: AuditCounts) -> Iterator[Metric]:
    alarms = GaugeMetricFamily("holdfast_audit_alarms", "What must not be, among holds not settled.", labels=["alarm"])
    alarms.add_metric(["allow_without_outcome"], counts.allow_without_outcome)
    alarms.add_metric(["outcome_without_allow"], counts.outcome_without_allow)
    yield alarms
    yield _events(counts, "cross_check", "holdfast_cross_checks", "result", "Cross-checks of runs.")
    difference = "Differences between a run's history and the log that cross-checks found."
    yield _events(counts, "cross_check_difference", "holdfast_cross_check_differences", "code", difference)


def _events(counts: AuditCounts, event: str, name: str, label: str, says: str) -> CounterMetricFamily:
    metric = CounterMetricFamily(name, says, labels=[label])
    for (what, detail), count in counts.events.items():
        if what == event:
            metric.add_metric([detail], count)
    return metric


@router.get("/metrics", summary="Get metrics of the audit side", response_class=PlainTextResponse, responses=_RESPONSES)
async def get_metrics(caller: Caller, parts: Parts) -> PlainTextResponse:
    """Returns metrics of the tenant's log, decisions, witnesses and cross-checks, as Prometheus reads them."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        await count_decisions(connection, caller.tenant_id)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        counts = await read_counts(connection, caller.tenant_id)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(counts))
    return PlainTextResponse(generate_latest(registry), headers={"cache-control": "no-store"}, media_type=_MEDIA_TYPE)
