"""`python -m tests.run.record_histories`: records the histories that `test_replay.py` replays, from real runs.

To be run again when the workflow is *meant* to take other steps, which means that runs under way at that moment would break:
record new shapes beside the old ones and guard the change with `workflow.patched`, unless no run can be under way.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from workers import replay

from .harness import PERMIT_ALL, Rig, Run, call, calls, mail, refund, say, task
from .rigs import running_rig
from .test_gate import consent, pending

FOLDER: Final = Path(__file__).with_name("histories")
TEST_CODEC_KEY: Final = FOLDER / "codec.key.for-tests-only"
RULES: Final = (*PERMIT_ALL, 'gate "consent": payments.refund needs 1 of role("approver"), expires 1d')


async def plain(rig: Rig) -> Run:
    return await (await rig.tenant()).start(task(mail("plain"), refund("PLAIN-1"), say("done")))


async def approval(rig: Rig) -> Run:
    run = await (await rig.tenant()).start(task(refund("APPROVED-1"), say("done")), rules=RULES)
    await consent(run, await pending(run))
    return run


async def denied(rig: Rig) -> Run:
    run = await (await rig.tenant()).start(task(refund("DENIED-1"), say("a pity")), rules=RULES)
    await consent(run, await pending(run), deny=True)
    return run


async def cancelled(rig: Rig) -> Run:
    rig.fault("mail", "gate")
    run = await (await rig.tenant()).start(task(mail("cancelled"), say("never")))
    await rig.until_held()
    await run.cancel()
    rig.world.faults.release()
    return run


async def continued(rig: Rig) -> Run:
    return await (await rig.tenant()).start(task(mail("long"), refund("LONG-1"), say("done")), steps_per_execution=2)


async def retried(rig: Rig) -> Run:
    await rig.think_badly({"kind": "status", "status": 429, "retry_after": "1"})
    return await (await rig.tenant()).start(task(say("at last")))


async def steered(rig: Rig) -> Run:
    rig.fault("mail", "gate")
    run = await (await rig.tenant()).start(task(calls(mail("steered 1"), mail("steered 2")), say("as you wish")))
    await rig.until_held()
    await run.tell("steer", "stop")
    rig.world.faults.release()
    return run


async def unknown(rig: Rig) -> Run:
    rig.fault("mail", "answer_lost")
    run = await (await rig.tenant()).start(task(mail("unknown"), say("done")))
    await run.resolve(await run.until_hold("unknown", tool="mail.send"), happened=True)
    return run


async def paused(rig: Rig) -> Run:
    rig.fault("mail", "gate")
    run = await (await rig.tenant()).start(task(mail("paused"), say("done")))
    await rig.until_held()
    await run.tell("pause")
    rig.world.faults.release()
    await run.until_status("paused")
    await run.tell("resume")
    return run


async def paused_at_a_gate(rig: Rig) -> Run:
    run = await (await rig.tenant()).start(task(refund("PAUSED-1"), say("done")), rules=RULES)
    approval_id = await pending(run)
    await run.tell("pause")
    await consent(run, approval_id)
    await run.until_status("paused")
    await run.tell("resume")
    return run


async def called_by_code(rig: Rig) -> Run:
    text = "from holdfast_guest import tool\nfor n in range(3): tool('mail.list')\n"
    rules = (*PERMIT_ALL, 'permit code.exec as "compute"')
    step = call("code.exec", code=text, timeout_ms=60_000)
    return await (await rig.tenant()).start(task(step, say("done")), rules=rules, tools=("code.exec", "mail.list"))


SHAPES: Final = (
    plain,
    approval,
    denied,
    cancelled,
    continued,
    retried,
    steered,
    unknown,
    paused,
    paused_at_a_gate,
    called_by_code,
)


async def main() -> None:
    async with running_rig(codec_key=TEST_CODEC_KEY.read_text(encoding="ascii")) as rig:
        for shape in SHAPES:
            run = await shape(rig)
            ended = await run.ended()
            histories = await replay.fetch(rig.client, str(run.run_id))
            path = FOLDER / f"{shape.__name__}.json"
            path.write_text(replay.to_json(str(run.run_id), histories) + "\n", encoding="utf-8")
            print(f"{path.name}: {ended}, {sum(len(history.events) for history in histories)} events")
            await rig.calm()


if __name__ == "__main__":
    asyncio.run(main())
