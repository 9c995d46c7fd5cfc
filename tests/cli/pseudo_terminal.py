"""A command on a terminal of its own: what it shows is seen, keys are pressed, Ctrl-C is Ctrl-C."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.stack.places import ROOT

CTRL_C = "\x03"
STYLE = re.compile(r"\x1b\[[0-9;]*m")
# The terminal becomes that of the command's session, or Ctrl-C would reach nobody.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(1, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(slots=True)
class PseudoTerminal:
    """A command that runs on it."""

    process: subprocess.Popen[bytes]
    master: int
    _shown: bytearray = field(default_factory=bytearray)
    _closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def shown(self) -> str:
        """All that it has shown so far, with controls."""
        return self._shown.decode(errors="replace")

    @property
    def plain(self) -> str:
        """The same without styles."""
        return STYLE.sub("", self.shown).replace("\r\n", "\n")

    def read(self) -> None:
        try:
            data = os.read(self.master, 65_536)
        except OSError:  # Linux's word for: the last process on it has ended
            data = b""
        if data:
            self._shown += data
        else:
            asyncio.get_running_loop().remove_reader(self.master)
            self._closed.set()

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    async def sees(self, text: str, *, within_s: float = 90.0) -> None:
        """Waits until a text is shown."""
        deadline = time.monotonic() + within_s
        while text not in self.plain:
            assert time.monotonic() < deadline, f"{text!r} was not shown:\n{self.plain}"
            assert not self._closed.is_set() or text in self.plain, f"it ended without {text!r}:\n{self.plain}"
            await asyncio.sleep(0.02)

    async def ends(self, *, within_s: float = 90.0) -> int:
        """Waits until the command has ended and returns its exit code."""
        await asyncio.wait_for(self._closed.wait(), within_s)
        return await asyncio.to_thread(self.process.wait, 60)


@asynccontextmanager
async def on_terminal(
    *command: str, columns: int = 80, env: Mapping[str, str] | None = None, stdin: int | None = None
) -> AsyncIterator[PseudoTerminal]:
    """Runs `holdfast …` on a terminal so many columns wide."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    argv = [sys.executable, "-m", "cli.main", *command]
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, *argv],
        stdin=slave if stdin is None else stdin,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        cwd=ROOT,
        env={**environment, "TERM": "xterm-256color", **(env or {})},
    )
    os.close(slave)
    terminal = PseudoTerminal(process, master)
    asyncio.get_running_loop().add_reader(master, terminal.read)
    try:
        yield terminal
    finally:
        asyncio.get_running_loop().remove_reader(master)
        if process.poll() is None:
            process.kill()
            await asyncio.to_thread(process.wait)
        os.close(master)
