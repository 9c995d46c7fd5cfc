"""The HTTP server around the application: says when it is ready, and stops without waiting for streams that never end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from math import ceil
from typing import Final

import structlog
import uvicorn
from fastapi import FastAPI

from holdfast.connections import KEEP_ALIVE_S

_log = structlog.get_logger("api")

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_HEADER_BYTES_MAX: Final = 32_768


class ApiServer(uvicorn.Server):
    """Serves the API.

    Args:
        app: The application.
        host: Where to listen.
        port: Where to listen; 0 takes a free one.
        shutdown_grace_ms: How long requests may go on after a signal to stop.
        handle_signals: Whether SIGTERM and SIGINT stop it; not where it runs inside another process.
    """

    def __init__(
        self, app: FastAPI, host: str, port: int, *, shutdown_grace_ms: int = 10_000, handle_signals: bool = True
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http="h11",
                h11_max_incomplete_event_size=_HEADER_BYTES_MAX,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=ceil(shutdown_grace_ms / 1000),
                lifespan="on",
            )
        )
        self._app = app
        self._handle_signals = handle_signals

    @property
    def port(self) -> int:
        """The port it listens on, once it has started."""
        number: int = self.servers[0].sockets[0].getsockname()[1]
        return number

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening, then logs the line that supervisors wait for."""
        await super().startup(sockets=sockets)
        if self.started:
            _log.info("ready", url=f"http://{self.config.host}:{self.port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends event streams first, whose clients resume elsewhere; other requests may finish."""
        self._app.state.context.stopping.set()
        await super().shutdown(sockets=sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stops gracefully on a signal, and leaves with exit code 0, not by the signal itself."""
        if self._handle_signals:
            loop = asyncio.get_running_loop()
            for number in _STOP_SIGNALS:
                loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        _log.info("stopping")
        self.should_exit = True
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            # not left to the loop, which gives the signals their deadly meaning back when it closes
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
