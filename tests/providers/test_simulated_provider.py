"""The simulated provider itself, through the real SDKs and by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import anthropic
import openai
import pytest

from cli.simulated_provider.brain import (
    BrainMessage,
    BrainReply,
    BrainRequest,
    BrainToolCall,
    default_brain,
    load_brain,
)
from holdfast.errors import ConfigurationInvalid
from holdfast.providers.model import Wire
from holdfast_verdict.canonical import JsonValue

from .simulated import API_KEY, MAIL, WIRES, Simulated, call, cut_off, request_for, running, script


def asked(text: str, *turns: str) -> BrainRequest:
    messages = [BrainMessage("user", text), *(BrainMessage("assistant", turn) for turn in turns)]
    return BrainRequest("m", "", tuple(messages), ())


def test_a_script_is_played_step_by_step() -> None:
    text = "do it\n" + script(
        {"think": "hm", "say": "one"}, {"tool": "a.b", "arguments": {"x": 1}}, {"tools": [{"tool": "c"}, {"tool": "d"}]}
    )
    assert default_brain(asked(text)) == BrainReply("one", "hm")
    assert default_brain(asked(text, "1")) == BrainReply(tool_calls=(BrainToolCall("a.b", {"x": 1}),))
    assert default_brain(asked(text, "1", "2")) == BrainReply(tool_calls=(BrainToolCall("c"), BrainToolCall("d")))
    assert default_brain(asked(text, "1", "2", "3")) == BrainReply("done")


@pytest.mark.parametrize(
    "text", ["#!script [", "#!script {}", "#!script [1]", "#!script [{}]", '#!script [{"tools":[1]}]']
)
def test_a_script_that_cannot_be_played_says_so(text: str) -> None:
    assert default_brain(asked(text)).text.startswith("simulated: the script cannot be played: ")


def test_without_a_script_the_answer_is_labelled() -> None:
    assert default_brain(asked("hi")).text.startswith("simulated: ")


@pytest.mark.parametrize(
    "name", ["json", "no_such_module:x", "json:no_such_function", "cli.simulated_provider.brain:SCRIPT_MARK"]
)
def test_a_brain_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigurationInvalid):
        load_brain(name)


def test_the_messages_sdk_gets_a_whole_document(simulated: Simulated) -> None:
    client = anthropic.Anthropic(api_key=API_KEY, base_url=simulated.url, max_retries=0)
    step = script({"say": "so", "tool": "mail.send", "arguments": {"to": "a"}})
    with client:
        message = client.messages.create(
            model="claude-haiku-4-5", max_tokens=100, messages=[{"role": "user", "content": step}]
        )
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens > 0
    assert message._request_id == "req_sim_000001"


def test_the_completions_sdk_gets_a_whole_document(simulated: Simulated) -> None:
    client = openai.OpenAI(api_key=API_KEY, base_url=f"{simulated.url}/v1", max_retries=0)
    step = script({"say": "so", "tool": "mail.send", "arguments": {"to": "a"}})
    with client:
        completion = client.chat.completions.create(model="gpt-4.1", messages=[{"role": "user", "content": step}])
    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "so"
    assert choice.message.tool_calls is not None
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


@pytest.mark.parametrize("fault", [{"kind": "cut"}, {"kind": "cut", "at": "start"}, {"kind": "cut", "at": "end"}])
def test_a_whole_document_can_be_cut_as_well(simulated: Simulated, fault: dict[str, Any]) -> None:
    simulated.faults([fault])
    client = openai.OpenAI(api_key=API_KEY, base_url=f"{simulated.url}/v1", max_retries=0)
    with client, pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="gpt-4.1", messages=[{"role": "user", "content": "hi"}])
    assert simulated.calls()[0]["state"] == "aborted"


def post(url: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as reply:
            return reply.status, dict(reply.headers), json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), json.load(error)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", b"no json"),
        ("/v1/messages", b"[]"),
        ("/v1/messages", b'{"model":"m","messages":[]}'),
        ("/v1/messages", b'{"model":"m","max_tokens":0,"messages":[{"role":"user","content":"x"}]}'),
        ("/v1/messages", b'{"model":"m","max_tokens":1,"messages":[{"role":"robot","content":"x"}]}'),
        (
            "/v1/messages",
            b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t"}]}]}',
        ),
        ("/v1/chat/completions", b'{"model":"m"}'),
        ("/v1/chat/completions", b'{"model":"m","messages":[{"role":"tool","tool_call_id":"c","content":"x"}]}'),
    ],
)
def test_malformed_requests_are_refused_with_the_label_and_not_journaled(
    simulated: Simulated, path: str, body: bytes
) -> None:
    status, headers, document = post(simulated.url + path, body, **{"x-api-key": "k", "authorization": "Bearer k"})
    assert status == 400
    assert headers["x-holdfast-simulated"] == "true"
    assert "simulated: " in document["error"]["message"]
    assert simulated.calls() == []
    assert post(simulated.url + path, body)[0] == 401


@pytest.mark.parametrize(
    "orders",
    [
        {},
        [1],
        [{"kind": "no such"}],
        [{"kind": "cut", "at": "nowhere"}],
        [{"kind": "cut", "x": 1}],
        [{"kind": "cut", "times": 0}],
    ],
)
def test_faults_without_meaning_are_refused_whole(simulated: Simulated, orders: Any) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        simulated.faults(orders if not isinstance(orders, list) else [{"kind": "empty"}, *orders])
    with caught.value:
        assert caught.value.code == 422
    assert simulated.faults([])["waiting"] == 0


async def test_faults_meet_calls_in_order_once_each(simulated: Simulated) -> None:
    simulated.faults([{"kind": "status", "status": 503, "times": 2}, {"kind": "empty"}])
    outcomes = [await call(simulated, request_for("anthropic")) for _ in range(4)]
    assert [outcome.error_code for outcome in outcomes] == ["provider.failed", "provider.failed", None, None]
    assert [outcome.text == "" for outcome in outcomes] == [True, True, True, False]
    journal = simulated.calls()
    assert [entry["order"] for entry in journal] == [1, 2, 3, 4]
    assert [entry["billed"] for entry in journal] == [False, False, True, True]
    assert [entry["completed"] for entry in journal] == [False, False, True, True]


@pytest.mark.parametrize("wire", WIRES)
async def test_a_brain_of_ones_own_sees_the_same_on_both_wires(wire: Wire) -> None:
    with running("--brain", "tests.providers.shouting_brain:answer", "--delay-ms", "1", "--chunk-delay-ms", "1") as (
        own,
        _process,
    ):
        request = request_for(wire)
        assert (await call(own, request)).text == "BE BRIEF|USER|NONE|TRUE|HELLO|('MAIL.SEND',)"
        asked_for: dict[str, JsonValue] = {"call_id": "c", "tool": MAIL.name, "arguments": {}, "raw_arguments": "{}"}
        request.entries.append({"kind": "assistant", "text": "", "thinking": "", "tool_calls": [asked_for]})
        request.entries.append(
            {"kind": "tool_result", "call_id": "c", "tool": MAIL.name, "ok": True, "content": "sent"}
        )
        assert (await call(own, request)).text == "BE BRIEF|TOOL|MAIL.SEND|TRUE|SENT|('MAIL.SEND',)"


async def test_sigterm_ends_it_gracefully_even_while_a_call_waits() -> None:
    with running() as (own, process):
        outcome = await cut_off(own, request_for("openai"), "start")
        assert outcome.error_code == "provider.timeout"
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_port_that_is_taken_is_named() -> None:
    with running() as (own, _process):
        port = own.url.rpartition(":")[2]
        command = [sys.executable, "-m", "cli.simulated_provider", "--port", port]
        failed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 1
    assert "cannot start" in failed.stderr
