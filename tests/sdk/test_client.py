"""The client against a server that fails as a test wants it to."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from cli.stack.ports import Ports
from sdk import AnswerUnreadable, CodeMeaning, Holdfast, HoldfastApiError, NoAnswer
from sdk import events as sdk_events
from tests.stack.places import ROOT

from .scripted_server import LOST, Reply, answer, problem, scripted

MADE = {
    "run_id": "r",
    "agent": "a",
    "agent_version": 1,
    "role": "x",
    "role_version": 1,
    "project": "p",
    "user": "u",
    "cap_nano_usd": 1,
    "guaranteed": False,
    "parent_run_id": None,
    "decision_id": "d",
    "created_at": "2026-06-01T10:00:00Z",
    "deadline_at": "2026-06-01T10:00:00Z",
    "what_a_newer_server_adds": True,
}
MEANING = {
    "code": "budget.insufficient",
    "cause": "because",
    "remedy": "mend it",
    "places": ["API"],
    "status": 402,
    "verdict": "deny",
}
KEY = {"key_id": "k", "prefix": "hf_x", "user": "u", "project": "p", "roles": ["viewer"], "key": "hf_secret"}


def frame(seq: str, type_: str = "tick", **data: Any) -> bytes:
    """One event on the wire, written as the API writes it."""
    number = int(seq.partition(".")[0])
    event = {"id": seq, "seq": number, "run": "r", "time": "2026-06-01T10:00:00Z", "channel": "c", "type": type_}
    return f"id: {seq}\ndata: {json.dumps({**event, 'data': data}, ensure_ascii=False)}\n\n".encode()


def stream(*frames: bytes, cut: bool = True) -> Reply:
    return Reply(200, b"retry: 1000\n\n" + b"".join(frames), {"content-type": "text/event-stream"}, cut=cut)


def test_nothing_of_the_server_is_imported() -> None:
    rooms = ["holdfast", "holdfast_verdict", "api", "cli", "workers", "activities", "workflows", "sandbox", "pydantic"]
    code = f"import sys, sdk; print([room for room in {rooms} if room in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_lost_answer_is_asked_for_again_under_the_same_key() -> None:
    with scripted(LOST, LOST, answer(MADE, 201)) as server, Holdfast(server.url, "hf_k") as client:
        assert client.create_run("a", "hello").run_id == "r"
    keys = {request.headers["idempotency-key"] for request in server.requests}
    assert len(server.requests) == 3
    assert len(keys) == 1
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer hf_k"}


def test_every_new_request_has_a_key_of_its_own_unless_one_is_given() -> None:
    with scripted(*[answer(MADE, 201)] * 3) as server, Holdfast(server.url, "hf_k") as client:
        client.create_run("a", "hello")
        client.create_run("a", "hello")
        client.create_run("a", "hello", idempotency_key="mine")
    first, second, third = (request.headers["idempotency-key"] for request in server.requests)
    assert first != second
    assert third == "mine"


def test_what_cannot_be_repeated_is_not() -> None:
    with scripted(LOST, answer(KEY, 201)) as server, Holdfast(server.url, "hf_k") as client:
        with pytest.raises(NoAnswer) as lost:
            client.create_key("u", "p", ["viewer"])
        assert lost.value.sent
        made = client.create_key("u", "p", ["viewer"])
    assert made.key == "hf_secret"
    assert "hf_secret" not in repr(made)


def test_an_unavailable_server_is_asked_again_and_a_refusal_is_not() -> None:
    away = problem(503, "part.unavailable", retry_after="0")
    with scripted(away, away, answer(MADE, 201), problem(402, "budget.insufficient"), answer(MEANING)) as server:
        with Holdfast(server.url, "hf_k") as client:
            client.create_run("a", "hello")
            with pytest.raises(HoldfastApiError) as refused:
                client.create_run("a", "hello")
            meaning = client.explain(refused.value.code)
        error = refused.value
        assert (error.code, error.status, error.request_id) == ("budget.insufficient", 402, "r-1")
        assert error.detail == "because budget.insufficient"
        assert error.remedy == "mend budget.insufficient"
        assert meaning == CodeMeaning(error.code, "because", "mend it", ["API"], 402, "deny")
        assert server.requests[-1].path == error.help_path
        assert len(server.requests) == 5


def test_a_server_that_is_restarted_is_waited_for_under_the_same_key() -> None:
    port = Ports.free().api  # not one that the system may give to somebody else meanwhile
    back = threading.Event()

    def restart() -> None:
        time.sleep(2.5)  # longer than a few quick tries would take
        with scripted(
            problem(503, "service.unavailable", retry_after="1"), LOST, answer(MADE, 201), port=port
        ) as later:
            back.wait(60)
            keys.extend(request.headers["idempotency-key"] for request in later.requests)

    keys: list[str] = []
    restarting = threading.Thread(target=restart)
    restarting.start()
    with Holdfast(f"http://127.0.0.1:{port}", "hf_k") as client:
        made = client.create_run("a", "hello")
    back.set()
    restarting.join()
    assert made.run_id == MADE["run_id"]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_what_is_not_holdfast_is_said_to_be_something_else() -> None:
    pages = [
        Reply(200, b"<html>"),
        Reply(502, b"<html>"),
        answer({"error": "x"}, 404),
        answer({"tenant": "t"}),
        answer([]),
    ]
    with scripted(*pages) as server, Holdfast(server.url, "hf_k") as client:
        for _ in pages:
            with pytest.raises(AnswerUnreadable):
                client.me()
        assert not server.replies


def test_a_server_that_is_not_there_is_said_to_be_away() -> None:
    port = Ports.free().api
    with Holdfast(f"http://127.0.0.1:{port}", "hf_k", patience_s=0.5) as client, pytest.raises(NoAnswer) as away:
        client.me()
    assert not away.value.sent
    assert f"127.0.0.1:{port} cannot be reached" in str(away.value)


def test_a_proxy_of_the_environment_stays_out_of_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with scripted(answer(MADE, 201)) as server, Holdfast(server.url, "hf_k") as client:
        assert client.create_run("a", "hello").run_id == "r"


def test_lists_come_page_by_page() -> None:
    def page(*names: str, cursor: str | None) -> Reply:
        return answer({"items": [{**MADE, "run_id": name} for name in names], "next_cursor": cursor})

    with scripted(page("1", "2", cursor="next"), page("3", cursor=None)) as server, Holdfast(server.url, "k") as client:
        with pytest.raises(AnswerUnreadable):  # these are no decisions
            client.decisions()
        assert server.requests[0].path == "/v1/decisions?limit=200"


def test_events_come_once_and_in_order_over_connections_that_break() -> None:
    whole = [frame("1"), frame("1.1", text="a\u2028b\x0bc\x85d"), frame("2"), frame("3"), frame("4", "run.ended")]
    with (
        scripted(
            stream(whole[0], whole[1], whole[2][:20]),
            problem(503, "part.unavailable"),
            LOST,
            stream(whole[2], b": heartbeat\n\n", whole[3], cut=True),
            stream(whole[4], frame("5")),
        ) as server,
        Holdfast(server.url, "hf_k") as client,
    ):
        events = list(client.events("r", channels=["c"]))
    assert [event.id for event in events] == ["1", "1.1", "2", "3", "4"]
    assert [event.durable for event in events] == [True, False, True, True, True]
    assert events[1].data["text"] == "a\u2028b\x0bc\x85d"
    assert [request.headers.get("last-event-id") for request in server.requests] == [None, "1.1", "1.1", "1.1", "3"]
    assert {request.path for request in server.requests} == {"/v1/runs/r/events?channels=c"}


def test_events_that_have_all_been_seen_end_at_once() -> None:
    with scripted(Reply(204)) as server, Holdfast(server.url, "hf_k") as client:
        assert list(client.events("r", after="9")) == []
    assert server.requests[0].headers["last-event-id"] == "9"


def test_events_nobody_may_see_are_refused_and_a_server_gone_for_too_long_is_given_up() -> None:
    replies = (problem(404, "resource.not_found"), stream(frame("1")), LOST, LOST)
    with scripted(*replies) as server, Holdfast(server.url, "hf_k") as client:
        with pytest.raises(HoldfastApiError):
            next(client.events("r"))
        events = client.events("r", patience_s=0)
        assert next(events).id == "1"
        with pytest.raises(NoAnswer):
            next(events)


def test_an_event_in_pieces_is_whole_in_the_end() -> None:
    text = frame("1", text="é\u2028€")
    pieces = [text[i : i + 1] for i in range(len(text))]
    [(_, envelope)] = sdk_events._events(pieces)
    assert envelope is not None
    assert envelope["data"] == {"text": "é\u2028€"}
    with pytest.raises(AnswerUnreadable):
        list(sdk_events._events([b"data: {not json\n\n"]))


def test_a_filter_that_there_is_not_is_refused_before_anything_is_asked() -> None:
    with Holdfast("http://127.0.0.1:9", "hf_key") as client, pytest.raises(TypeError, match="agnet"):
        client.decisions(agnet="helper")  # type: ignore[call-arg]  # the mistake
