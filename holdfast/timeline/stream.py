"""The live stream of a run in Redis, its writing side: one Redis stream for each run, with ids `{seq}-{n}`.

Durable event `seq` is announced as `seq-0`; what is not durable, such as a model's tokens, comes after the newest announced
event as `seq-1`, `seq-2` … PostgreSQL holds the truth: losing all of Redis loses no durable event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import orjson
import structlog
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from holdfast_verdict.canonical import JsonValue

_log = structlog.get_logger(__name__)

ENTRIES_MAX: Final = 20_000
"""Roughly how many entries of a run's stream are kept; older tokens are gone, their text is durable in the end."""
_TTL_MS: Final = 6 * 3_600_000
_BREAKER_S: Final = 1.0
_WRITE_TIMEOUT_S: Final = 1.0
_SOCKET_TIMEOUT_S: Final = 5.0

_TOP = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local top_seq, top_n = '0', '0'
if last[1] then top_seq, top_n = string.match(last[1][1], '^(%d+)%-(%d+)$') end
"""

# KEYS: stream; ARGV: seq, n, most entries, life in ms. Returns 1 if the top was raised.
RAISE_SCRIPT: Final = (
    _TOP
    + """
local seq, n = tonumber(ARGV[1]), tonumber(ARGV[2])
if tonumber(top_seq) > seq or (tonumber(top_seq) == seq and tonumber(top_n) >= n) then return 0 end
if seq == 0 and n == 0 then return 0 end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], ARGV[1] .. '-' .. ARGV[2], 'k', 'mark')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
)

# KEYS: stream; ARGV: channel, type, data, most entries, life in ms. Returns the new entry's id.
_DELTA_SCRIPT: Final = (
    _TOP
    + """
local now = redis.call('TIME')
local at = now[1] .. string.format('%03d', math.floor(tonumber(now[2]) / 1000))
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], top_seq .. '-*',
    'k', 'delta', 'c', ARGV[1], 't', ARGV[2], 'd', ARGV[3], 'at', at)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return id
"""
)


def stream_key(tenant_id: UUID, run_id: UUID) -> str:
    """Returns the key of a run's stream; the tenant is part of it (LAW 5)."""
    return f"holdfast:{tenant_id}:run:{run_id}"


def raise_arguments(seq: int, n: int) -> list[int]:
    """Returns the arguments of `RAISE_SCRIPT`, which makes sure that nothing is added at or before `seq-n` any more."""
    return [seq, n, ENTRIES_MAX, _TTL_MS]


def connect_redis(url: SecretStr | str) -> Redis:
    """Makes a client that fails at once when Redis is away: whoever uses it goes on without."""
    plain = url.get_secret_value() if isinstance(url, SecretStr) else url
    return Redis.from_url(
        plain,
        decode_responses=True,
        socket_connect_timeout=1.0,
        socket_timeout=_SOCKET_TIMEOUT_S,
        health_check_interval=15,
        # one retry, at once: a pooled connection whose server was restarted is noticed only when it is used
        retry=Retry(NoBackoff(), 1),
    )


class Publisher:
    """Writes to the live streams of runs. It never raises because of Redis, and never slows a run for long.

    When Redis fails, nothing is sent for a second; readers get the durable events from PostgreSQL meanwhile.
    """

    def __init__(self, redis: Redis) -> None:
        self._raise = redis.register_script(RAISE_SCRIPT)
        self._delta = redis.register_script(_DELTA_SCRIPT)
        self._closed_until = 0.0

    async def poke(self, tenant_id: UUID, run_id: UUID, seq: int) -> None:
        """Announces that durable events up to `seq` are committed. Call it after the commit."""
        if seq > 0 and not self._is_open():
            try:
                async with asyncio.timeout(_WRITE_TIMEOUT_S):
                    await self._raise(keys=[stream_key(tenant_id, run_id)], args=raise_arguments(seq, 0))
            except (RedisError, OSError) as error:
                self._trip(error)

    async def delta(
        self, tenant_id: UUID, run_id: UUID, channel: str, type_: str, data: Mapping[str, JsonValue]
    ) -> None:
        """Sends what is not durable, such as a piece of a model's answer.

        Args:
            tenant_id: The tenant.
            run_id: The run.
            channel: Such as `answer` or `thinking`.
            type_: Such as `text`.
            data: What clients get.
        """
        if self._is_open():
            return
        arguments: list[str | int] = [channel, type_, orjson.dumps(dict(data)).decode(), ENTRIES_MAX, _TTL_MS]
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await self._delta(keys=[stream_key(tenant_id, run_id)], args=arguments)
        except (RedisError, OSError) as error:
            self._trip(error)

    async def attempt_reset(self, tenant_id: UUID, run_id: UUID, step: int, try_number: int) -> None:
        """Tells clients to forget what the earlier try of a step has streamed."""
        await self.delta(tenant_id, run_id, "lifecycle", "attempt_reset", {"step": step, "try": try_number})

    def _is_open(self) -> bool:
        return time.monotonic() < self._closed_until

    def _trip(self, error: Exception) -> None:
        self._closed_until = time.monotonic() + _BREAKER_S
        _log.warning("redis.unavailable", error=type(error).__name__, effect="live events are late, none is lost")
