"""`python -m api`: the API process. SIGTERM ends it gracefully: requests finish, streams end with a resumable id."""

from __future__ import annotations

import asyncio
import sys

import structlog

from api.app import create_app
from api.problems import sentence
from api.server import ApiServer
from holdfast import logs
from holdfast.database.engine import DatabaseAway, create_engine
from holdfast.database.version import require_schema
from holdfast.errors import HoldfastError
from holdfast.settings import ApiSettings, load, read_key_file, warn_of_misspellings

_log = structlog.get_logger("api")


async def _check_schema(settings: ApiSettings) -> None:
    """Refuses a schema that does not fit. With PostgreSQL away the API comes up all the same, and is not ready (`/readyz`)."""
    engine = create_engine(settings.api_database_url, process="api", pool_size=1)
    try:
        await require_schema(engine, wait_s=0)
    except DatabaseAway:
        _log.warning("schema.unchecked")
    finally:
        await engine.dispose()


_log = structlog.get_logger("api")


def main() -> int:
    """Runs the process and returns its exit code."""
    try:
        settings = load(ApiSettings)
        logs.configure("api", settings.log_level)
        warn_of_misspellings(ApiSettings)
        read_key_file(settings.codec_key_file)  # a wrong file is said here, in a sentence
        asyncio.run(_check_schema(settings))
    except HoldfastError as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    server = ApiServer(
        create_app(settings),
        settings.api_host,
        settings.api_port,
        shutdown_grace_ms=settings.shutdown_grace_ms,
    )
    asyncio.run(server.serve())
    _log.info("stopped")
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
