"""`code.exec`: how a model asks for code to be run. It is no tool call: it has a kind, a price and a place of its own."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from holdfast.tools.registry import MARKED, Arguments, ToolDefinition
from holdfast.tools.texts import normalise_text

CODE_EXEC: Final = "code.exec"
CODE_LENGTH_MAX: Final = 65_536
FILES_MAX: Final = 20
TIMEOUT_MS_MAX: Final = 60_000

FileName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._ -]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._ -]{0,99}){0,7}$",
        description="name of a file of the run",
        json_schema_extra=MARKED,
    ),
]


class CodeExec(Arguments):
    """Arguments of `code.exec`, as a model gives them; the files' digests are added when it is decided."""

    code: Annotated[str, AfterValidator(normalise_text)] = Field(
        min_length=1,
        max_length=CODE_LENGTH_MAX,
        description="a program. What it prints is the answer; files that it writes into its folder become files of the run",
        json_schema_extra=MARKED,
    )
    language: Literal["python", "shell", "node"] = Field(default="python", description="what it is written in")
    runtime: Literal["plain", "data"] = Field(
        default="plain",
        description="for Python: `plain` has the standard library, `data` also numpy, pandas and matplotlib",
    )
    packages: str = Field(
        default="",
        pattern=r"^([0-9a-f]{64})?$",
        description="for Python: digest of a lock whose packages are built; usually empty",
    )
    files: list[FileName] = Field(
        default=[], max_length=FILES_MAX, description="files of the run that shall lie in its folder, by name"
    )
    timeout_ms: int = Field(default=10_000, ge=100, le=TIMEOUT_MS_MAX, description="then it is ended")
    memory_mb: int = Field(default=256, ge=64, le=1_024, description="the most memory it may have")

    @model_validator(mode="after")
    def _no_file_twice(self) -> Self:
        if len(set(self.files)) != len(self.files):
            raise ValueError("`files` names a file twice")
        return self

    @model_validator(mode="after")
    def _one_runtime(self) -> Self:
        if (self.language != "python" or self.packages) and self.runtime != "plain":
            raise ValueError("`runtime` is for Python, and has no other packages than its own")
        if self.language != "python" and self.packages:
            raise ValueError("`packages` are for Python")
        return self


CODE_TOOL: Final = ToolDefinition(
    name=CODE_EXEC,
    description="Runs a Python, shell or Node program in a sandbox without a network. It sees only the files it is given. "
    "It can call your other tools. Python: from holdfast_guest import tool, Refused; tool(NAME, **ARGUMENTS) returns the answer, or "
    "raises Refused with code and message. Node: const { tool, Refused } = require('holdfast_guest'); await tool(NAME, ARGUMENTS), the "
    "same. Shell: holdfast-guest tool NAME KEY=TEXT KEY:=JSON prints the answer, or ends with 1 and CODE: MESSAGE on standard error.",
    arguments=CodeExec,
    external=False,
    idempotent=True,
    reversible=True,
    yields=("untrusted",),
    credential=None,
)
"""What models are shown of it, given to those agents whose definition names it."""
