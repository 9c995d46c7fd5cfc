"""Logs: JSON lines on stderr, one form for our own and for libraries' messages, with secrets taken out.

What stands in a line: who (`process`, `logger`), when, how serious, what (`event`), the ids of what it is about (`request_id`,
`run_id`, `tenant_id`, `step`, `hold_id`), and of a failure its type, code and places. Never what a failure says: messages of
tools, providers and databases quote what they were given.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from holdfast.errors import ConfigurationInvalid

REDACTED: Final = "[redacted]"

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# A key is sensitive if it ends in one of these, word by word: `lease_token` is, `input_tokens` and `key_id` are not.
_SENSITIVE: Final = (
    "api_key",
    "apikey",
    "arguments",
    "args",
    "authorization",
    "cookie",
    "credential",
    "credentials",
    "dsn",
    "edited_action",
    "messages",
    "passphrase",
    "password",
    "permit",
    "private_key",
    "prompt",
    "secret",
    "secrets",
    "signing_key",
    "system",
    "token",
    "transcript",
    "vault_key",
)
_WORDS = re.compile(r"[^a-z0-9]+")
_IN_TEXT: Final = (
    (re.compile(r"(\w+://[^\s:/@]*:)[^\s@/]+(@)"), rf"\g<1>{REDACTED}\g<2>"),  # the password of a URL
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]+"), rf"\g<1>{REDACTED}"),
    (re.compile(r"(?i)([?&][\w-]*(?:token|key|secret|password)=)[^&\s\"']+"), rf"\g<1>{REDACTED}"),
    (re.compile(r"\bsk-[\w-]{8,}"), REDACTED),  # a provider's key
)
# They log every request they make, with its URL; what matters of it is in our own events.
_QUIET: Final = ("httpx", "httpcore", "httpx2", "anthropic", "openai", "asyncio", "sqlalchemy", "uvicorn")
# What it says for debugging are whole messages of Temporal's, some of them decrypted: permits are among them.
_NEVER_DEBUG: Final = ("temporalio",)
_ROOT: Final = f"{Path(__file__).parent.parent}/"
_PLACES_MAX: Final = 20
_CAUSES_MAX: Final = 8


def _is_sensitive(key: str) -> bool:
    name = _WORDS.sub("_", key.lower()).strip("_")
    return any(name == word or name.endswith(f"_{word}") for word in _SENSITIVE)


def redact(value: object) -> object:
    """Returns a value without its secrets: those under keys that name one, and those that texts are known to carry."""
    if isinstance(value, dict):
        return {
            key: REDACTED
            if isinstance(key, str) and _is_sensitive(key) and item is not None and not isinstance(item, bool)
            else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item) for item in value]
    if isinstance(value, str):
        for pattern, replacement in _IN_TEXT:
            value = pattern.sub(replacement, value)
    return value


def _redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    cleaned = redact(dict(event))
    assert isinstance(cleaned, dict)
    return cleaned


def _name_process(process: str) -> Processor:
    def add(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return add


def _code_of(error: BaseException) -> str:
    """Returns the stable code of an error: ours, the type that it has in Temporal, or PostgreSQL's."""
    for name in ("code", "type", "sqlstate"):
        value = getattr(error, name, None)
        if isinstance(value, str) and value:
            return value[:80]
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _place(frame: traceback.FrameSummary) -> str:
    path = frame.filename.removeprefix(_ROOT).rpartition("site-packages/")[2]
    return f"{path}:{frame.lineno} {frame.name}"


def describe_failure(error: BaseException) -> dict[str, object]:
    """Returns what a log may say of a failure: types, codes and places; no message, and no line of code."""
    chain = list(_causes(error))
    described: dict[str, object] = {"error": type(error).__qualname__}
    if code := next(filter(None, map(_code_of, chain)), ""):
        described["error_code"] = code
    if len(chain) > 1:
        described["causes"] = [type(cause).__qualname__ for cause in chain[1:]]
    innermost = next((cause for cause in reversed(chain) if cause.__traceback__ is not None), error)
    frames = [*traceback.extract_tb(error.__traceback__)]
    if innermost is not error:
        frames += traceback.extract_tb(innermost.__traceback__)
    described["places"] = [_place(frame) for frame in frames[-_PLACES_MAX:]]
    return described


def _describe_failures(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    information = event.pop("exc_info", None)
    if information is True:
        information = sys.exc_info()
    error = information[1] if isinstance(information, tuple) else information
    if isinstance(error, BaseException):
        for name, value in describe_failure(error).items():
            event.setdefault(name, value)
    event.pop("stack_info", None)
    return event


def _tame_library(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Of a library's message only the first line stays: what follows shows objects, and those show what they hold."""
    text = str(event.get("event", ""))
    event["event"] = text.strip().partition("\n")[0]
    record = event.get("_record")
    for details in (getattr(record, "temporal_workflow", None), getattr(record, "temporal_activity", None)):
        if isinstance(details, dict):
            event.setdefault("run_id", details.get("workflow_id"))
            for name in ("activity_type", "attempt"):
                if name in details:
                    event.setdefault(name, details[name])
    for name, value in getattr(record, "holdfast", {}).items():
        event.setdefault(name, value)
    return event


def _log_uncaught() -> None:
    """Puts into the log what would otherwise stand on stderr with its message: what ends a thread or the process."""
    log = structlog.get_logger("uncaught")

    def crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        log.critical("process.crashed", exc_info=error)

    def thread_crashed(failure: threading.ExceptHookArgs) -> None:
        log.error("thread.crashed", exc_info=failure.exc_value)

    def unraisable(failure: sys.UnraisableHookArgs) -> None:
        log.error("failure.unraisable", exc_info=failure.exc_value)

    sys.excepthook = crashed
    threading.excepthook = thread_crashed
    sys.unraisablehook = unraisable
    logging.captureWarnings(True)


def _render() -> Callable[[WrappedLogger, str, EventDict], str]:
    def render(_: WrappedLogger, __: str, event: EventDict) -> str:
        # what is no JSON value is shown as text; a log line never fails
        return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z).decode()

    return render


def _says_ready(record: logging.LogRecord) -> bool:
    """Whoever started the process waits for this line, whatever the level."""
    return isinstance(record.msg, dict) and record.msg.get("event") == "ready"


def configure(process: str, level: str = "info") -> None:
    """Sends all logs of this process to stderr as JSON lines.

    Args:
        process: Stands in every line as `process`.
        level: `debug`, `info`, `warning` or `error`.

    Raises:
        ConfigurationInvalid: There is no such level.
    """
    if level.lower() not in _LEVELS:
        raise ConfigurationInvalid(
            f"HOLDFAST_LOG_LEVEL is {level!r}", remedy=f"set it to one of {', '.join(_LEVELS)}"
        ) from None
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        _name_process(process),
    ]
    finish: list[Processor] = [_describe_failures, _redact]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    threshold = _LEVELS[level.lower()]
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: record.levelno >= threshold or _says_ready(record))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _tame_library],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish, _render()],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    logging.getLogger(process).setLevel(min(threshold, logging.INFO))
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in _NEVER_DEBUG:
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
    _log_uncaught()
