"""What a provider's refusal means: whether it was billed, whether to try again, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from holdfast.providers.answer import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

RETRY_AFTER_MS_MAX = 3_600_000
_REQUEST_TIMEOUT, _CONFLICT, _TOO_MANY = 408, 409, 429
_CLIENT_ERRORS = range(400, 500)
_SERVER_ERRORS = range(500, 600)


def retry_after_ms(headers: Mapping[str, str], now: datetime) -> int | None:
    """Returns how long a response asks to wait (`retry-after-ms`, or `retry-after` in seconds or as a date)."""
    if (milliseconds := headers.get("retry-after-ms")) is not None and (wait := _scaled(milliseconds, 1)) is not None:
        return wait
    value = headers.get("retry-after")
    if value is None:
        return None
    if (wait := _scaled(value, 1_000)) is not None:
        return wait
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, min((moment - now) // timedelta(milliseconds=1), RETRY_AFTER_MS_MAX))


def _scaled(text: str, factor: int) -> int | None:
    try:
        amount = Decimal(text.strip())
    except InvalidOperation:
        return None
    if not amount.is_finite() or amount < 0:
        return None
    return min(int(min(amount, Decimal(RETRY_AFTER_MS_MAX)) * factor), RETRY_AFTER_MS_MAX)


def status_failure(status: int, message: str, headers: Mapping[str, str], now: datetime) -> Failure:
    """Returns what an HTTP status other than 2xx means.

    A 4xx says that nothing was done, except for 408, which says only that the server gave up; a 5xx may come after the
    work was done and billed (LAW 4).
    """
    wait = retry_after_ms(headers, now)
    text = f"HTTP {status}: {message}" if message else f"HTTP {status}"
    if status == _TOO_MANY:
        return Failure("provider.rate_limited", text, retryable=True, cost="nothing", retry_after_ms=wait)
    if status == _REQUEST_TIMEOUT:
        return Failure("provider.timeout", text, retryable=True, cost="unknown", retry_after_ms=wait)
    if status in _CLIENT_ERRORS:
        retryable = status == _CONFLICT
        return Failure("provider.refused", text, retryable=retryable, cost="nothing", retry_after_ms=wait)
    retryable = status in _SERVER_ERRORS
    return Failure("provider.failed", text, retryable=retryable, cost="unknown", retry_after_ms=wait)


def stream_failure(error_type: str | None, message: str) -> Failure:
    """Returns what an error event inside a stream that had begun with 200 means."""
    text = f"{error_type}: {message}" if error_type else message
    if error_type == "rate_limit_error":
        return Failure("provider.rate_limited", text, retryable=True)
    if error_type in ("invalid_request_error", "authentication_error", "permission_error"):
        return Failure("provider.refused", text, retryable=False)
    return Failure("provider.failed", text, retryable=True)
