"""`python -m cli.simulated_provider --port N`: serves until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn

from cli.simulated_provider.brain import default_brain, load_brain
from cli.simulated_provider.server import Pacing, SimulatedProvider, registering_protocol
from holdfast import logs
from holdfast.connections import KEEP_ALIVE_S
from holdfast.errors import ConfigurationInvalid

_log = structlog.get_logger("provider")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cli.simulated_provider", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, required=True, help="port to listen on; 0 takes a free one")
    parser.add_argument("--brain", help="module:function that answers, instead of the one that plays scripts")
    parser.add_argument("--delay-ms", type=int, default=0, help="pause before an answer starts")
    parser.add_argument("--chunk-delay-ms", type=int, default=0, help="pause before each event of a stream")
    return parser.parse_args()


class _Server(uvicorn.Server):
    """Stops gracefully on SIGTERM and SIGINT and then exits with 0, where the base would raise the signal again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Installs the handlers for as long as the server runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(1024)
    return listener


async def _serve(arguments: argparse.Namespace) -> None:
    brain = load_brain(arguments.brain) if arguments.brain else default_brain
    provider = SimulatedProvider(brain, Pacing(arguments.delay_ms, arguments.chunk_delay_ms))
    listener = _listen(arguments.host, arguments.port)
    config = uvicorn.Config(
        provider.app,
        http=registering_protocol(provider.connections),
        lifespan="off",
        proxy_headers=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )
    host, port = listener.getsockname()[:2]
    # The socket listens already: whoever connects from now on is answered as soon as the loop runs.
    _log.info("ready", host=host, port=port, simulated=True)
    await _Server(config).serve(sockets=[listener])


def main() -> None:
    """Runs the server."""
    try:
        logs.configure("provider", os.environ.get("HOLDFAST_LOG_LEVEL", "info"))
        asyncio.run(_serve(_arguments()))
    except (ConfigurationInvalid, OSError) as error:
        sys.exit(f"the simulated provider cannot start: {error}")


if __name__ == "__main__":
    main()
