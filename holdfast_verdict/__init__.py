"""What may happen, and can anyone check it? The pure deciding core: no I/O, no clock, no randomness.

The names below are the library's; each is imported when it is first asked for, so that a server that wants hashes alone
loads no parser.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

# the module of tables comes first: importing it binds its name here, and the function of the same name must be the last to do so
import holdfast_verdict.decide  # noqa: F401 (see above)  # isort: skip
from holdfast_verdict.engine.deciding import decide  # isort: skip

if TYPE_CHECKING:
    from holdfast_verdict.engine.deciding import decide_call
    from holdfast_verdict.engine.facts import Facts

_HOMES: Final = {
    "Facts": "engine.facts",
    "decide_call": "engine.deciding",
}

__all__ = ["Facts", "decide", "decide_call"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
