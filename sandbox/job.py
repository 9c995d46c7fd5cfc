"""What is run, and what comes of it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from sandbox.layers import Receipt

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a job may use at most.

    Attributes:
        wall_ms: Time from its first instruction.
        cpu_s: CPU time of one process, in whole seconds.
        memory_bytes: Memory of the whole job; what lies in its folder counts, too.
        pids: Processes and threads together.
        cpu_percent: CPU of the whole job, 100 for one core.
        disk_bytes: What its folder holds at one time.
        disk_files: Files and folders in it.
        output_bytes: Standard output and error together.
        open_files: Descriptors of one process.
        collected_bytes: Output files together.
        collected_files: How many output files.
    """

    wall_ms: int = 10_000
    cpu_s: int = 10
    memory_bytes: int = 256 * _MIB
    pids: int = 64
    cpu_percent: int = 100
    disk_bytes: int = 64 * _MIB
    disk_files: int = 4_096
    output_bytes: int = 1 * _MIB
    open_files: int = 256
    collected_bytes: int = 32 * _MIB
    collected_files: int = 100


@dataclass(frozen=True, slots=True)
class Job:
    """One job.

    Attributes:
        code: A program in its language.
        arguments: What `sys.argv` has after the first.
        files: Input files by their name within the job's folder: bytes, or where to read them.
        limits: What it may use at most.
        name: What tracebacks call the code.
        language: What it is written in.
        runtime: For Python: `plain`, or `data` with numpy, pandas and matplotlib.
        packages: For Python: the digest of the lock whose packages it may import.
    """

    code: str
    arguments: Sequence[str] = ()
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    name: str = "job.py"
    language: Literal["python", "shell", "node"] = "python"
    runtime: Literal["plain", "data"] = "plain"
    packages: str = ""


class Because(StrEnum):
    """Why a job was ended, or what it ran out of."""

    MEMORY = "memory"
    TIME = "time"
    CPU = "cpu"
    PIDS = "pids"
    DISK = "disk"
    OUTPUT = "output"
    FORBIDDEN_CALL = "forbidden_call"
    CANCELLED = "cancelled"
    SIGNAL = "signal"


SENTENCES: Final[Mapping[Because, str]] = MappingProxyType(
    {
        Because.MEMORY: "It used more memory than it may.",
        Because.TIME: "It took longer than it may.",
        Because.CPU: "It used more CPU time than it may.",
        Because.PIDS: "It started more processes and threads than it may.",
        Because.DISK: "It wrote more to its folder than it may.",
        Because.OUTPUT: "It printed more than it may.",
        Because.FORBIDDEN_CALL: "It made a system call that no job may make: {}.",
        Because.CANCELLED: "It was cancelled.",
        Because.SIGNAL: "It was ended by the signal {}.",
    }
)


@dataclass(frozen=True, slots=True)
class Killed:
    """Why a job did not end by itself.

    Attributes:
        because: The reason.
        sentence: The same in words.
        detail: A system call's or signal's name.
    """

    because: Because
    sentence: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Raised:
    """The exception a job ended with, as the job itself says: text from inside, to be shown (`shown`) and never to be trusted.

    Attributes:
        kind: Its class.
        message: Its text.
        line: The line of the job's code, 0 if none is known.
        traceback: The usual lines, of the job's own code only.
    """

    kind: str
    message: str
    line: int
    traceback: str


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a job made or changed.

    Attributes:
        name: Its name within the job's folder.
        size_bytes: Its size.
        sha256: Its digest.
        content: What is in it, or where it was put.
    """

    name: str
    size_bytes: int
    sha256: str
    content: bytes | Path


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a job.

    Attributes:
        exit_status: As a shell has it; 128 and the signal if one ended it.
        stdout: Standard output, as far as it may go.
        stderr: Standard error, the same.
        raised: The exception it ended with, if one did.
        killed: Why it did not end by itself, if it did not; also that its output was cut where it had just ended.
        exhausted: What it ran out of without being killed for it.
        files: Its output files.
        refused: Files that were not collected, with why.
        wall_ms: From its first instruction to its end.
        cpu_ms: CPU time of the whole job.
        memory_peak_bytes: Most memory at one time.
        warm: Whether a process was ready for it.
        calls: How many requests of it were handed to its owner.
        cut_off: Why its connection to its supervisor was closed, if it was.
        receipt: In which layers it ran.
    """

    exit_status: int
    stdout: bytes
    stderr: bytes
    raised: Raised | None
    killed: Killed | None
    exhausted: tuple[Because, ...]
    files: tuple[OutputFile, ...]
    refused: Mapping[str, str]
    wall_ms: float
    cpu_ms: float
    memory_peak_bytes: int
    warm: bool
    receipt: Receipt
    calls: int = 0
    cut_off: str = ""

    @property
    def why(self) -> str:
        """Why it was ended and what it ran out of, in sentences; nothing where all went as it should."""
        ended = [self.killed.sentence] if self.killed is not None else []
        return " ".join(dict.fromkeys([*ended, *(SENTENCES[because] for because in self.exhausted)]))


_CONTROL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)


def printable(output: bytes) -> str:
    """Returns what a job printed such that a terminal or a log shows it and obeys none of it."""
    return shown(output.decode("utf-8", "replace"))


def shown(text: str) -> str:
    """Returns a text such that a terminal or a log shows it and obeys none of it, and that it can be encoded."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class Printed:
    """The same for what is printed live: a character that comes in two parts is put together."""

    def __init__(self) -> None:
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}

    def take(self, stream: str, part: bytes) -> str:
        """Returns what can be shown of a stream after a part of it came."""
        return shown(self._decoders[stream].decode(part))
