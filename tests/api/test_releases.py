"""Releasing a label through the API: who may, what is refused, and what everybody sees of it."""

from __future__ import annotations

import httpx
import pytest

from .world import Tenant, World, problem

BODY = {"label": "secret", "reason": "public since this morning"}


@pytest.fixture
async def olga(tenant: Tenant) -> httpx.AsyncClient:
    return await tenant.as_user("olga", "dpo")


async def test_a_role_that_policies_name_may_release_and_sees_what_was_released(
    world: World, tenant: Tenant, olga: httpx.AsyncClient
) -> None:
    run = await tenant.run()
    path = f"/v1/runs/{run}/releases"
    assert (await olga.get(path)).json()["items"] == []
    answer = await olga.post(path, json=BODY)
    assert answer.status_code == 201
    made = answer.json()
    assert (made["label"], made["released_by"], made["roles"], made["reason"]) == (
        "secret",
        "olga",
        ["dpo"],
        BODY["reason"],
    )
    assert (await tenant.owner.get(path)).json()["items"] == [made]
    assert (await tenant.owner.get(f"/v1/decisions/{made['decision_id']}")).status_code == 200
    event = await world.fetch("SELECT data FROM timeline_events WHERE run_id = $1 AND type = 'label.released'", run)
    assert len(event) == 1
    assert len((await olga.post(path, json=BODY)).json()) == len(made), (
        "again is another release, of what was read since"
    )


async def test_who_started_the_run_releases_nothing(tenant: Tenant) -> None:
    run = await tenant.run()
    problem(await tenant.owner.post(f"/v1/runs/{run}/releases", json=BODY), 403, "release.not_eligible")


async def test_an_agents_key_neither_releases_nor_sees_anything_of_others_runs(tenant: Tenant) -> None:
    run, agent = await tenant.run(), await tenant.as_user("robot", "agent")
    problem(await agent.post(f"/v1/runs/{run}/releases", json=BODY), 404, "resource.not_found")
    problem(await agent.get(f"/v1/runs/{run}/releases"), 404, "resource.not_found")


@pytest.mark.parametrize(
    "body", [{"label": "secret"}, {"label": "no label", "reason": "x"}, {"label": "secret", "reason": ""}]
)
async def test_a_release_without_label_or_reason_is_refused(
    tenant: Tenant, olga: httpx.AsyncClient, body: dict[str, str]
) -> None:
    run = await tenant.run()
    problem(await olga.post(f"/v1/runs/{run}/releases", json=body), 422, "request.invalid")
