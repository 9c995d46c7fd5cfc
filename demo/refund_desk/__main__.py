"""`python -m demo.refund_desk [--yes] [--keep]`: the refund desk, from start to end, against real parts on this machine.

Exit code 0 only if all of it was as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time

from cli.approvals import described
from demo.refund_desk import checks, forgetting, policy
from demo.refund_desk.setting import Setting, set_up
from demo.refund_desk.show import Show
from demo.refund_desk.story import Told, tell
from holdfast.errors import HoldfastError
from sdk import Approval, HoldfastSdkError
from sdk.types import Verdict


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.refund_desk", description=__doc__)
    parser.add_argument("--yes", action="store_true", help="answer the demo's own question with yes")
    parser.add_argument("--keep", action="store_true", help="leave everything up afterwards, until Ctrl-C")
    return parser.parse_args()


async def _line_from_person() -> str:
    """Reads a line without blocking anything; empty when nobody is there."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    try:
        loop.add_reader(sys.stdin.fileno(), came.set)
    except OSError:  # a file or nothing at all: reading it cannot block
        return sys.stdin.readline()
    try:
        await came.wait()
        return sys.stdin.readline()
    finally:
        loop.remove_reader(sys.stdin.fileno())


async def _ask(show: Show, approval: Approval, *, yes: bool) -> Verdict:
    """Asks for consent; whoever says nothing has not consented (LAW 7)."""
    for line in described(approval):
        show.console.print(f"          {line}", markup=False, style="yellow")
    show.console.print("          approve it? [y/N] ", markup=False, end="")
    asked = time.monotonic()
    if yes:
        show.console.print("y (--yes)", markup=False)
        return "approved"
    answer = (await _line_from_person()).strip().lower()
    if not sys.stdin.isatty():
        show.console.print(answer or "nobody answers", markup=False)
    show.waited_s += time.monotonic() - asked
    return "approved" if answer in ("y", "yes") else "denied"


async def _demo(*, yes: bool, keep: bool) -> bool:
    show = Show()
    show.chapter("setting up")
    async with set_up(show.say) as setting:
        if setting.model.simulated:
            show.label = "simulated"
            show.say(
                "no model thinks here: a program on this machine answers in its place, labelled simulated", "yellow"
            )
            show.say("(set ANTHROPIC_API_KEY or OPENAI_API_KEY and a real one does)", "yellow")
        ready_s = show.elapsed_s
        told = await tell(setting, show, lambda approval: _ask(show, approval, yes=yes))
        evidence = await checks.gather(setting, told)
        show.chapter(f"all decisions of the run{' (simulated)' if setting.model.simulated else ''}")
        show.table(evidence.decisions, evidence.holds)
        forgotten = None
        if not keep:  # what is kept up is left for its person to go on with
            show.chapter("a customer asks to be forgotten")
            forgotten = await forgetting.forget(setting, show, told)
        hint = "" if keep else " (ARGS=--keep leaves it up)"
        show.console.print(f"\nthe run in Temporal's UI: {setting.ui_of(told.run_id)}{hint}", markup=False)
        show.chapter("was it as it should be?")
        found = [*checks.check(evidence), *(forgetting.check(forgotten) if forgotten is not None else ())]
        for one in found:
            show.check(one.holds, one.text, one.detail)
        good = all(one.holds for one in found)
        took_s = show.elapsed_s - show.waited_s
        show.console.print(
            f"\n{sum(one.holds for one in found)} of {len(found)} things are as they should be; "
            f"{took_s:.0f} s, of which {ready_s:.0f} s to start everything"
        )
        if keep:
            await _keep(setting, show, told)
        show.quiet = True
    return good


async def _keep(setting: Setting, show: Show, told: Told) -> None:
    """Leaves everything up until a signal, and says what can be done with it."""
    installation = setting.installation
    show.chapter("everything stays up until Ctrl-C")
    for line in (
        f"Temporal's UI   {setting.ui_of(told.run_id)}",
        f"API             {installation.urls.api}",
        f"sent mails      {setting.world.sent}",
        "",
        "in another terminal:",
        f"  export HOLDFAST_DATA_DIR={installation.keys_folder.parent}",
        f"  export HOLDFAST_API_KEY=$(cat {installation.keys_folder}/{policy.TENANT}-owner.key)",
        f"  uv run holdfast show {told.run_id}",
        f"  uv run holdfast replay {told.run_id}",
        f"  uv run holdfast audit export --run {told.run_id} --out run.jsonl",
        "  uv run holdfast holds --state unknown",
    ):
        show.console.print(f"  {line}", markup=False)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)


async def _main(arguments: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, task.cancel
    )  # as SIGINT does: everything is cleaned up
    try:
        return 0 if await _demo(yes=arguments.yes, keep=arguments.keep) else 1
    except (HoldfastError, HoldfastSdkError) as error:
        print(f"error: {error}", file=sys.stderr)
        if remedy := getattr(error, "remedy", ""):
            print(f"  to do: {remedy}", file=sys.stderr)
        return 1


def main() -> int:
    """Runs the demo and returns its exit code."""
    try:
        return asyncio.run(_main(_arguments()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nstopped; everything was cleaned up", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
