"""`python -m api`: the API process. SIGTERM ends it gracefully: requests finish, streams end with a resumable id."""

from __future__ import annotations

import asyncio
import sys

from api.app import create_app
from api.problems import sentence
from api.server import ApiServer
from holdfast import logs
from holdfast.errors import HoldfastError
from holdfast.settings import ApiSettings, load, read_key_file, warn_of_misspellings


def main() -> int:
    """Runs the process and returns its exit code."""
    try:
        settings = load(ApiSettings)
        logs.configure("api", settings.log_level)
        warn_of_misspellings(ApiSettings)
        read_key_file(settings.codec_key_file)  # a wrong file is said here, in a sentence
    except HoldfastError as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    server = ApiServer(create_app(settings), settings.api_host, settings.api_port)
    asyncio.run(server.serve())
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
