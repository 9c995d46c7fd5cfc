"""Messages of executing activities."""

from __future__ import annotations

from holdfast.contracts.run import Message


class ExecuteRequest(Message):
    """All an executing activity is given: what to do is fetched with the permit."""

    permit: str


class ExecuteReply(Message):
    """The outcome is stored under the hold; settling works from there, so the reply says only that."""

    stored: bool
