"""Forgets what the library has compiled or remembered; as a pytest plugin, before each test.

A test that meets a policy which an earlier test has compiled would not run what compiles, and would not count as one that reaches it.
"""

from __future__ import annotations

import functools
import sys


def forget() -> None:
    """Forgets all that was compiled or remembered, but for the grammar, which is not changed."""
    from holdfast_verdict.engine import program

    program._PROGRAMS.clear()
    program._KNOWN.clear()
    for name, module in list(sys.modules.items()):
        if name.startswith("holdfast_verdict"):
            for member in vars(module).values():
                if isinstance(member, functools._lru_cache_wrapper) and not member.__module__.endswith(".grammar"):
                    member.cache_clear()


def pytest_runtest_setup() -> None:
    """Forgets before each test."""
    forget()
