"""What a run was told and has read, for rules that ask where a value is from: the transcripts of it and of the others of its family.

A child's task is what its parent's model said, and a message to a run of a family may be anybody's of it. Neither is ever taken for the
user's words; those are what the user said to the first run before it started another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast import transcript
from holdfast.actions.run_facts import RunFacts
from holdfast.actions.settling import NOT_DONE
from holdfast.policies.family import Family, users_words
from holdfast.policies.readings import SPAWN
from holdfast_verdict.engine.labels import UNTRUSTED, Yields
from holdfast_verdict.provenance.sources import Sources


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of what was read.

    Attributes:
        yields: Its labels, by action.
        labels: All of them.
    """

    yields: Mapping[str, Yields]
    labels: frozenset[str]

    def of(self, name: str) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
        """Returns the labels of an action's whole output, and those of its fields."""
        fields = dict(self.yields.get(name, UNTRUSTED))
        return fields.pop("", ()), fields


async def read_sources(
    connection: AsyncConnection, run: RunFacts, family: Family, head: bytes, heard: Heard
) -> Sources | None:
    """Returns everything that was said before an action was proposed; `None` if nobody can tell.

    Args:
        connection: The caller's transaction.
        run: The run.
        family: Its family.
        head: The transcript's entry that proposes the action.
        heard: What was read.
    """
    try:
        contents = await transcript.read(connection, run.tenant_id, run.run_id, head)
        others = await transcript.read_runs(connection, run.tenant_id, family.others) if family.others else []
    except transcript.TranscriptBroken:
        return None
    if others is None:
        return None
    hearing = _Hearing(heard)
    if family.others:
        hearing.begin(frozenset(await users_words(connection, run, family)), is_first=family.first == run.run_id)
    for entry in others:
        if not hearing.take_others(
            orjson.loads(entry.content), is_task=entry.is_first and entry.run_id != family.first
        ):
            return None
    for content in contents[:-1]:
        if not hearing.take(orjson.loads(content)):
            return None
    return hearing.sources


class _Hearing:
    """Takes entries of transcripts, and knows whose words they are."""

    def __init__(self, heard: Heard) -> None:
        self.sources = Sources()
        self._heard = heard
        self._users: frozenset[str] | None = None  # of a run that is alone, all is the user's
        self._is_first = True
        self._awaits_task = False

    def begin(self, users: frozenset[str], *, is_first: bool) -> None:
        """Begins with the family: what the user said to its first run, and under which labels a model of it may speak."""
        self._users, self._is_first, self._awaits_task = users, is_first, not is_first
        # whatever any of them has read, a model of the family may have been told by now
        self.sources.tool(SPAWN, None, self._heard.labels)
        if not is_first:
            for text in users:
                self.sources.user(text)

    def take_others(self, entry: Mapping[str, Any], *, is_task: bool) -> bool:  # Any: JSON
        """Takes an entry of another run of the family; returns False if nobody knows who speaks.

        What its model says is left out: it counts as everything that is found nowhere does, under all labels.
        """
        match entry.get("kind"):
            case "user":
                if not is_task and entry["text"] not in (self._users or ()):
                    self._message(entry["text"])
            case "assistant":
                pass
            case "tool_result" if "stop_reason" in entry:
                pass  # what is quoted there its model has said
            case "tool_result":
                self._output(entry)
            case _:
                return False
        return True

    def take(self, entry: Mapping[str, Any]) -> bool:  # Any: JSON
        """Takes an entry of the run itself; returns False if nobody knows who speaks."""
        match entry.get("kind"):
            case "user":
                self._told(entry["text"])
            case "assistant":
                self.sources.model(entry["text"])
            case "tool_result" if "stop_reason" in entry:
                # why a call was denied may quote its arguments: that is said again by the model, and nobody's output
                self.sources.model(entry["content"])
            case "tool_result":
                self._output(entry)
            case _:
                return False
        return True

    def _told(self, text: str) -> None:
        if self._users is None or (self._is_first and text in self._users):
            self.sources.user(text)
        elif self._awaits_task:
            self._awaits_task = False
            whole, fields = self._heard.of(SPAWN)
            self.sources.spawn(text, self._heard.labels.union(whole, *fields.values()))
        else:
            self._message(text)

    def _message(self, text: str) -> None:
        whole, fields = self._heard.of(SPAWN)
        self.sources.tool(SPAWN, text, self._heard.labels.union(whole), fields)

    def _output(self, entry: Mapping[str, Any]) -> None:  # Any: JSON
        """Takes what a tool answered, with the labels of its fields."""
        name, content = entry["tool"], entry["content"]
        whole, fields = self._heard.of(name)
        if not entry.get("ok") and content.startswith(NOT_DONE):
            # a version before wrote refusals so, and a tool can word its answer so: it has the worse of both meanings
            whole = (*whole, "untrusted", *self.sources.labels)
            self.sources.tool("", content, whole)
        self.sources.tool(name, content, whole, fields)
