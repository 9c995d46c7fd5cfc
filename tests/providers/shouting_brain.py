"""A brain that tests load with `--brain`: it repeats what it was asked, in the neutral form."""

from __future__ import annotations

from cli.simulated_provider.brain import BrainReply, BrainRequest


def answer(request: BrainRequest) -> BrainReply:
    last = request.messages[-1]
    return BrainReply(text=f"{request.system}|{last.role}|{last.tool}|{last.ok}|{last.text}|{request.tools}".upper())
