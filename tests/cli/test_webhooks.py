"""Webhooks on the command line, against a whole stack with a receiver inside that its operator has opened."""

from __future__ import annotations

import json
import re

from .desk import Desk


async def test_a_webhook_is_added_tried_and_removed(desk: Desk) -> None:
    assert (await desk.holdfast("webhooks")).stdout == "nobody is told of anything\n"
    done = await desk.holdfast("webhooks", "add", "https://127.0.0.1:9/hook", "--event", "hold.unknown")
    assert done.exit_code == 0, done.output
    webhook = re.search(r"^webhook +(\S+)$", done.stdout, re.MULTILINE)
    assert webhook
    assert re.search(r"^public key whpk_\S+$", done.stdout, re.MULTILINE), (
        "the sender of the stack has made its key known"
    )
    listed = (await desk.holdfast("webhooks")).stdout.splitlines()
    assert listed[1].split()[:3] == [webhook[1], "https://127.0.0.1:9/hook", "hold.unknown"]
    tried = await desk.holdfast("webhooks", "test", webhook[1])
    assert tried.exit_code == 1, "nothing goes inside that was not opened"
    assert "not an address on the public internet" in tried.stdout
    shown = (await desk.holdfast("webhooks", "show", webhook[1])).stdout
    # it is tried again in seconds, and may have been by now
    assert re.search(r"webhook\.test +waiting, (1 attempt|\d+ attempts), next at ", shown)
    answer = json.loads((await desk.holdfast("webhooks", "show", webhook[1], "--json")).stdout)
    assert (answer["webhook"]["webhook_id"], len(answer["deliveries"])) == (webhook[1], 1)
    enabled = await desk.holdfast("webhooks", "enable", webhook[1])
    assert "0 that had been given up" in enabled.stdout
    assert (await desk.holdfast("webhooks", "remove", webhook[1])).exit_code == 0
    again = await desk.holdfast("webhooks", "remove", webhook[1])
    assert (again.exit_code, "resource.not_found" in again.stderr) == (1, True)


async def test_a_wrong_webhook_is_refused_in_a_sentence(desk: Desk) -> None:
    for arguments, exit_code, says in (
        (["https://hooks.example.com"], 2, "--event"),
        (["http://hooks.example.com", "--event", "run.ended"], 1, "https"),
        (["https://hooks.example.com", "--event", "answer.delta"], 1, "events"),
    ):
        done = await desk.holdfast("webhooks", "add", *arguments)
        assert (done.exit_code, says in done.stderr) == (exit_code, True), done.output
