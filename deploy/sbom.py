"""`python -m deploy.sbom`: writes the bill of materials (CycloneDX 1.5) of what runs, from the lock.

uv gives names, versions, hashes and who needs whom; the licences come from the installed packages. The same lock gives the same
file, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from deploy.licences import licence_of

ROOT: Final = Path(__file__).resolve().parent.parent
_FORMAT: Final = "cyclonedx1.5"
_OPERATORS: Final = (" AND ", " OR ", " WITH ")


def _exported() -> dict[str, Any]:  # CycloneDX, read member by member
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    arguments = ["export", "--locked", "--no-dev", "--all-extras", "--all-packages", "--format", _FORMAT, "--quiet"]
    done = subprocess.run(  # noqa: S603 (uv, with arguments that stand here)
        [uv, *arguments, "--preview-features", "sbom-export"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"error: uv cannot export the lock: {done.stderr.strip()}\n  to do: make setup")
    exported: dict[str, Any] = json.loads(done.stdout)
    return exported


def _licences(expression: str) -> list[dict[str, Any]]:
    if any(operator in expression for operator in _OPERATORS):
        return [{"expression": expression}]
    return [{"license": {"id": expression}}]


def bill() -> dict[str, Any]:
    """Returns the bill of materials."""
    found = _exported()
    lock = (ROOT / "uv.lock").read_bytes()
    # INVARIANT: nothing that changes by itself, so that two builds of one release have one bill
    found["serialNumber"] = f"urn:uuid:{uuid5(NAMESPACE_URL, hashlib.sha256(lock).hexdigest())}"
    found["metadata"].pop("timestamp", None)
    found["metadata"]["component"] |= {"type": "application", "version": version("holdfast")}
    for component in found["components"]:
        component["licenses"] = _licences(licence_of(component["name"]))
    return found


def main(arguments: list[str]) -> int:
    """Writes it to a file or to standard output."""
    parser = argparse.ArgumentParser(prog="python -m deploy.sbom", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, help="file to write; default: standard output")
    output: Path | None = parser.parse_args(arguments).output
    text = json.dumps(bill(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    if output is None:
        sys.stdout.write(text)
        return 0
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(f"{output}: {len(json.loads(text)['components'])} components")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
