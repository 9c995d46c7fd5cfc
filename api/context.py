"""What the API's routes share: database, live streams, Temporal, the broker; made once, closed once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

import httpx
from fastapi import Depends
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import HTTPConnection
from temporalio.client import Client

from holdfast import temporal_logs
from holdfast.artefacts import signed
from holdfast.codec import EncryptingCodec, data_converter
from holdfast.database.engine import create_engine
from holdfast.policies.rehearsing import Rehearsing
from holdfast.settings import ApiSettings, read_key_file
from holdfast.tenancy.failures import FailureLog
from holdfast.timeline.stream import Publisher, connect_redis

_BROKER_TIMEOUT_S = 10.0
STREAMS_MAX = 500
"""Event streams that one process serves at a time."""
EXPORTS_MAX = 4
"""Exports that one process writes at a time; each takes a connection to the database for as long as its client reads."""


@dataclass(slots=True)
class Context:
    """The parts of one API process.

    Attributes:
        stopping: Set when the process shall end, so that open streams end as well.
        streams: Event streams that are open now.
        exports: Exports that are being written now.
    """

    settings: ApiSettings
    engine: AsyncEngine
    redis: Redis
    publisher: Publisher
    temporal: Client
    broker: httpx.AsyncClient
    s3: httpx.AsyncClient
    codec: EncryptingCodec
    failures: FailureLog
    rehearsing: Rehearsing
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    streams: int = 0
    exports: int = 0

    @classmethod
    async def open(cls, settings: ApiSettings) -> Context:
        """Makes the parts. None is called yet: the API comes up also while others are away, and says so in `/readyz`.

        Raises:
            ConfigurationInvalid: The codec's key file cannot be used.
        """
        codec_key = read_key_file(settings.codec_key_file)
        engine = create_engine(settings.api_database_url, process="api", pool_size=20)
        redis = connect_redis(settings.redis_url)
        return cls(
            settings=settings,
            engine=engine,
            redis=redis,
            publisher=Publisher(redis),
            temporal=await Client.connect(
                settings.temporal_address,
                namespace=settings.temporal_namespace,
                data_converter=data_converter(codec_key),
                lazy=True,
                runtime=temporal_logs.runtime(),
            ),
            # no proxy of the environment: callers' keys go to the broker and nowhere else
            broker=httpx.AsyncClient(base_url=settings.broker_url, timeout=_BROKER_TIMEOUT_S, trust_env=False),
            s3=signed.connect(),
            codec=EncryptingCodec(codec_key),
            failures=FailureLog(engine),
            rehearsing=Rehearsing(engine),
        )

    async def close(self) -> None:
        """Closes everything."""
        await self.rehearsing.close()
        await self.failures.flush()
        await self.broker.aclose()
        await self.s3.aclose()
        await self.redis.aclose()
        await self.engine.dispose()


def _context(connection: HTTPConnection) -> Context:
    context: Context = connection.app.state.context
    return context


Parts = Annotated[Context, Depends(_context)]
"""The process's parts, as a route asks for them."""
