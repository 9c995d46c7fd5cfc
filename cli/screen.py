"""What the person who follows a run sees: each action with verdict and cost, and what is said, as it comes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cli.live_text import LiveText, quoted
from cli.telling import Telling, tell
from cli.terminal import fitted, is_live, styled, write
from cli.text import one_line

if TYPE_CHECKING:
    from sdk import Event

_LINES_MAX: Final = {"tool": 6, "code": 20}
_SPOKEN: Final = ("thinking", "answer", "code")


@dataclass(slots=True)
class Screen:
    """Shows events of one run.

    Attributes:
        flags: Options that name the server, for commands that are printed to be copied.
    """

    flags: str
    _live: bool = field(default_factory=is_live)
    _text: LiveText = field(default_factory=LiveText)

    def event(self, event: Event) -> None:
        """Shows an event.

        Raises:
            OSError: Nobody reads it any more.
        """
        if not event.durable and event.type != "attempt_reset":
            self._piece(event)
        elif event.type == "attempt_reset":
            self._text.forget(int(event.data["step"]))
            self._tell(tell(event))
        elif event.type == "answer.final":
            self._answer(event)
        elif event.type in ("tool.result", "code.result"):
            kind = event.type.partition(".")[0]
            self._lines(quoted(tell(event).text, kind, lines_max=_LINES_MAX[kind]))
        else:
            self._tell(tell(event))

    def line(self, text: str, style: str = "") -> None:
        """Shows a line of ours."""
        self._text.end_line()
        for part in fitted(one_line(text)):
            write(f"{styled(part, style)}\n")

    def end(self) -> None:
        """Ends a line that is half written."""
        self._text.end_line()

    def _tell(self, telling: Telling) -> None:
        self.line(telling.line, telling.style)
        for command in telling.commands:
            # to be copied, and of nobody else's words: the terminal may break it
            write(f"{styled(one_line(f'         {command}{self.flags}'), telling.style)}\n")

    def _lines(self, lines: list[str]) -> None:
        self._text.end_line()
        for line in lines:
            write(f"{line}\n")

    def _piece(self, event: Event) -> None:
        """Live pieces are for the eye only: in a pipe the whole text comes when it is whole."""
        if self._live and event.channel in _SPOKEN and event.type == f"{event.channel}.delta":
            data = event.data
            self._text.feed(int(data["step"]), int(data["try"]), event.channel, str(data["text"]))

    def _answer(self, event: Event) -> None:
        step, try_number = int(event.data["step"]), int(event.data["try"])
        told = tell(event)
        for kind, text in (("thinking", told.thinking), ("answer", told.text)):
            said = self._text.take(step, try_number, kind)
            if said.strip() == text.strip() or (kind == "thinking" and not self._live):
                continue
            if said and text.startswith(said):
                self._text.feed(step, try_number, kind, text[len(said) :])
                self._text.take(step, try_number, kind)
            else:
                self._lines(quoted(text, kind))
        self._text.end_line()
