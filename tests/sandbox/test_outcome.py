"""What a result says of a job's end, and of what the job says itself: whatever that is, it is a result, and can be passed on."""

from __future__ import annotations

import pytest

from activities.code_answer import outcome_of
from sandbox.backends import KINDS
from sandbox.job import Job, Limits
from sandbox.service import Sandbox, Settings
from tests.sandbox.installed import require

LIMITS = Limits(wall_ms=120_000)


@pytest.mark.parametrize("backend", KINDS)
async def test_a_job_may_end_with_any_status_that_is_no_signals(backend: str) -> None:
    """Programs tell of a signal as a shell does, by 128 and its number; there is no signal for each of those numbers."""
    require(backend)
    async with Sandbox(Settings(idle_min=0, idle_max=0, backend=backend, allow_old=True)) as own:
        for status in (1, 127, 128, 160, 161, 162, 168, 191, 192, 193, 255):
            result = await own.submit(Job(f"import os; os._exit({status})", limits=LIMITS))
            assert (result.exit_status, result.killed) == (status, None)


@pytest.mark.parametrize("raises", [r"ValueError('\udcff')", r"type('\x1b[2J', (Exception,), {})('\0\r\x9b')"])
async def test_whatever_is_in_the_text_of_an_exception_can_be_passed_on(sandbox: Sandbox, raises: str) -> None:
    """Half a character can be in no JSON, and nobody's terminal obeys what a job says of itself."""
    result = await sandbox.submit(Job(f"raise {raises}", limits=LIMITS))
    assert result.raised is not None
    texts = (result.raised.kind, result.raised.message, result.raised.traceback)
    assert all(text.replace("\n", "").isprintable() for text in texts), texts
    assert outcome_of(result, (), {}, {}).error_code == "code.failed"


CANNOT_BE_TOLD = {  # code that leaves nothing to tell of its end by: its status, and the exception that is told all the same
    "import os; os.close(2); raise ValueError('x')": (1, "ValueError"),
    "import sys; sys.stderr = None; raise KeyError('x')": (1, "KeyError"),
    "import sys\nclass Odd(Exception):\n    def __str__(self): sys.exit(5)\nraise Odd": (1, "Odd"),
    "import sys; sys.stderr = None; sys.exit('no')": (1, ""),
    "import sys\nclass Odd:\n    def __str__(self): raise KeyboardInterrupt\nsys.exit(Odd())": (1, ""),
    "import sys; sys.stdout = sys.stderr = None": (0, ""),
    "import sys; sys.stdout = sys.stderr = object()": (0, ""),
    "import sys; sys.stdout.close()": (0, ""),
}


@pytest.mark.parametrize("backend", KINDS)
async def test_a_job_whose_end_cannot_be_told_ends_as_it_would_anywhere(backend: str) -> None:
    """Nothing of it goes on in what it was forked from: natively that would be the zygote's code, and a forbidden call of its."""
    require(backend)
    async with Sandbox(Settings(idle_min=0, idle_max=0, backend=backend, allow_old=True)) as own:
        for code, (status, kind) in CANNOT_BE_TOLD.items():
            result = await own.submit(Job(code, limits=LIMITS))
            raised = "" if result.raised is None else result.raised.kind
            assert (result.exit_status, result.killed, raised) == (status, None, kind), code


@pytest.mark.parametrize("code", CANNOT_BE_TOLD)
async def test_a_session_goes_on_after_a_cell_whose_end_cannot_be_told(sandbox: Sandbox, code: str) -> None:
    async with sandbox.session(limits=LIMITS) as session:
        result = await session.run(code)
        assert (result.exit_status, result.killed) == (CANNOT_BE_TOLD[code][0], None)
        assert (await session.run("open('there', 'w').close()")).files[0].name == "there"
