"""Connections that servers keep open between requests."""

from __future__ import annotations

from typing import Final

KEEP_ALIVE_S: Final = 75
"""How long a server keeps a connection that nobody uses.

Longer than clients and load balancers do (5 to 60 s), so that it is they who close it. Where both do so at the same time, a request
meets a connection that is being closed, and whoever sent it cannot tell whether it was taken.
"""
