"""The client."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

from sdk import events
from sdk.approvals import ApprovalCalls
from sdk.calls import EXPORT_SILENCE_S, PAGE_MAX
from sdk.decisions import DecisionCalls
from sdk.policies import Policies
from sdk.retention import RetentionCalls
from sdk.transport import PATIENCE_S, Transport
from sdk.types import (
    Agent,
    Artefact,
    AskedTier,
    Cap,
    CapChange,
    CapShare,
    CodeMeaning,
    CreatedKey,
    CreatedRun,
    CreatedTenant,
    CrossCheck,
    Difference,
    Estimate,
    Event,
    Hold,
    Identity,
    Json,
    Key,
    Project,
    Role,
    Run,
    RunInput,
    SandboxTiers,
    ScopeKind,
    SentInput,
    Spend,
    Spent,
    StandingStop,
    Stop,
    StopKind,
    StoredVersion,
    Tenant,
    Tool,
    Unit,
    User,
    VaultEntry,
    Window,
    read_answer,
)
from sdk.webhooks import Delivery, Webhook

_WAIT_MARGIN_S = 15.0
_NO_FILES: Mapping[str, bytes] = MappingProxyType({})


class Holdfast(ApprovalCalls, DecisionCalls, RetentionCalls):
    """Holdfast over HTTP, for one API key. Thread-safe; a context manager that closes its connections.

    Every method raises `HoldfastApiError` when the server refuses, and `NoAnswer` when it cannot be reached. Requests that
    create something carry an Idempotency-Key, so that repeating one after a lost answer has its effect once.

    Args:
        base_url: Such as `http://127.0.0.1:8080`.
        api_key: `hf_…`.
        patience_s: How long the server may be away, as while it is restarted, until a request is given up.
    """

    def __init__(self, base_url: str, api_key: str, *, patience_s: float = PATIENCE_S) -> None:
        super().__init__(Transport(base_url, api_key, patience_s))
        self.policies = Policies(self._transport, self._list)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes connections."""
        self.close()

    def close(self) -> None:
        """Closes connections."""
        self._transport.close()

    def me(self) -> Identity:
        """Returns who the key stands for."""
        return read_answer(Identity, self._transport.request("GET", "/v1/me"))

    def explain(self, code: str) -> CodeMeaning:
        """Returns what a stable code means and what to do about it.

        Raises:
            HoldfastApiError: There is no such code; its remedy names the nearest.
        """
        return read_answer(CodeMeaning, self._transport.request("GET", f"/problems/{quote(code, safe='')}"))

    # Runs ---------------------------------------------------------------------------------------------------------------

    def create_run(
        self,
        agent: str,
        text: str,
        *,
        project: str | None = None,
        cap_usd: str | None = None,
        guaranteed: bool = False,
        deadline_s: int | None = None,
        parent_run_id: str | None = None,
        follows_latest: bool = False,
        files: Mapping[str, bytes] = _NO_FILES,
        idempotency_key: str | None = None,
    ) -> CreatedRun:
        """Has a run admitted; it starts by itself.

        Args:
            agent: Name of the agent.
            text: What it is asked.
            project: Slug of the project; default: the key's own.
            cap_usd: The run's own money cap as decimal text; default and bound: the agent's.
            guaranteed: Hold the whole cap for this run at once.
            deadline_s: Then the run is timed out.
            parent_run_id: The run that this is a part of: its cap gives this run's whole cap at once.
            follows_latest: Decide each action by the policy that is active then, and not by the one that is active now.
            files: Files that its code can be given by name.
            idempotency_key: The same key admits one run.
        """
        body: dict[str, object] = {
            "agent": agent,
            "input": text,
            "project": project,
            "cap_usd": cap_usd,
            "guaranteed": guaranteed,
            "deadline_s": deadline_s,
            "parent_run_id": parent_run_id,
            **({"follows_latest": True} if follows_latest else {}),
        }
        if files:
            body["files"] = {name: base64.b64encode(content).decode() for name, content in files.items()}
        answer = self._transport.request("POST", "/v1/runs", body=body, idempotency_key=idempotency_key)
        return read_answer(CreatedRun, answer)

    def estimate(
        self, agent: str, text: str, *, project: str | None = None, cap_usd: str | None = None, guaranteed: bool = False
    ) -> Estimate:
        """Returns what a run's first call would hold and whether each cap affords it; the arguments are `create_run`'s."""
        body = {"agent": agent, "input": text, "project": project, "cap_usd": cap_usd, "guaranteed": guaranteed}
        answer: Json = self._transport.request("POST", "/v1/estimate", body=body)
        return read_answer(Estimate, {**answer, "caps": [read_answer(CapShare, one) for one in answer["caps"]]})

    def runs(self, *, status: str | None = None, agent: str | None = None, count: int | None = None) -> list[Run]:
        """Returns runs, newest first; all of them if no count is given."""
        return self._list(Run, "/v1/runs", {"status": status, "agent": agent}, count)

    def run(self, run_id: str) -> Run:
        """Returns a run as it stands."""
        return read_answer(Run, self._transport.request("GET", f"/v1/runs/{run_id}"))

    def artefacts(self, run_id: str) -> list[Artefact]:
        """Returns the files of a run in the order in which they came to be: those it was given, and those its code made."""
        found = self._transport.request("GET", f"/v1/runs/{run_id}/artefacts")["items"]
        return [read_answer(Artefact, one) for one in found]

    def artefact(self, run_id: str, step: int, name: str) -> bytes:
        """Returns the content of a file of a run."""
        path = f"/v1/runs/{run_id}/artefacts/{step}/{quote(name)}"
        with self._transport.stream(path, headers={}, silence_s=EXPORT_SILENCE_S) as response:
            return b"" if response is None else response.read()

    def cross_check(self, run_id: str) -> CrossCheck:
        """Holds Temporal's history of a run, or the one that is kept, against the log."""
        answer = self._transport.request("GET", f"/v1/runs/{run_id}/cross-check", timeout_s=EXPORT_SILENCE_S)
        differences = [read_answer(Difference, one) for one in answer["differences"]]
        return dataclasses.replace(read_answer(CrossCheck, answer), differences=differences)

    def history(self, run_id: str) -> bytes:
        """Returns the history of a run as it was kept when the run had ended: compressed, its payloads encrypted."""
        with self._transport.stream(f"/v1/runs/{run_id}/history", headers={}, silence_s=EXPORT_SILENCE_S) as response:
            return b"" if response is None else response.read()

    def run_inputs(self, run_id: str) -> list[RunInput]:
        """Returns what people said to a run, in order."""
        inputs = self._transport.request("GET", f"/v1/runs/{run_id}")["inputs"]
        return [read_answer(RunInput, one) for one in inputs]

    def cancel_run(self, run_id: str) -> Run:
        """Asks a run to stop; what it has begun is settled, nothing new begins."""
        return read_answer(Run, self._transport.request("POST", f"/v1/runs/{run_id}/cancel"))

    def send_input(
        self,
        run_id: str,
        mode: Literal["followup", "steer", "pause", "resume"],
        content: str = "",
        *,
        idempotency_key: str | None = None,
    ) -> SentInput:
        """Tells a run something, or makes it stand still or go on."""
        path, body = f"/v1/runs/{run_id}/input", {"mode": mode, "content": content}
        return read_answer(SentInput, self._transport.request("POST", path, body=body, idempotency_key=idempotency_key))

    def wait_for_run(self, run_id: str, *, timeout_s: int = 30) -> Run:
        """Returns the run when it has ended, or as it stands when the time is over (at most 120 s)."""
        answer = self._transport.request(
            "GET", f"/v1/runs/{run_id}/wait", query={"timeout_s": timeout_s}, timeout_s=timeout_s + _WAIT_MARGIN_S
        )
        return read_answer(Run, answer)

    def events(
        self, run_id: str, *, after: str | None = None, channels: Sequence[str] = (), patience_s: float = 60.0
    ) -> Iterator[Event]:
        """Yields a run's events as they happen, until it has ended.

        A dropped connection is opened again and resumes after the last event: nothing is lost, nothing comes twice.

        Args:
            run_id: The run.
            after: Begin after the event with this id.
            channels: Only these; default: all.
            patience_s: How long the server may be away before `NoAnswer` is raised.
        """
        return events.follow(self._transport, run_id, after=after, channels=channels, patience_s=patience_s)

    # Caps, holds, stops, webhooks ---------------------------------------------------------------------------------------

    def caps(
        self, *, run_id: str | None = None, scope_kind: ScopeKind | None = None, scope_name: str = ""
    ) -> list[Cap]:
        """Returns the caps of a run, or on one thing, or all that are not of a run: each in its window in force."""
        named = {"scope_kind": scope_kind, "scope_name": scope_name or None}
        return self._list(Cap, "/v1/caps", {"run": run_id, **named}, None)

    def cap_windows(self, cap_id: str, *, count: int | None = None) -> list[Cap]:
        """Returns the windows of a cap, the newest first, by the id of any of them."""
        return self._list(Cap, f"/v1/caps/{cap_id}/windows", {}, count)

    def cap_changes(self, cap_id: str, *, count: int | None = None) -> list[CapChange]:
        """Returns who has set a cap's limit, from what to what, when and why, the newest first."""
        return self._list(CapChange, f"/v1/caps/{cap_id}/changes", {}, count)

    def set_cap(
        self,
        scope_kind: ScopeKind,
        scope_name: str = "",
        *,
        unit: Unit = "nano_usd",
        window: Window = "total",
        limit_usd: str | None = None,
        limit_amount: int | None = None,
        unlimited: bool = False,
        thresholds: Sequence[int] | None = None,
        reason: str,
    ) -> Cap:
        """Sets a limit: exactly one of `limit_usd`, `limit_amount` and `unlimited`.

        Args:
            scope_kind: What is limited.
            scope_name: Which one; nothing for the tenant; `first/second` for two.
            unit: What is counted.
            window: For how long what was used counts; an hour, day and month are of the tenant's time zone, `24h` rolls.
            limit_usd: For money, decimal text.
            limit_amount: In the unit.
            unlimited: Without any limit, as an explicit and recorded choice.
            thresholds: Percentages of the limit that are told once a window; default: as they are.
            reason: Stands in the journal.
        """
        body = {
            "scope": {"kind": scope_kind, "name": scope_name},
            "unit": unit,
            "window": window,
            "limit_usd": limit_usd,
            "limit_amount": limit_amount,
            "unlimited": True if unlimited else None,
            "thresholds": None if thresholds is None else list(thresholds),
            "reason": reason,
        }
        return read_answer(Cap, self._transport.request("PUT", "/v1/caps", body=body))

    def holds(self, *, run_id: str | None = None, state: str | None = None, count: int | None = None) -> list[Hold]:
        """Returns holds, newest first; `state="unknown"` are those that wait for a person or their deadline."""
        return self._list(Hold, "/v1/holds", {"run": run_id, "state": state}, count)

    def hold(self, hold_id: str) -> Hold:
        """Returns a hold."""
        return read_answer(Hold, self._transport.request("GET", f"/v1/holds/{hold_id}"))

    def resolve_hold(
        self,
        hold_id: str,
        *,
        happened: bool,
        cost_usd: str | None = None,
        reason: str,
        idempotency_key: str | None = None,
    ) -> Hold:
        """Settles a hold whose outcome is unknown, on a person's word.

        Args:
            hold_id: The hold.
            happened: Whether the action took effect.
            cost_usd: What it cost; default: the whole hold if it happened, else nothing.
            reason: How that is known; stands in the journal.
            idempotency_key: The same key settles once.
        """
        body = {"happened": happened, "cost_usd": cost_usd, "reason": reason}
        path = f"/v1/holds/{hold_id}/resolve"
        return read_answer(Hold, self._transport.request("POST", path, body=body, idempotency_key=idempotency_key))

    def stop(
        self, scope_kind: StopKind, scope_name: str = "", *, reason: str, idempotency_key: str | None = None
    ) -> StandingStop:
        """Stops a tenant, agent, role or tool: nothing of it begins to go outside any more, whatever permits were given before.

        If a stop is on there already, that one is returned, unchanged.

        Args:
            scope_kind: What is stopped.
            scope_name: Which one; nothing for the tenant.
            reason: Why; quoted wherever something is refused, also to the model.
            idempotency_key: The same key sets one stop.
        """
        body = {"scope": {"kind": scope_kind, "name": scope_name}, "reason": reason}
        answer = self._transport.request("POST", "/v1/stops", body=body, idempotency_key=idempotency_key)
        return read_answer(StandingStop, answer)

    def stops(self, *, lifted: bool = False, count: int | None = None) -> list[Stop]:
        """Returns the stops that are on, newest first; with `lifted` also those that were."""
        return self._list(Stop, "/v1/stops", {"all": "true" if lifted else None}, count)

    def lift_stop(self, stop_id: str, *, reason: str, idempotency_key: str | None = None) -> Stop:
        """Lifts a stop. Lifting again changes nothing."""
        path, body = f"/v1/stops/{stop_id}/lift", {"reason": reason}
        return read_answer(Stop, self._transport.request("POST", path, body=body, idempotency_key=idempotency_key))

    def add_webhook(
        self, url: str, events: Sequence[str], *, description: str = "", idempotency_key: str | None = None
    ) -> Webhook:
        """Adds a receiver: it is told, signed and at least once, of every such event from now on.

        Args:
            url: Where it is told; https.
            events: Types of events, such as `approval.requested` and `hold.unknown`.
            description: For people.
            idempotency_key: The same key adds one webhook.
        """
        body = {"url": url, "events": list(events), "description": description}
        answer = self._transport.request("POST", "/v1/webhooks", body=body, idempotency_key=idempotency_key)
        return read_answer(Webhook, answer)

    def webhooks(self) -> list[Webhook]:
        """Returns the tenant's webhooks, newest first."""
        return self._list(Webhook, "/v1/webhooks", {}, None)

    def webhook(self, webhook_id: str) -> Webhook:
        """Returns a webhook, with the public key that checks its signatures."""
        return read_answer(Webhook, self._transport.request("GET", f"/v1/webhooks/{webhook_id}"))

    def remove_webhook(self, webhook_id: str) -> None:
        """Removes a webhook; what waits for it is not sent any more."""
        self._transport.request("DELETE", f"/v1/webhooks/{webhook_id}")

    def enable_webhook(self, webhook_id: str) -> tuple[Webhook, int]:
        """Switches a webhook on again that was given up.

        Returns:
            The webhook, and how many deliveries are tried once more.
        """
        answer = self._transport.request("POST", f"/v1/webhooks/{webhook_id}/enable")
        return read_answer(Webhook, answer["webhook"]), int(answer["sent_again"])

    def try_webhook(self, webhook_id: str) -> str:
        """Sends an event that says nothing.

        Returns:
            Id of the delivery, which `deliveries` shows with what came of it.
        """
        return str(self._transport.request("POST", f"/v1/webhooks/{webhook_id}/test")["delivery_id"])

    def deliveries(self, webhook_id: str, *, count: int | None = None) -> list[Delivery]:
        """Returns what was, is and will be sent to a webhook, newest first."""
        return self._list(Delivery, f"/v1/webhooks/{webhook_id}/deliveries", {}, count)

    # Agents, tools and roles --------------------------------------------------------------------------------------------

    def tools(self, *, count: int | None = None) -> list[Tool]:
        """Returns the newest version of each tool of the tenant's own."""
        return self._list(Tool, "/v1/tools", {}, count)

    def tool(self, name: str) -> Tool:
        """Returns the newest version of a tool of the tenant's own."""
        return read_answer(Tool, self._transport.request("GET", f"/v1/tools/{name}"))

    def put_tool(self, name: str, definition: Mapping[str, Any]) -> Tool:  # Any: JSON that the server checks
        """Stores a new version of a tool, or returns the newest one if nothing is changed; new runs use it."""
        return read_answer(Tool, self._transport.request("PUT", f"/v1/tools/{name}", body=definition))

    def agents(self, *, count: int | None = None) -> list[Agent]:
        """Returns the newest version of each agent."""
        return self._list(Agent, "/v1/agents", {}, count)

    def agent(self, name: str) -> Agent:
        """Returns the newest version of an agent."""
        return read_answer(Agent, self._transport.request("GET", f"/v1/agents/{name}"))

    def roles(self, *, count: int | None = None) -> list[Role]:
        """Returns the newest version of each role."""
        return self._list(Role, "/v1/roles", {}, count)

    def role(self, name: str) -> Role:
        """Returns the newest version of a role."""
        return read_answer(Role, self._transport.request("GET", f"/v1/roles/{name}"))

    def put_agent(self, name: str, definition: Mapping[str, Any]) -> StoredVersion:  # Any: JSON that the server checks
        """Stores a new version of an agent; new runs use it."""
        return read_answer(StoredVersion, self._transport.request("PUT", f"/v1/agents/{name}", body=definition))

    def put_role(
        self,
        name: str,
        policy: str = "",
        *,
        cases: str = "",
        max_tokens_default: int | None = None,
    ) -> StoredVersion:
        """Stores a new version of a role; runs admitted from now on are decided by it.

        Args:
            name: The role's name.
            policy: What it may do in the language of policies: `role NAME { … }`; without it the role is a name alone.
            cases: Cases that the text has to decide as they say, as TOML.
            max_tokens_default: Output bound of a model call whose agent sets none; None for the server's.
        """
        body = {"policy": policy, "cases": cases, "max_tokens_default": max_tokens_default}
        answer = self._transport.request("PUT", f"/v1/roles/{name}", body=body)
        return read_answer(StoredVersion, answer)

    # Spend --------------------------------------------------------------------------------------------------------------

    def spend(
        self,
        group_by: Sequence[str] = (),
        *,
        first_day: date | None = None,
        last_day: date | None = None,
        dearest_first: bool = False,
        count: int | None = None,
        **equal: str | bool,
    ) -> Spend:
        """Returns what was spent, all groups of it if no count is given.

        Args:
            group_by: Some of tenant, project, user, run, agent, role, model, tool, kind, day, simulated, in this order.
            first_day: In the tenant's time zone.
            last_day: It counts, too.
            dearest_first: In order of cost; else of the groups.
            count: Most groups.
            equal: What to count only, such as `agent="helper"`; by any of the dimensions but the day.
        """
        query = self._spend_query(group_by, first_day, last_day, equal)
        query["sort"] = "cost" if dearest_first else "group"
        groups: list[Spent] = []
        cursor: str | None = None
        while True:
            size = PAGE_MAX if count is None else max(min(PAGE_MAX, count - len(groups)), 1)
            page = self._transport.request("GET", "/v1/spend", query={**query, "limit": size, "cursor": cursor})
            groups += [read_answer(Spent, item) for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None or (count is not None and len(groups) >= count):
                break
        total = read_answer(Spent, {"group": {}, **page["total"]})
        return Spend(page["group_by"], page["time_zone"], total, groups[:count])

    def spend_csv(
        self,
        group_by: Sequence[str] = (),
        *,
        first_day: date | None = None,
        last_day: date | None = None,
        **equal: str | bool,
    ) -> Iterator[str]:
        """Yields the same as CSV, piece by piece as it comes; the arguments are `spend`'s."""
        query = {**self._spend_query(group_by, first_day, last_day, equal), "format": "csv"}
        with self._transport.stream("/v1/spend", query=query, headers={}, silence_s=EXPORT_SILENCE_S) as response:
            if response is not None:
                yield from response.iter_text()

    @staticmethod
    def _spend_query(
        group_by: Sequence[str], first_day: date | None, last_day: date | None, equal: Mapping[str, str | bool]
    ) -> dict[str, object]:
        return {"group_by": ",".join(group_by), "from": first_day, "to": last_day, **equal}

    # Vault --------------------------------------------------------------------------------------------------------------

    def put_credential(self, name: str, credential: Mapping[str, Any]) -> None:  # Any: what it is for decides its form
        """Stores a credential in place of the one of that name; it is never read back."""
        self._transport.request("PUT", f"/v1/vault/{name}", body=credential)

    def credentials(self) -> list[VaultEntry]:
        """Returns credentials by name."""
        return [read_answer(VaultEntry, one) for one in self._transport.request("GET", "/v1/vault")["entries"]]

    def delete_credential(self, name: str) -> None:
        """Deletes a credential."""
        self._transport.request("DELETE", f"/v1/vault/{name}")

    # Tenants, users, keys -----------------------------------------------------------------------------------------------

    def create_tenant(self, slug: str, name: str, *, time_zone: str = "UTC") -> CreatedTenant:
        """Makes a tenant, for the platform's operator. It has no cap yet, so it cannot spend."""
        body = {"slug": slug, "name": name, "time_zone": time_zone}
        answer: Json = self._transport.request("POST", "/v1/tenants", body=body, repeatable=False)
        return CreatedTenant(answer["tenant_id"], answer["slug"], read_answer(CreatedKey, answer["key"]))

    def tenant(self) -> Tenant:
        """Returns the key's own tenant, with the time zone that windows of its caps follow."""
        return read_answer(Tenant, self._transport.request("GET", "/v1/tenant"))

    def set_time_zone(self, time_zone: str, *, reason: str) -> Tenant:
        """Sets the tenant's time zone. A window of a cap that has begun ends as it was announced."""
        body = {"time_zone": time_zone, "reason": reason}
        return read_answer(Tenant, self._transport.request("PUT", "/v1/tenant/time-zone", body=body))

    def sandbox_tiers(self) -> SandboxTiers:
        """Returns in which tiers code can be isolated, and what the tenant and its roles ask for."""
        return self._tiers(self._transport.request("GET", "/v1/sandbox-tiers"))

    def set_sandbox_tier(
        self, tier: Literal["process", "kernel"] | None, *, role: str = "", reason: str
    ) -> SandboxTiers:
        """Asks for a tier of the tenant's code or of a role's, for runs that are admitted from now on; None for nothing."""
        body = {"role": role, "tier": tier, "reason": reason}
        return self._tiers(self._transport.request("PUT", "/v1/sandbox-tiers", body=body))

    @staticmethod
    def _tiers(answer: Json) -> SandboxTiers:
        asked = [read_answer(AskedTier, one) for one in answer["asked"]]
        return SandboxTiers(answer["deployment"], answer["available"], asked)

    def tenants(self) -> list[Tenant]:
        """Returns all tenants, for the platform's operator."""
        return [read_answer(Tenant, one) for one in self._transport.request("GET", "/v1/tenants")["items"]]

    def users(self, *, count: int | None = None) -> list[User]:
        """Returns users, by name."""
        return self._list(User, "/v1/users", {}, count)

    def create_user(self, name: str) -> str:
        """Makes a user and returns the id."""
        return str(self._transport.request("POST", "/v1/users", body={"name": name}, repeatable=False)["id"])

    def projects(self, *, count: int | None = None) -> list[Project]:
        """Returns projects, by slug."""
        return self._list(Project, "/v1/projects", {}, count)

    def create_project(self, slug: str) -> str:
        """Makes a project and returns the id."""
        return str(self._transport.request("POST", "/v1/projects", body={"slug": slug}, repeatable=False)["id"])

    def keys(self, *, count: int | None = None) -> list[Key]:
        """Returns keys by what may be shown of them, revoked ones too."""
        return self._list(Key, "/v1/keys", {}, count)

    def revoke_key(self, key_id: str) -> Key:
        """Revokes a key: the next request with it is refused. Revoking again changes nothing."""
        return read_answer(Key, self._transport.request("DELETE", f"/v1/keys/{key_id}"))

    def create_key(
        self, user: str, project: str, roles: Sequence[str], *, expires_in_s: int | None = None
    ) -> CreatedKey:
        """Makes a key; it is shown this once."""
        body = {"user": user, "project": project, "roles": list(roles), "expires_in_s": expires_in_s}
        return read_answer(CreatedKey, self._transport.request("POST", "/v1/keys", body=body, repeatable=False))
