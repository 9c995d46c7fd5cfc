"""Files that a command writes as they come from the server: whole or not at all, and never over another."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cli.terminal import note
from holdfast.errors import ConfigurationInvalid

_PROGRESS_BYTES: Final = 5_000_000
TIMES: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S"]
"""How times are written on the command line; all are UTC."""


def utc(time: datetime | None) -> datetime | None:
    """Returns a time of the command line with its zone."""
    return None if time is None else time.replace(tzinfo=UTC)


def write_pieces(out: Path, pieces: Iterable[bytes]) -> int:
    """Writes a file piece by piece, tells of its growth, and returns its size.

    Raises:
        ConfigurationInvalid: There is a file already, or none can be written there.
    """
    part = out.with_name(out.name + ".part")
    if out.exists():
        raise ConfigurationInvalid(f"{out} is there already", remedy="name another file, or remove it")
    written = told = 0
    try:
        with part.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                written += len(piece)
                if written - told >= _PROGRESS_BYTES:
                    told = written
                    note(f"{written // 1_000_000} MB")
        part.replace(out)
    except OSError as error:
        raise ConfigurationInvalid(
            f"cannot write {out}: {error}", remedy="name a file in a folder that is yours"
        ) from None
    finally:
        part.unlink(missing_ok=True)  # what broke off is no export
    return written
