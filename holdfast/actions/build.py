"""Building actions: what a reference points at, in the one canonical form that is decided, digested and executed."""

from __future__ import annotations

import hashlib
from uuid import UUID

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast import transcript
from holdfast.actions import code_request
from holdfast.actions.code_run import code_action
from holdfast.actions.form import Action, raw_digest
from holdfast.actions.run_facts import RunFacts
from holdfast.contracts.gate import ActionRef
from holdfast.decisions import sealed
from holdfast.errors import HoldfastError, RequestInvalid
from holdfast.providers.model import ModelRequest, ToolSpec, Wire
from holdfast.runs.definition import AgentDefinition
from holdfast.tools.code import CODE_EXEC
from holdfast.tools.toolset import Tool, Toolset
from holdfast.transcript.entries import read_one
from holdfast_verdict.canonical import JsonValue, canonical_bytes, digest
from holdfast_verdict.sealing import SALT


class ActionUnbuildable(HoldfastError):
    """A reference points at nothing in the run's transcript (LAW 7)."""

    code = "action.unbuildable"


def tool_specs(agent: AgentDefinition, tools: Toolset) -> list[ToolSpec]:
    """Returns the agent's tools as a model is shown them."""
    return [_tool_spec(tools[name]) for name in agent.tools if name in tools]


def _tool_spec(tool: Tool) -> ToolSpec:
    return ToolSpec(tool.name, tool.description, tool.schema())


async def model_request(
    connection: AsyncConnection,
    tenant_id: UUID,
    run_id: UUID,
    agent: AgentDefinition,
    tools: Toolset,
    head: bytes,
    *,
    wire: Wire,
    model: str,
    max_tokens: int,
) -> ModelRequest:
    """Returns the request that continues the conversation up to `head`."""
    contents = await transcript.read(connection, tenant_id, run_id, head)
    return ModelRequest(
        wire=wire,
        model=model,
        max_tokens=max_tokens,
        system=agent.instructions,
        entries=[orjson.loads(content) for content in contents],
        tools=tool_specs(agent, tools),
    )


def llm_action(request: ModelRequest, head: bytes) -> dict[str, JsonValue]:
    """Returns the canonical `llm.call`: everything that decides what the provider is asked, long texts by digest."""
    tools: list[JsonValue] = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in request.tools
    ]
    return {
        "kind": "llm.call",
        "args": {
            "wire": request.wire,
            "model": request.model,
            "max_tokens": request.max_tokens,
            "system_digest": hashlib.sha256(request.system.encode()).hexdigest(),
            "tools_digest": hashlib.sha256(orjson.dumps(tools, option=orjson.OPT_SORT_KEYS)).hexdigest(),
            "transcript": head.hex(),
        },
    }


def model_action(request: ModelRequest, head: bytes) -> Action:
    """Builds the `llm.call` that sends this request."""
    value = llm_action(request, head)
    canonical = canonical_bytes(value)
    return Action(value, canonical, hashlib.sha256(canonical).digest(), "llm.call", "", True, "", True, yields=())


async def proposed_action(connection: AsyncConnection, run: RunFacts, reference: ActionRef, step: int) -> Action:
    """Builds the `tool.call` or `code.exec` that a transcript entry proposes, or that running code asks for.

    Raises:
        ActionUnbuildable: The reference points at nothing.
        TranscriptBroken: The transcript does not hash to the reference's head.
    """
    if reference.code_hold_id:
        return await _called_action(connection, run, reference, step)
    entry = await read_one(connection, run.tenant_id, run.run_id, bytes.fromhex(reference.assistant))
    calls = entry.get("tool_calls")
    if not isinstance(calls, list) or not 0 <= reference.call_index < len(calls):
        raise ActionUnbuildable(f"transcript entry {reference.assistant} proposes no call {reference.call_index}")
    call = calls[reference.call_index]
    tool, raw = str(call["tool"]), str(call["raw_arguments"])
    if (tool == CODE_EXEC) != (reference.kind == CODE_EXEC):
        raise ActionUnbuildable(f"transcript entry {reference.assistant} proposes {tool}, which is no {reference.kind}")
    if tool == CODE_EXEC:
        return await code_action(connection, run, step, call["arguments"], raw, salt=_salt(run, step))
    return tool_action(run.agent, run.tools, tool, call["arguments"], raw, salt=_salt(run, step))


async def _called_action(connection: AsyncConnection, run: RunFacts, reference: ActionRef, step: int) -> Action:
    """Builds the `tool.call` that running code asks for."""
    hold_id = UUID(reference.code_hold_id)
    request = await code_request.read(connection, run.tenant_id, run.run_id, hold_id, reference.code_request)
    if request is None or reference.kind != "tool.call":
        raise ActionUnbuildable(f"no running code of hold {hold_id} makes a request {reference.code_request}")
    raw = request.raw_arguments.decode()
    return tool_action(run.agent, run.tools, request.tool, request.arguments, raw, salt=_salt(run, step))


def _salt(run: RunFacts, step: int) -> bytes:
    """Returns the salt of a step.

    Raises:
        ActionUnbuildable: The run's salt was erased, so that what is personal could only be recorded in clear.
    """
    if run.salt is None:
        raise ActionUnbuildable("the run's salt was erased, and what it does is recorded with it or not at all")
    return sealed.step_salt(run.salt, step)


def tool_action(
    agent: AgentDefinition,
    tools: Toolset,
    tool: str,
    arguments: object,
    raw_arguments: str = "",
    *,
    salt: bytes = b"",
) -> Action:
    """Builds a `tool.call` in canonical form; arguments that the tool does not take make it malformed, not an error.

    Args:
        agent: Who has to have the tool.
        tools: The tools there are.
        tool: Name of the tool.
        arguments: What it is called with.
        raw_arguments: The same, as it was written.
        salt: The step's salt, for what is personal: what the tool's schema marks, and whatever stands in arguments that it does
            not take.
    """
    # code is run as an action of its own kind, and under no other
    definition = tools.get(tool) if tool in agent.tools and tool != CODE_EXEC else None
    malformed = ""
    normal: dict[str, JsonValue] = {}
    if definition is not None:
        if isinstance(arguments, dict):
            try:
                normal = definition.validate(arguments)
            except RequestInvalid as error:
                malformed = error.message
        else:
            malformed = f"the arguments of {tool} are not a JSON object"
    if definition is None or malformed:
        # what cannot be put in canonical form is named by its digest, so that the record still says which call it was
        normal = {"raw_digest": raw_digest(raw_arguments, salt)}
    elif not definition.personal:
        salt = b""
    value: dict[str, JsonValue] = {"kind": "tool.call", "tool": tool, "args": normal}
    if definition is not None and definition.digest:
        # INVARIANT (LAW 1): what runs is the very definition that was decided on, whatever is put meanwhile
        value["definition"] = definition.digest
    if salt:
        # what an action is known by, here, in its hold, permit and consent, is a salted hash of what is personal in it
        value[SALT] = salt.hex()
    known = definition is not None
    idempotent = definition is not None and not malformed and definition.is_idempotent(normal)
    external, yields = (True, ("untrusted",)) if definition is None else (definition.external, definition.yields)
    personal = definition.personal if definition is not None and salt and not malformed else ()
    return Action(
        value, canonical_bytes(value), digest(value), "tool.call", tool, known, malformed, idempotent, external, yields, salt, personal
    )  # fmt: skip


def edited_action(agent: AgentDefinition, tools: Toolset, canonical: bytes) -> Action:
    """Builds the action that an approver put in the place of the proposed one."""
    value = orjson.loads(canonical)
    salt = bytes.fromhex(value.get(SALT, ""))
    return tool_action(agent, tools, str(value.get("tool", "")), value.get("args"), salt=salt)
