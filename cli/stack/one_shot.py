"""A command that runs to its end before the stack goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cli.stack.account import launch_command, own_account
from cli.stack.child import describe_exit
from cli.stack.errors import ChildFailed
from cli.stack.log_file import LogFile

_TIMEOUT_S = 300.0
_TAIL_LINES = 12


async def run_to_completion(
    name: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    log_path: Path,
    *,
    say: Callable[[str], None] | None = None,
) -> None:
    """Runs a command; its stderr is logged, its stdout is not kept, since it may show a key once.

    Args:
        name: What it is.
        argv: Its words.
        env: Its environment.
        log_path: Where its stderr goes.
        say: Gets each line of its stdout, if it prints for people.

    Raises:
        ChildFailed: It failed or did not end in time.
    """
    log = LogFile(log_path)
    log.begin()
    command = launch_command(own_account(), list(argv), folder=None, death_signal=signal.SIGKILL)
    with log.open() as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL if say is None else asyncio.subprocess.PIPE,
            stderr=output,
            env=dict(env),
            start_new_session=True,
        )
    try:
        code = await asyncio.wait_for(_listen(process, say), _TIMEOUT_S)
        how = describe_exit(code)
    except TimeoutError:
        code, how = -1, f"did not end within {_TIMEOUT_S:g} s"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if code != 0:
        tail = "\n".join(f"    {line}" for line in log.tail(_TAIL_LINES))
        raise ChildFailed(f"{name} {how}; its log {log_path} ends with:\n{tail or '    (nothing)'}")


async def _listen(process: asyncio.subprocess.Process, say: Callable[[str], None] | None) -> int:
    """Passes on what it prints, until it ends."""
    if say is not None and process.stdout is not None:
        async for line in process.stdout:
            say(line.decode("utf-8", "replace").rstrip())
    return await process.wait()
