"""Building `code.exec`: the code and the digest of every file that it gets, in the form that is decided, digested and executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.actions.form import Action, raw_digest
from holdfast.actions.run_facts import RunFacts
from holdfast.artefacts import reading
from holdfast.contracts.tiers import TierUnavailable, unavailable
from holdfast.errors import RequestInvalid
from holdfast.pricing.code import CodeEstimate, estimate_code
from holdfast.tools.code import CODE_EXEC, CODE_TOOL
from holdfast_verdict.canonical import JsonValue, canonical_bytes, digest
from holdfast_verdict.sealing import SALT

INPUTS_BYTES_MAX: Final = 32 * 2**20


async def code_action(
    connection: AsyncConnection, run: RunFacts, step: int, arguments: object, raw_arguments: str, *, salt: bytes
) -> Action:
    """Builds a `code.exec`; arguments that it does not take make it malformed, not an error.

    A file's name stands for the newest file of that name that the run has from earlier steps, so the same step always gets the
    same one (LAW 9), and its digest is part of what is decided (LAW 1).

    Args:
        connection: The transaction in which the run was read.
        run: The run.
        step: Number of the action.
        arguments: What the model wrote.
        raw_arguments: The same, as it was written; its digest names what has no canonical form.
        salt: The step's salt: what is written may be personal, and so may the names of files and what is in them.
    """
    known = CODE_EXEC in run.agent.tools
    args: dict[str, JsonValue] = {}
    malformed = ""
    if known:
        try:
            args = CODE_TOOL.validate(_object(arguments))
            # what the model wrote can name no tier: its arguments have none
            args["tier"] = run.sandbox_tier
            args["files"] = await _files(connection, run, step, cast("list[str]", args["files"]))
        except RequestInvalid as error:
            malformed = error.message
    if not known or malformed:
        args = {"raw_digest": raw_digest(raw_arguments, salt)}
    value: dict[str, JsonValue] = {"kind": CODE_EXEC, "args": args, SALT: salt.hex()}
    personal = CODE_TOOL.personal if known and not malformed else ()
    return Action(
        value, canonical_bytes(value), digest(value), CODE_EXEC, CODE_EXEC, known, malformed, known,
        external=False, salt=salt, personal=personal,
    )  # fmt: skip


def _object(arguments: object) -> Mapping[str, object]:
    if not isinstance(arguments, dict):
        raise RequestInvalid(f"the arguments of {CODE_EXEC} are not a JSON object")
    return arguments


async def _files(connection: AsyncConnection, run: RunFacts, step: int, names: list[str]) -> list[JsonValue]:
    if not names:
        return []
    there = await reading.list_artefacts(connection, run.tenant_id, run.run_id, before_step=step)
    found: list[JsonValue] = []
    size_bytes = 0
    for name in names:
        artefact = reading.newest(there, name)
        if artefact is None:
            known = ", ".join(sorted({each.name for each in there})[:20]) or "none"
            raise RequestInvalid(f"{CODE_EXEC}: the run has no file {name!r} (its files are: {known})")
        size_bytes += artefact.size_bytes
        found.append({"name": name, "size_bytes": artefact.size_bytes, "sha256": artefact.sha256})
    if size_bytes > INPUTS_BYTES_MAX:
        raise RequestInvalid(f"{CODE_EXEC}: the files have over {INPUTS_BYTES_MAX} bytes together")
    return found


def worst_case(action: Action) -> CodeEstimate | None:
    """Returns what a `code.exec` can cost at most; None for one that cannot run."""
    if action.kind != CODE_EXEC or not action.known or action.malformed:
        return None
    args = cast("Mapping[str, int]", action.value["args"])
    return estimate_code(args["timeout_ms"], args["memory_mb"])


def tier_refused(action: Action, there: Sequence[str]) -> TierUnavailable | None:
    """Returns why a `code.exec` cannot run in its tier, if it cannot; it runs in no other (LAW 7)."""
    if action.kind != CODE_EXEC or not action.known or action.malformed:
        return None
    tier = str(action.value["args"]["tier"])  # type: ignore[call-overload, index]  # so `code_action` builds it
    return None if tier in there else unavailable(tier, there)
