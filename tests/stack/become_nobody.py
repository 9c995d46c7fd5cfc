"""`python become_nobody.py program argument…`: executes a program as the ordinary user nobody, started by root.

Where the interpreter lies in root's home, nobody could not even start it. A mount namespace of its own then shows that
folder, and nothing else of root's home, to everybody in it.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
import sys
from pathlib import Path

CLONE_NEWNS = 0x00020000
MNT_DETACH = 2
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18


def closed_ancestors(path: Path) -> list[Path]:
    """The folders on the way to a path that others may not enter."""
    return [parent for parent in reversed(path.parents) if not parent.stat().st_mode & stat.S_IXOTH]


def show_to_others(path: Path) -> None:
    """Covers the first closed folder on the way with an empty open one, and puts the path back into it."""
    ancestors = closed_ancestors(path)
    if not ancestors:
        return
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), "the kernel refused a mount")

    check(libc.unshare(CLONE_NEWNS))
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    window = Path(f"/tmp/.window-{os.getpid()}")
    window.mkdir()
    check(libc.mount(bytes(path), bytes(window), None, MS_BIND, None))
    check(libc.mount(b"tmpfs", bytes(ancestors[0]), b"tmpfs", 0, b"mode=755"))
    path.mkdir(parents=True)
    check(libc.mount(bytes(window), bytes(path), None, MS_BIND, None))
    check(libc.umount2(bytes(window), MNT_DETACH))
    window.rmdir()


def main(command: list[str]) -> None:
    show_to_others(Path(sys.base_prefix))
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
