"""Logs: JSON lines on stderr, one form for our own and for libraries' messages, with secrets taken out."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
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
_QUIET: Final = ("httpx", "httpcore", "httpx2", "anthropic", "openai", "asyncio")


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
    # Tracebacks as text, without local variables: those hold keys, prompts and arguments.
    finish: list[Processor] = [structlog.processors.format_exc_info, _redact]
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
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish, _render()],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    logging.getLogger(process).setLevel(min(threshold, logging.INFO))
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
