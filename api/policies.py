"""The tenant's policy: its versions, what is active, and everything that is asked of one before it is switched on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, Self
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import Field, JsonValue, model_validator

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Cursor, Form, IdempotencyKey, Page, PageSize, Time, claim_for, number_cursor, page_of
from holdfast.database.engine import transaction
from holdfast.errors import NotFound
from holdfast.policies import changes, store
from holdfast.policies import shadow as shadows
from holdfast.policies.catalogue import read_catalogue
from holdfast.policies.version import (
    NOTE_LENGTH_MAX,
    SOURCE_LENGTH_MAX,
    Act,
    Activation,
    InUse,
    Origin,
    PolicyVersion,
    Use,
)
from holdfast.tenancy import idempotency
from holdfast.tenancy.principals import ADMIN, AUDITOR, DEVELOPER, OWNER, Principal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from holdfast_verdict import Catalogue, Policy

router = APIRouter(prefix="/v1/policies", tags=["policies"])

DIFFERENCES_MAX: Final = 100
_INTEGER_MAX: Final = 2**31 - 1

Version = Annotated[int, Field(ge=1, le=_INTEGER_MAX, description="number of a version")]
VersionPath = Annotated[int, Path(ge=1, le=_INTEGER_MAX)]
Source = Annotated[str, Field(min_length=1, max_length=SOURCE_LENGTH_MAX, description="the policy's text")]
Cases = Annotated[str, Field(max_length=SOURCE_LENGTH_MAX, description="text of a cases file, TOML")]
Reason = Annotated[str, Field(max_length=NOTE_LENGTH_MAX, description="why, for whoever asks later")]

# Proving and playing take a core each: one at a time, so that the rest of the API goes on.
_one_at_a_time = asyncio.Semaphore(1)


class PushPolicy(Form):
    """A new version."""

    source: Source
    cases: Cases = ""
    note: Reason = ""


class NamedPolicy(Form):
    """A policy: a version of the tenant's, or a text that is not stored; without either the active version."""

    version: Version | None = None
    source: Source | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.version is not None and self.source is not None:
            raise ValueError("give `version` or `source`, not both")
        return self


class TestPolicy(NamedPolicy):
    """Cases for a policy; without them those that the version was stored with."""

    __test__ = False  # no test of pytest's
    cases: Cases | None = None


class ExplainPolicy(NamedPolicy):
    """An action, with what is known of it."""

    request: dict[str, JsonValue] = Field(description="with the keys of a case, such as role, action and args")


class ComparePolicies(Form):
    """Two policies; what is left out is the active version."""

    before: NamedPolicy = NamedPolicy()
    after: NamedPolicy = NamedPolicy()


class Activate(Form):
    """Which version becomes active."""

    version: Version
    reason: Reason = ""


class RollBack(Form):
    """Which version becomes active again; without one that which was active before."""

    version: Version | None = None
    reason: Reason = ""


class Shadow(Form):
    """Which version is looked at beside the active one; null ends that."""

    version: Version | None
    reason: Reason = ""


class PolicySummary(Answer):
    """A version of the tenant's policy."""

    policy_id: UUID
    version: int
    policy_hash: str = Field(description="SHA-256 of what it compiles to, hex; decision records cite it")
    engine_version: str = Field(description="the engine that accepted it")
    origin: Origin = Field(
        description="`written` by a person, made of the roles' `tables`, or the `starter` of a new tenant"
    )
    note: str
    put_by: str
    put_at: Time
    active: bool = Field(description="whether new runs are decided by it")
    shadow: bool = Field(description="whether it is looked at beside the active one")

    @classmethod
    def of(cls, stored: PolicyVersion, used: InUse) -> Self:
        """Builds the answer."""
        return cls(**_summary(stored, used))


class PolicyDetail(PolicySummary):
    """A version with its text."""

    source: str
    cases: str
    compiled: dict[str, JsonValue] = Field(
        description="what it compiles to; its canonical JSON is what the hash is over"
    )


class PolicyActivation(Answer):
    """One act of putting a version to use, or of ending that."""

    seq: int
    use: Use
    action: Act
    policy_id: UUID | None
    version: int | None
    activated_by: str
    activated_at: Time
    reason: str


class PolicyReport(Answer):
    """What was found, each thing with a request as the example where there is one."""

    ok: bool = Field(description="whether nothing was found")
    findings: list[dict[str, JsonValue]]
    undecided: list[str] = Field(description="about these nothing is claimed")


class PolicyCases(Answer):
    """How cases came out."""

    ok: bool
    cases: list[dict[str, JsonValue]]


class ShadowDifference(Answer):
    """Decisions on which the candidate would have decided otherwise, for the same reasons."""

    action: str
    role: str
    active_verdict: str
    active_code: str
    active_rule: str
    verdict: str
    code: str
    rule: str
    decisions: int
    newest_at: Time
    newest_id: UUID = Field(description="the newest of these decisions, as the example")


class ShadowReport(Answer):
    """How a candidate compares with what decided."""

    version: int
    decisions: int = Field(description="on how many decisions it was asked")
    different: int = Field(description="on how many it would have decided otherwise")
    since: Time | None
    differences: list[ShadowDifference] = Field(
        description=f"those that happened most often; {DIFFERENCES_MAX} at most"
    )


def _summary(stored: PolicyVersion, used: InUse) -> dict[str, Any]:  # Any: fields of the answer
    ids = {
        use: None if act is None else act.policy_id for use, act in (("active", used.active), ("shadow", used.shadow))
    }
    return {
        "policy_id": stored.policy_id,
        "version": stored.version,
        "policy_hash": stored.policy_hash.hex(),
        "engine_version": stored.engine_version,
        "origin": stored.origin,
        "note": stored.note,
        "put_by": stored.put_by,
        "put_at": stored.put_at,
        "active": ids["active"] == stored.policy_id,
        "shadow": ids["shadow"] == stored.policy_id,
    }


@asynccontextmanager
async def _reading(parts: Parts, caller: Principal) -> AsyncIterator[AsyncConnection]:
    """Opens a transaction for whoever may have policies proved and played: that takes a core for a while."""
    caller.require(OWNER, ADMIN, DEVELOPER, AUDITOR)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        yield connection


async def _policy(
    connection: AsyncConnection, tenant_id: UUID, named: NamedPolicy, catalogue: Catalogue
) -> tuple[Policy, str]:
    """Returns a policy and the cases it was stored with, if it was."""
    from holdfast.policies.accepting import compiled

    if named.source is not None:
        return await asyncio.to_thread(compiled, named.source, catalogue), ""
    if named.version is not None:
        stored = await store.find(connection, tenant_id, named.version)
    else:
        active = await store.active(connection, tenant_id)
        if active is None:
            raise NotFound("no version of the policy is active", remedy="push one and activate it, or name a version")
        stored = active
    # what is stored has no lines; its text has
    return await asyncio.to_thread(_with_lines, stored.policy, stored.source), stored.cases


def _with_lines(policy: Policy, source: str) -> Policy:
    from holdfast_verdict import PolicyRefused, compile_policy

    try:
        read = compile_policy(source)
    except PolicyRefused:
        return policy
    return read if read == policy else policy


@router.post("", summary="Store a new version of the policy", status_code=201)
async def push_policy(
    body: PushPolicy, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None
) -> PolicySummary:
    """Stores a version that compiles against the tenant's tools and decides its cases as they expect; nothing is made active.

    The newest version again makes no new one. What is wrong comes as a problem with `problems`: line, column, what was expected.
    """
    from holdfast.policies.accepting import compiled, played, require_passed

    caller.require(OWNER, ADMIN)
    tenant_id = caller.tenant_id
    async with transaction(parts.engine, tenant_id) as connection:
        catalogue = await read_catalogue(connection, tenant_id)
    policy = await asyncio.to_thread(compiled, body.source, catalogue)
    if body.cases:
        async with _one_at_a_time:
            require_passed(await asyncio.to_thread(played, policy, body.cases, catalogue))
    claim = claim_for(caller, "POST /v1/policies", idempotency_key, body.model_dump(mode="json"))
    async with transaction(parts.engine, tenant_id) as connection:
        if claim is not None and (kept := await idempotency.claim(connection, claim)) is not None:
            stored = (await store.read_version(connection, tenant_id, UUID(str(kept["policy_id"])))).about
        else:
            stored = await changes.push(connection, caller, body.source, policy, cases=body.cases, note=body.note)
            if claim is not None:
                await idempotency.keep(connection, claim, {"policy_id": str(stored.policy_id)})
        return PolicySummary.of(stored, await store.in_use(connection, tenant_id))


@router.get("", summary="List versions of the policy, newest first")
async def list_policies(
    caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50
) -> Page[PolicySummary]:
    """Lists the versions; every version is kept."""
    require_reader(caller)
    before = number_cursor(cursor)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await store.versions(
            connection, caller.tenant_id, before=min(before or _INTEGER_MAX, _INTEGER_MAX), count=size + 1
        )
        used = await store.in_use(connection, caller.tenant_id)
    return page_of([PolicySummary.of(each, used) for each in found], [str(each.version) for each in found], size)


@router.get("/activations", summary="List what was done with versions, newest first")
async def list_activations(
    caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50
) -> Page[PolicyActivation]:
    """Lists who made which version active, looked at one in the shadow or rolled back, and why."""
    require_reader(caller)
    before = number_cursor(cursor)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await store.activations(
            connection, caller.tenant_id, before=min(before or _INTEGER_MAX, _INTEGER_MAX), count=size + 1
        )
    return page_of([PolicyActivation.model_validate(each) for each in found], [str(each.seq) for each in found], size)


@router.get("/shadow", summary="Compare a candidate with what decided")
async def get_shadow_report(
    caller: Caller, parts: Parts, version: Annotated[int | None, Query(ge=1, le=_INTEGER_MAX)] = None
) -> ShadowReport:
    """Counts the decisions on which the candidate would have decided otherwise; without a version the current candidate's."""
    require_reader(caller)
    tenant_id = caller.tenant_id
    async with transaction(parts.engine, tenant_id) as connection:
        if version is None:
            current = (await store.in_use(connection, tenant_id)).shadow
            version = None if current is None else current.version
        if version is None:
            raise NotFound(
                "no version is looked at in the shadow", remedy="name one, or begin: holdfast policy shadow N"
            )
        stored = await store.find(connection, tenant_id, version)
        found = await shadows.report(connection, tenant_id, stored.about.policy_id, count=DIFFERENCES_MAX)
    return ShadowReport(
        version=version,
        decisions=found.decisions,
        different=found.different,
        since=found.since,
        differences=[ShadowDifference.model_validate(each) for each in found.differences],
    )


@router.get("/{version}", summary="Show a version of the policy")
async def get_policy(version: VersionPath, caller: Caller, parts: Parts) -> PolicyDetail:
    """Shows a version with its text, its cases and what it compiles to."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        stored = await store.find(connection, caller.tenant_id, version)
        used = await store.in_use(connection, caller.tenant_id)
    return PolicyDetail(
        **_summary(stored.about, used),
        source=stored.source,
        cases=stored.cases,
        compiled=stored.policy.to_json(),
    )


@router.post("/check", summary="Look for what a policy can never do")
async def check_policy(body: NamedPolicy, caller: Caller, parts: Parts) -> PolicyReport:
    """Looks for rules that cannot fire, permits that forbids swallow, actions that are always denied, and the like.

    Each finding is proved, or comes with a request that the engine itself confirms. A text that is no policy is a problem.
    """
    async with _reading(parts, caller) as connection:
        catalogue = await read_catalogue(connection, caller.tenant_id)
        policy, _ = await _policy(connection, caller.tenant_id, body, catalogue)
    from holdfast_verdict.check import checking

    async with _one_at_a_time:
        report = await asyncio.to_thread(checking.check_policy, policy, catalogue)
    return _report(report.to_json())


@router.post("/diff", summary="Compare two policies")
async def compare_policies(body: ComparePolicies, caller: Caller, parts: Parts) -> PolicyReport:
    """Lists concrete requests that a change newly allows, newly denies or newly asks consent for, by role and action."""
    async with _reading(parts, caller) as connection:
        catalogue = await read_catalogue(connection, caller.tenant_id)
        before, _ = await _policy(connection, caller.tenant_id, body.before, catalogue)
        after, _ = await _policy(connection, caller.tenant_id, body.after, catalogue)
    from holdfast_verdict.check.diff import diff_policies

    async with _one_at_a_time:
        report = await asyncio.to_thread(diff_policies, before, after, catalogue)
    return _report(report.to_json())


def _report(found: dict[str, Any]) -> PolicyReport:  # Any: JSON
    return PolicyReport(ok=not found["findings"], findings=found["findings"], undecided=found["undecided"])


@router.post("/test", summary="Play cases through a policy")
async def play_cases(body: TestPolicy, caller: Caller, parts: Parts) -> PolicyCases:
    """Plays cases, and says where the policy decides otherwise than they expect."""
    from holdfast.policies.accepting import played

    async with _reading(parts, caller) as connection:
        catalogue = await read_catalogue(connection, caller.tenant_id)
        policy, stored = await _policy(connection, caller.tenant_id, body, catalogue)
    cases = stored if body.cases is None else body.cases
    if not cases:
        return PolicyCases(ok=True, cases=[])
    async with _one_at_a_time:
        results = await asyncio.to_thread(played, policy, cases, catalogue)
    return PolicyCases(
        ok=all(result.passed for result in results),
        cases=[result.to_json() for result in results],
    )


@router.post("/explain", summary="Explain a decision")
async def explain_decision(body: ExplainPolicy, caller: Caller, parts: Parts) -> dict[str, JsonValue]:
    """Says which rule decides on an action and which nearly did, condition by condition, with the values that were read."""
    from holdfast.policies.accepting import explained

    async with _reading(parts, caller) as connection:
        catalogue = await read_catalogue(connection, caller.tenant_id)
        policy, _ = await _policy(connection, caller.tenant_id, body, catalogue)
    explanation = await asyncio.to_thread(explained, policy, body.request, catalogue)
    return explanation.to_json()  # type: ignore[return-value]  # JSON by its own words


@router.post("/activate", summary="Make a version active")
async def activate_policy(
    body: Activate, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None
) -> PolicyActivation:
    """Makes a version the one that runs are pinned to from now on; those that follow the latest are decided by it at once."""
    return await _changed(
        parts, caller, "activate", idempotency_key, body,
        lambda connection: changes.activate(connection, caller, body.version, reason=body.reason),
    )  # fmt: skip


@router.post("/roll-back", summary="Make an older version active again")
async def roll_back_policy(
    body: RollBack, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None
) -> PolicyActivation:
    """Makes the version active again that was active before, or the one that is named: a new activation of an old version."""
    return await _changed(
        parts, caller, "roll-back", idempotency_key, body,
        lambda connection: changes.roll_back(connection, caller, body.version, reason=body.reason),
    )  # fmt: skip


@router.post("/shadow", summary="Look at a version beside the active one")
async def shadow_policy(
    body: Shadow, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None
) -> PolicyActivation:
    """Names the candidate that is looked at without acting on it; null ends that. It is asked about every action, and decides none."""
    return await _changed(
        parts, caller, "shadow", idempotency_key, body,
        lambda connection: changes.shadow(connection, caller, body.version, reason=body.reason),
    )  # fmt: skip


async def _changed(
    parts: Parts,
    caller: Principal,
    name: str,
    key: str | None,
    body: Form,
    change: Callable[[AsyncConnection], Awaitable[Activation]],
) -> PolicyActivation:
    """Makes a change once, however often it is asked for under one key."""
    caller.require(OWNER, ADMIN)
    claim = claim_for(caller, f"POST /v1/policies/{name}", key, body.model_dump(mode="json"))
    async with transaction(parts.engine, caller.tenant_id) as connection:
        if claim is not None and (kept := await idempotency.claim(connection, claim)) is not None:
            return PolicyActivation.model_validate(kept)
        done = PolicyActivation.model_validate(await change(connection))
        if claim is not None:
            await idempotency.keep(connection, claim, done.model_dump(mode="json"))
    return done
