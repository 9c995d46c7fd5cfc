"""Installs a package of tools for a test: a module and the metadata that names its entry points, on a path."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, distribution: str, modules: Mapping[str, str], tools: Mapping[str, str]) -> Path:
    """Writes a distribution into a folder that is on the path.

    Args:
        folder: The folder.
        distribution: Its name.
        modules: Source by module.
        tools: `module:function` by the tool's name.
    """
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", encoding="utf-8")
    points = "".join(f"{name} = {value}\n" for name, value in tools.items())
    (info / "entry_points.txt").write_text(f"[holdfast.tools]\n{points}", encoding="utf-8")
    return folder
