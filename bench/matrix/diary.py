"""What was played already, kept as it is played: an interrupted matrix goes on where it was."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Final

import orjson

from bench.matrix.books import Findings
from bench.matrix.cells import Cell
from holdfast.errors import ConfigurationInvalid

_ROOT: Final = Path(__file__).resolve().parents[2]
_PLAYED: Final = ("holdfast/ledger", "holdfast/database/migrations", "bench/matrix")


def code_digest() -> str:
    """Returns a digest of the code whose books a cell's findings speak of: the ledger, its tables and functions, the matrix."""
    digest = hashlib.sha256()
    for folder in _PLAYED:
        for path in sorted((_ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".sql"}:
                digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class Diary:
    """A file of JSON Lines: the code's digest, then a line for each cell, written once its books are checked.

    Args:
        path: The file; made if it is not there.

    Raises:
        ConfigurationInvalid: It is of other code, or none of ours.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.findings: dict[Cell, Findings] = {}
        if not path.exists():
            path.write_bytes(orjson.dumps({"code": code_digest()}) + b"\n")
            return
        lines = path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):  # cut off in the middle: that cell is played again
            path.write_bytes(b"".join(lines[:-1]))
            del lines[-1]
        try:
            code = orjson.loads(lines[0])["code"]
            for line in lines[1:]:
                told = orjson.loads(line)
                self.findings[Cell.named(told["cell"])] = Findings(**told["findings"])
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigurationInvalid(
                f"{path} is no record of played cells: {error}", remedy="name a file that is not there yet"
            ) from None
        if code != code_digest():
            raise ConfigurationInvalid(
                f"the cells in {path} were played on other code", remedy="name a file that is not there yet"
            )

    def write(self, cell: Cell, findings: Findings) -> None:
        """Keeps what came of a cell."""
        self.findings[cell] = findings
        with self._path.open("ab") as file:
            file.write(orjson.dumps({"cell": str(cell), "findings": asdict(findings)}) + b"\n")
