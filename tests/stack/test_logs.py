"""Logs are JSON lines on stderr, and carry no secrets."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from holdfast.errors import ConfigurationInvalid
from holdfast.logs import REDACTED, configure, redact
from tests.stack.places import ROOT

PROGRAM = """
import logging, structlog
from holdfast.logs import configure
early = structlog.get_logger("early")
configure("tester", "info")
log = structlog.get_logger("mine")
structlog.contextvars.bind_contextvars(run_id="r-1")
early.info("ready", port=80, api_key="sk-ant-0123456789", input_tokens=12, nested={"password": "p", "ok": [1, {"token": "t"}]})
log.debug("not shown")
logging.getLogger("library").warning("connect to %s", "postgresql://me:hunter2@db/holdfast")
class Refused(Exception):
    code = "thing.refused"
try:
    try:
        secret_local = "in a local variable"
        raise ValueError("hunter2")
    except ValueError as error:
        raise Refused("hunter2 again") from error
except Refused:
    log.exception("failed", value=object)
log.info("two\\nlines")
import asyncio, gc
async def fails(): raise ValueError("hunter2")
async def forgets():
    asyncio.create_task(fails())
    await asyncio.sleep(0.01)
    gc.collect()
asyncio.run(forgets())
raise RuntimeError("hunter2")
"""


def test_every_line_is_json_with_who_when_and_what() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    ready, library, failed, two, task, crashed = (json.loads(line) for line in done.stderr.splitlines())
    assert ready == {
        "event": "ready",
        "level": "info",
        "logger": "early",
        "process": "tester",
        "run_id": "r-1",
        "timestamp": ready["timestamp"],
        "port": 80,
        "api_key": REDACTED,
        "input_tokens": 12,
        "nested": {"password": REDACTED, "ok": [1, {"token": REDACTED}]},
    }
    assert ready["timestamp"].endswith("Z")
    assert (library["logger"], library["event"]) == ("library", f"connect to postgresql://me:{REDACTED}@db/holdfast")
    assert (failed["error"], failed["error_code"], failed["causes"]) == ("Refused", "thing.refused", ["ValueError"])
    assert failed["places"] == ["<string>:18 <module>", "<string>:16 <module>"]
    assert two["event"] == "two\nlines"
    assert (task["logger"], task["event"]) == ("asyncio", "Task exception was never retrieved")
    assert (crashed["level"], crashed["event"], crashed["error"]) == ("critical", "process.crashed", "RuntimeError")
    assert "hunter2" not in done.stderr


SECRET_NAMES = (
    *("api_key", "X-Api-Key", "Authorization", "password", "db_password", "permit", "lease_token", "token", "prompt"),
    *("arguments", "raw_arguments", "credential", "private_key", "cookie", "dsn", "database.secret", "system"),
)
PLAIN_NAMES = ("input_tokens", "max_tokens", "key_id", "token_count", "arguments_digest", "system_digest", "permit_id")


@pytest.mark.parametrize("key", SECRET_NAMES)
def test_values_under_names_of_secrets_are_taken_out(key: str) -> None:
    assert redact({key: "value", "other": "kept"}) == {key: REDACTED, "other": "kept"}
    assert redact({key: {"a": ["b"]}}) == {key: REDACTED}
    assert redact({key: None}) == {key: None}


@pytest.mark.parametrize("key", PLAIN_NAMES)
def test_counts_ids_and_digests_stay(key: str) -> None:
    assert redact({key: 7}) == {key: 7}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("redis://:pw@127.0.0.1:6380/0", f"redis://:{REDACTED}@127.0.0.1:6380/0"),
        ("Authorization: Bearer abc.def-123", f"Authorization: Bearer {REDACTED}"),
        ("GET /v1/stream?token=abc&after=3", f"GET /v1/stream?token={REDACTED}&after=3"),
        ("key sk-proj-abcdefghijk refused", f"key {REDACTED} refused"),
        ("http://127.0.0.1:8080/v1/runs", "http://127.0.0.1:8080/v1/runs"),
        ("mail to a@b.example", "mail to a@b.example"),
    ],
)
def test_secrets_inside_of_texts_are_taken_out(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_ready_is_said_at_every_level() -> None:
    program = """
import structlog
from holdfast.logs import configure
configure("tester", "error")
log = structlog.get_logger("tester")
log.info("something")
log.info("ready")
log.error("bad")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["ready", "bad"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigurationInvalid, match="HOLDFAST_LOG_LEVEL is 'loud'"):
        configure("tester", "loud")
