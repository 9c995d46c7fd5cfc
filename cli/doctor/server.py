"""A server's API as a client sees it: whether it answers, is ready, agrees about the time, and takes the key."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from cli.doctor.finding import Finding, failed, of_error, ok, warning
from cli.session import Session, api_errors
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    import httpx

_TIMEOUT_S: Final = 10.0
_SKEW_S: Final = 5
_LAG_MS: Final = 60_000
"""So long no record waits for its number while a governor runs."""
_PARTS: Final = ("postgresql", "temporal", "redis")


def api(session: Session, url: str) -> Iterator[Finding]:
    """Looks at the API at an address."""
    import httpx

    try:
        health = httpx.get(f"{url}/healthz", timeout=_TIMEOUT_S, trust_env=_elsewhere(url))
        ready = httpx.get(f"{url}/readyz", timeout=_TIMEOUT_S, trust_env=_elsewhere(url))
        healthy = health.is_success and health.json().get("status") == "ok"
        parts = ready.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield failed("api", f"{url} cannot be reached: {type(error).__name__}", "is it up? is this its address?")
        return
    except (ValueError, AttributeError):
        yield failed("api", f"{url} answers, but not as Holdfast does", "is this the address of Holdfast's API?")
        return
    if not healthy:
        yield failed("api", f"{url} answers with status {health.status_code}", "is this the address of Holdfast's API?")
        return
    yield ok("api", f"answers at {url}")
    yield from _readiness(parts)
    yield _clock(health)
    yield _key(session)
    yield from _log(session)


def _elsewhere(url: str) -> bool:
    import httpx

    return httpx.URL(url).host not in ("127.0.0.1", "localhost", "::1")


def _readiness(parts: object) -> Iterator[Finding]:
    states = parts if isinstance(parts, dict) else {}
    away = [name for name in _PARTS if states.get(name) != "ok"]
    if not away:
        yield ok("readiness", "the API reaches " + ", ".join(_PARTS))
    elif states.get("ready"):
        yield warning("readiness", f"the API does not reach {', '.join(away)}: events come late", "see that it runs")
    else:
        yield failed(
            "readiness", f"the API does not reach {', '.join(away)}", "see that it runs; requests get 503 until then"
        )


def _clock(answer: httpx.Response) -> Finding:
    try:
        theirs = parsedate_to_datetime(answer.headers["date"]).replace(tzinfo=UTC)  # HTTP knows no other zone
    except (KeyError, ValueError):
        return warning("clock", "the server does not say its time", "a proxy may leave its `Date` out")
    skew = abs(datetime.now(UTC) - theirs)
    seconds = skew // timedelta(seconds=1)
    if seconds > _SKEW_S:
        return warning("clock", f"differs from the server's by {seconds} s", "let both follow a time server (NTP)")
    return ok("clock", "agrees with the server's")


def _key(session: Session) -> Finding:
    from sdk import HoldfastSdkError

    try:
        with api_errors(session):
            me = session.client.me()
    except HoldfastError as error:
        return of_error("api key", error)
    except HoldfastSdkError as error:
        return failed("api key", str(error), "try again")
    return ok("api key", f"stands for {me.tenant}, project {me.project}, user {me.user}, roles {', '.join(me.roles)}")


def _log(session: Session) -> Iterator[Finding]:
    from sdk import HoldfastSdkError

    try:
        found = session.client.log_status()
    except HoldfastSdkError:
        return  # a key that may not read it, or an API that does not answer: the line above says which
    if found.lag_ms is not None and found.lag_ms > _LAG_MS:
        yield warning(
            "decision log",
            f"{found.waiting} records wait for their number, the oldest for {found.lag_ms // 1000} s",
            "see that a governor runs, and what it logs of its sequencer; until then these decisions cannot be proved",
        )
        return
    yield ok("decision log", f"{found.size} records, signed up to {found.checkpoint_size or 0}; {found.waiting} wait")
