"""Reading Python files as syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path


def parsed(path: Path) -> ast.Module:
    """Returns a file's syntax tree.

    CPython 3.11 up to 3.11.8 may say `AST constructor recursion depth mismatch` when the garbage collector runs other code in
    the middle of building a tree (python/cpython#106905). The file is fine, and asked again it answers.
    """
    source = path.read_text(encoding="utf-8")
    try:
        return ast.parse(source)
    except SystemError:
        return ast.parse(source)
