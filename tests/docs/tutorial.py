"""Does what a page says, from its first block to its last, as a reader does: in a shell, on a fresh stack, with what it prints.

What stands behind a block's language says how it is done:

    bash                   run; it must succeed. Variables and the folder stay for the next block.
    bash background        left running, until it has printed what the `text` block after it shows; ended with Ctrl-C at the page's end.
    bash background until=Ctrl-C    the same, until it has printed this word.
    bash answers=y         run, with these lines typed in (`answers=y,n`).
    bash capture=RUN       run; the first id that it prints becomes `$RUN` for the blocks after it.
    bash as-printed        not run: in its place the `export` lines that a background block has printed.
    bash skip              a reader may do it; it is not done here (and must be one that other tests parse).
    text                   what the block before it has printed: these lines, in this order. `…` stands for anything; words with a
                           digit in them may differ.
    LANGUAGE file=PATH     written to that file of the reader's folder.

The reader's folder looks like a checkout: everything of ours is in it, and what the reader makes is in it alone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from tests.stack.places import clean_environment

from .pages import ROOT, Fence, fences_of

MARK: Final = "<!-- tried from start to end by tests/docs/test_tutorials.py -->"
_BLOCK_S: Final = 400
_UUID: Final = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_EXPORT: Final = re.compile(r"^\s*(export [A-Z_]+=.+)$", re.MULTILINE)
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_NOT_LINKED: Final = frozenset({".git", ".venv", "site", "dist", ".uv"})
_UV: Final = """#!/bin/sh
# stands for uv: everything is installed already
case "$1" in
  run)
    shift
    [ "$1" = "--no-sync" ] && shift
    program=$1; shift
    if [ "$program" = holdfast ] && [ "$1" = up ]; then
      case " $* " in *" --port-base "*) ;; *) set -- "$@" --port-base 0 ;; esac
    fi
    exec "{bin}/$program" "$@" ;;
  sync | --version) exit 0 ;;
  pip) # packages of the reader's own go where only the reader's stack finds them
    [ "$2 $3" = "install -e" ] || { echo "the reader's uv cannot do: $*" >&2; exit 2; }
    exec "{uv}" pip install --quiet --no-deps --upgrade --target "$PYTHONPATH" "$4" ;;
  *) echo "the reader's uv cannot do: $*" >&2; exit 2 ;;
esac
"""


def _uv() -> str:
    return shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")


class StepFailed(AssertionError):
    """A block did not do what the page says."""


@dataclass
class Running:
    """A block that was left running."""

    fence: Fence
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def read(self, stream: IO[str]) -> None:
        """Collects what it prints."""
        for line in stream:
            self.lines.append(_COLOURS.sub("", line))

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return "".join(self.lines)


def expected(text: str) -> list[re.Pattern[str]]:
    """Returns the lines of a `text` block as patterns."""
    patterns = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        words = [
            r"\S+" if re.search(r"\d", word) and "…" not in word else ".*".join(map(re.escape, word.split("…")))
            for word in line.split()
        ]
        patterns.append(re.compile(r"\s+".join(words).replace(r".*\s+", r".*\s*").replace(r"\s+.*", r"\s*.*")))
    return patterns


def missing(text: str, output: str) -> str:
    """Returns the first line of a `text` block that an output does not have after the lines before it, or nothing."""
    left = iter(output.splitlines())
    for line, pattern in zip(filter(str.strip, text.splitlines()), expected(text), strict=True):
        if not any(pattern.search(printed) for printed in left):
            return line.strip()
    return ""


class Reader:
    """Who follows a page, in a folder and a shell of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "holdfast"
        self._programs = folder / "bin"
        self._variables: dict[str, str] = {
            **clean_environment(),
            "HOLDFAST_DATA_DIR": str(folder / "data"),
            "PYTHONPATH": str(folder / "packages"),
            "TMPDIR": str(folder / "tmp"),
            "NO_COLOR": "1",
            "PATH": f"{self._programs}:{os.environ['PATH']}",
        }
        self._background: list[Running] = []
        self.took_s: dict[str, float] = {}
        for part in (self.folder, self._programs, folder / "tmp"):
            part.mkdir(mode=0o755)
        for entry in ROOT.iterdir():
            if entry.name not in _NOT_LINKED:
                (self.folder / entry.name).symlink_to(entry)
        program = self._programs / "uv"
        program.write_text(
            _UV.replace("{bin}", str(Path(sys.executable).parent)).replace("{uv}", _uv()), encoding="utf-8"
        )
        program.chmod(0o755)
        self._here = self.folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in reversed(self._background):
            with suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(120)
            with suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGKILL)

    def follow(self, page: Path) -> None:
        """Does all blocks of a page.

        Raises:
            StepFailed: One did not do what the page says.
        """
        fences = [fence for fence in fences_of(page) if fence.language != "mermaid"]
        output = ""
        for number, fence in enumerate(fences):
            following = fences[number + 1] if number + 1 < len(fences) else None
            shows = following.body if following is not None and following.language == "text" else ""
            began = time.monotonic()
            options = _options(fence)
            if fence.language == "bash":
                output = self._shell(fence, options, shows)
            elif fence.language == "text" and "file" not in options:
                if line := missing(fence.body, output):
                    raise StepFailed(f"{fence}: the page shows {line!r}, and this was printed:\n{output[-4_000:]}")
            elif "file" in options:
                self._write(options["file"], fence.body)
            self.took_s[str(fence)] = round(time.monotonic() - began, 1)

    def _shell(self, fence: Fence, options: Mapping[str, str], shows: str) -> str:
        if "skip" in options:
            return ""
        if "background" in options:
            return self._start(fence, options, shows)
        body = fence.body
        if "as-printed" in options:
            printed = "".join(running.output for running in self._background)
            body = "\n".join(_EXPORT.findall(printed))
            if not body:
                raise StepFailed(f"{fence}: nothing has printed an `export` line")
        output = self._run(fence, body, "\n".join(options.get("answers", "").split(",")))
        if name := options.get("capture"):
            found = _UUID.search(output)
            if found is None:
                raise StepFailed(f"{fence}: there is no id in what was printed, to be {name}:\n{output}")
            self._variables[name] = found[0]
        return output

    def _run(self, fence: Fence, body: str, answers: str) -> str:
        after = self.folder.parent / "after"
        script = f"set -aeuo pipefail\n{body}\nenv -0 > {after}.env\npwd > {after}.pwd\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._here,
            env=self._variables,
            input=answers,
            capture_output=True,
            text=True,
            check=False,
            timeout=_BLOCK_S,
        )
        output = _COLOURS.sub("", done.stdout + done.stderr)
        if done.returncode != 0:
            raise StepFailed(f"{fence}: ended with {done.returncode}:\n{body}\n{output[-4_000:]}")
        pairs = after.with_suffix(".env").read_text(encoding="utf-8").split("\0")
        self._variables = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        self._here = Path(after.with_suffix(".pwd").read_text(encoding="utf-8").strip())
        return output

    def _start(self, fence: Fence, options: Mapping[str, str], shows: str) -> str:
        shows = f"…{options['until']}…" if "until" in options else shows
        process = subprocess.Popen(
            ["bash", "-c", fence.body],
            cwd=self._here,
            env={**self._variables, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        running = Running(fence, process)
        self._background.append(running)
        assert process.stdout is not None
        assert process.stdin is not None
        with process.stdin as keyboard:
            keyboard.write("".join(f"{line}\n" for line in options.get("answers", "").split(",") if line))
        threading.Thread(target=running.read, args=(process.stdout,), daemon=True).start()
        deadline = time.monotonic() + _BLOCK_S
        while missing(shows, running.output):
            if process.poll() is not None or time.monotonic() > deadline:
                how = "ended" if process.poll() is not None else f"has not printed it within {_BLOCK_S} s"
                raise StepFailed(
                    f"{fence}: {how}; the page shows {missing(shows, running.output)!r}:\n{running.output[-4_000:]}"
                )
            time.sleep(0.1)
        return running.output

    def _write(self, name: str, body: str) -> None:
        path = (self._here / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise StepFailed(f"{name} lies outside of the reader's folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")


def _options(fence: Fence) -> dict[str, str]:
    pairs = (word.partition("=") for word in fence.info.split()[1:])
    return {name: value for name, _, value in pairs}
