"""Pushes characters into a terminal."""

import fcntl
import os
import pty
import termios

_, terminal = pty.openpty()
if (pid := os.fork()) == 0:
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    fcntl.ioctl(terminal, termios.TIOCSTI, b"x")
    os._exit(42)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
