"""Requests and answers: authentication, errors with their types, and repeating what may be repeated."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

import httpx

from sdk.errors import AnswerUnreadable, HoldfastApiError, NoAnswer

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
PATIENCE_S: Final = 30.0
"""How long a server may be away by default: longer than a process takes to be restarted."""
_PAUSE_FIRST_S: Final = 0.2
_PAUSE_MAX_S: Final = 5.0
_UNAVAILABLE: Final = 503
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Transport:
    """One server and one key. Thread-safe."""

    def __init__(self, base_url: str, api_key: str, patience_s: float = PATIENCE_S) -> None:
        """Opens nothing yet.

        Args:
            base_url: Such as `http://127.0.0.1:8080`.
            api_key: `hf_…`.
            patience_s: How long a server may be away until a request is given up.
        """
        self._patience_s = patience_s
        self._base_url = base_url.rstrip("/")
        self._client = httpx.Client(
            base_url=self._base_url,
            headers={"authorization": f"Bearer {api_key}", "user-agent": "holdfast-sdk"},
            timeout=_TIMEOUT,
            # a proxy of the environment has no business between two processes of one machine
            trust_env=httpx.URL(base_url).host not in _LOOPBACK,
        )

    def close(self) -> None:
        """Closes connections."""
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
        repeatable: bool = True,
        timeout_s: float | None = None,
    ) -> Any:
        """Makes a request and returns what came, read as JSON; None without a body. Any: its reader checks it.

        Every POST carries an Idempotency-Key. It is sent again, with the same key, when it cannot have arrived, when the
        server was unavailable and so did nothing, and, if `repeatable`, when the answer was lost; until patience ends.

        Raises:
            HoldfastApiError: The server refused.
            NoAnswer: It could not be reached, or its answer was lost.
            AnswerUnreadable: What answered is not Holdfast.
        """
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())} if method == "POST" else {}
        parameters = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        tries, give_up_at = 0, time.monotonic() + self._patience_s
        while True:
            tries += 1
            pause_s = min(_PAUSE_FIRST_S * 2 ** (tries - 1), _PAUSE_MAX_S) * random.uniform(0.8, 1.2)  # noqa: S311 (jitter)
            try:
                response = self._client.request(
                    method,
                    path,
                    params=parameters,
                    json=None if body is None else dict(body),
                    headers=headers,
                    timeout=_TIMEOUT if timeout_s is None else httpx.Timeout(timeout_s, connect=5.0),
                )
                return _read(response)
            except HoldfastApiError as error:
                pause_s = min(max(pause_s, error.retry_after_s or 0), _PAUSE_MAX_S)
                if error.status != _UNAVAILABLE or time.monotonic() + pause_s > give_up_at:
                    raise
            except httpx.TransportError as error:
                sent = not isinstance(error, _NEVER_SENT)
                if time.monotonic() + pause_s > give_up_at or (sent and not repeatable):
                    raise NoAnswer(self._no_answer(error), sent=sent) from None
            time.sleep(pause_s)

    @contextmanager
    def stream(
        self, path: str, *, query: Mapping[str, object] = _NOTHING, headers: Mapping[str, str], silence_s: float
    ) -> Iterator[httpx.Response | None]:
        """Opens a stream; gives out None if there is nothing more to come.

        Args:
            path: What to follow.
            query: Its parameters.
            headers: More headers.
            silence_s: After so long without a byte the connection counts as lost.

        Raises:
            HoldfastApiError: The server refused.
            NoAnswer: It could not be reached, or the connection was lost.
        """
        parameters = {name: _text(value) for name, value in query.items() if value is not None}
        try:
            with self._client.stream(
                "GET", path, params=parameters, headers=dict(headers), timeout=httpx.Timeout(silence_s, connect=5.0)
            ) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    yield None
                    return
                if not response.is_success:
                    response.read()
                    _read(response)
                yield response
        except httpx.TransportError as error:
            raise NoAnswer(self._no_answer(error), sent=not isinstance(error, _NEVER_SENT)) from None

    def _no_answer(self, error: httpx.TransportError) -> str:
        what = "cannot be reached" if isinstance(error, _NEVER_SENT) else "did not answer"
        return f"{self._base_url} {what} ({type(error).__name__})"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(response: httpx.Response) -> Any:  # see Transport.request
    if response.is_success and not response.content:
        return None
    try:
        value = response.json()
    except ValueError:
        value = None
    if response.is_success and value is not None:
        return value
    if not response.is_success and isinstance(value, dict) and "code" in value:
        raise HoldfastApiError.from_problem(response.status_code, value, _retry_after_s(response))
    raise AnswerUnreadable(
        f"{response.request.url} answered with status {response.status_code} and nothing that Holdfast would say"
    )


def _retry_after_s(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None
