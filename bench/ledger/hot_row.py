"""PostgreSQL's own rate of updates of a single row, measured by its own program pgbench."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from typing import Final
from urllib.parse import parse_qs, urlsplit

from bench.ledger.place import Server
from cli.stack.postgres import binaries

_SCRIPT: Final = "UPDATE bench_hot SET n = n + 1 WHERE id = 1;\n"
_TPS: Final = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_FAILED: Final = re.compile(r"^number of failed transactions: ([0-9]+)", re.MULTILINE)


async def make_row(server: Server) -> None:
    """Makes the table with its one row."""
    await server.superuser.execute(
        "CREATE TABLE bench_hot (id integer PRIMARY KEY, n bigint NOT NULL); INSERT INTO bench_hot VALUES (1, 0)"
    )


async def updates_per_s(server: Server, *, clients: int, updates: int) -> float:
    """Has so many clients update the row so many times in all, each update a transaction, statements prepared.

    A number, not a time: many clients take long to connect, which counts into pgbench's time but not into its rate.

    Raises:
        RuntimeError: pgbench failed.
    """
    url = urlsplit(server.superuser_url)
    query = parse_qs(url.query)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(_SCRIPT)
        script.flush()
        process = await asyncio.create_subprocess_exec(
            str(binaries() / "pgbench"),
            "--no-vacuum",
            "--protocol=prepared",
            f"--client={clients}",
            f"--jobs={min(clients, os.cpu_count() or 1)}",
            f"--transactions={max(updates // clients, 1)}",
            f"--file={script.name}",
            env={
                "PGHOST": query["host"][0],
                "PGPORT": query["port"][0],
                "PGUSER": url.username or "",
                "PGPASSWORD": url.password or "",
                "PGDATABASE": url.path.lstrip("/"),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    found, failed = _TPS.search(out.decode()), _FAILED.search(out.decode())
    if process.returncode != 0 or found is None or failed is None or failed[1] != "0":
        raise RuntimeError(f"pgbench failed: {out.decode()}{err.decode()}")
    return float(found[1])
