"""No beat of an executor is held back, whatever the timeout that may be set."""

from __future__ import annotations

from datetime import timedelta

from annotated_types import Ge

from activities.heartbeat import BEATS, THROTTLE
from holdfast.settings import GovernorSettings


def test_the_sdk_holds_no_beat_back_also_under_the_shortest_timeout() -> None:
    [least] = [one.ge for one in GovernorSettings.model_fields["heartbeat_timeout_ms"].metadata if isinstance(one, Ge)]
    assert isinstance(least, int)
    assert timedelta(milliseconds=least) / BEATS > THROTTLE
