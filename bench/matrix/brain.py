"""What the simulated provider answers in the matrix, loaded with `--brain`: as many bytes as the call asks for."""

from __future__ import annotations

from typing import Final

from cli.simulated_provider.brain import BrainReply, BrainRequest

MARK: Final = "#!bytes "


def answer(request: BrainRequest) -> BrainReply:
    """Answers with a text of that length; it is cut to `max_tokens`, as every answer is."""
    for line in request.first_user_text.splitlines():
        if line.startswith(MARK):
            return BrainReply(text="simulated "[:1] * int(line.removeprefix(MARK)))
    return BrainReply(text="simulated: there was nothing to say.")
