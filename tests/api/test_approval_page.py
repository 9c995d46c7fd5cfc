"""The page behind a one-time link: what it shows is what is executed, a GET decides nothing, and each end has a page of its own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from uuid import UUID

import httpx
import pytest

from api.approval_html import told

from .test_approvals import asked, decide
from .test_consents import TWO, post
from .world import AGENT, REFUND, Tenant, World

_VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """A page as a browser reads it: what it says, what it would load, and whether its elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said += data


def page_of(answer: httpx.Response, status: int = 200) -> Page:
    """Checks what every page has to be, and returns it."""
    assert answer.status_code == status, answer.text
    headers = answer.headers
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    page = Page(answer.text)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "img", "link", "iframe", "object"} & set(names), "nothing is run and nothing is loaded"
    assert not [
        name for _, attributes in page.tags for name in attributes if name.startswith("on") or name in ("src", "style")
    ]
    assert (names.count("h1"), names.count("main"), dict(page.tags[0][1])) == (1, 1, {"lang": "en"})
    labelled = {attributes["for"] for tag, attributes in page.tags if tag == "label"}
    assert all(attributes["id"] in labelled for tag, attributes in page.tags if tag == "textarea")
    return page


@pytest.fixture
async def anna(tenant: Tenant) -> httpx.AsyncClient:
    return await tenant.as_user("anna", "approver")


@pytest.fixture
async def nobody(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client without any key."""
    async with world.api.client() as client:
        yield client


async def page_for(client: httpx.AsyncClient, approval: str) -> str:
    answer = await post(client, approval, "links")
    page: str = answer.json()["page"]
    return page


def binding_on(page: httpx.Response) -> str:
    found = re.search(r'name="binding" value="([0-9a-f]{64})"', page.text)
    assert found is not None, page.text
    return found[1]


async def state_of(tenant: Tenant, approval: str) -> str:
    state: str = (await tenant.owner.get(f"/v1/approvals/{approval}")).json()["state"]
    return state


async def test_it_shows_exactly_what_is_asked_and_decides_once(
    tenant: Tenant, anna: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    _, approval = await asked(tenant)
    path = await page_for(anna, approval)
    shown = await nobody.get(path)
    page = page_of(shown)
    view = (await anna.get(f"/v1/approvals/{approval}")).json()
    for word in (
        *(f'"{name}"' for name in REFUND), "payments.refund", view["run_id"], view["rule"], view["message"], "anna", "owner",
        f"${view['max_cost_usd']}",
    ):  # fmt: skip
        assert word in page.said, word
    form = {"verdict": "approved", "binding": binding_on(shown), "comment": "fine"}
    answers = await asyncio.gather(*(nobody.post(path, data=form) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200, *[410] * 5]
    for answer in answers:
        page_of(answer, answer.status_code)
    view = (await anna.get(f"/v1/approvals/{approval}")).json()
    assert (view["state"], view["decided_by"], view["comment"]) == ("approved", "anna", "fine")
    assert "has been used" in page_of(await nobody.get(path), 410).said


async def test_no_get_decides_whatever_it_carries(
    tenant: Tenant, anna: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    _, approval = await asked(tenant)
    path = await page_for(anna, approval)
    binding = binding_on(await nobody.get(path))
    for _ in range(3):
        page_of(await nobody.get(path, params={"verdict": "approved", "binding": binding}))
    for method in ("HEAD", "PUT", "DELETE", "OPTIONS"):
        assert (await nobody.request(method, path)).status_code in (400, 405)
    assert await state_of(tenant, approval) == "pending"
    page_of(await nobody.get(path))


async def test_a_denial_needs_a_reason_and_what_is_no_form_of_ours_decides_nothing(
    tenant: Tenant, anna: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    _, approval = await asked(tenant)
    path = await page_for(anna, approval)
    binding = binding_on(await nobody.get(path))
    page = page_of(await nobody.post(path, data={"verdict": "denied", "binding": binding, "comment": "  "}), 422)
    assert "Say why" in page.said
    bad = (
        {"verdict": "approved"},
        {"verdict": "maybe", "binding": binding},
        {"verdict": "approved", "binding": "zz"},
        {"verdict": "approved", "binding": binding, "more": "x"},
        {"verdict": ["approved", "denied"], "binding": binding},
        {"verdict": "approved", "binding": binding, "comment": "x" * 2_001},
        {"verdict": "approved", "binding": binding, "comment": "\x00"},
    )
    for form in bad:
        page_of(await nobody.post(path, data=form), 422)
    assert (await nobody.post(path, json={"verdict": "approved", "binding": binding})).status_code == 422
    assert "edited" in page_of(await nobody.post(path, data={"verdict": "approved", "binding": "00" * 32}), 409).said
    assert await state_of(tenant, approval) == "pending"
    done = page_of(await nobody.post(path, data={"verdict": "denied", "binding": binding, "comment": "too\r\nmuch"}))
    assert "Denied" in done.said
    assert (await anna.get(f"/v1/approvals/{approval}")).json()["comment"] == "too\nmuch"


async def test_an_edit_is_shown_beside_what_was_proposed(
    tenant: Tenant, anna: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    bob = await tenant.as_user("bob", "approver")
    _, approval = await asked(tenant, asks=TWO)
    path = await page_for(anna, approval)
    before = binding_on(await nobody.get(path))
    await decide(bob, approval, "approved", edited_arguments={**REFUND, "amount_usd_cents": 1})
    stale = await nobody.post(path, data={"verdict": "approved", "binding": before})
    page = page_of(stale, 409)
    cells = re.findall(r"<t[hd][^>]*>.*?</t[hd]>", stale.text)
    assert any("<del>" in cell and str(REFUND["amount_usd_cents"]) in cell for cell in cells)
    assert any("<ins>" in cell and ">1<" in cell for cell in cells)
    assert "given by bob" in page.said
    done = page_of(await nobody.post(path, data={"verdict": "approved", "binding": binding_on(stale)}))
    assert "Approved" in done.said


async def test_one_of_two_is_told_that_others_have_to_consent(
    tenant: Tenant, anna: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    _, approval = await asked(tenant, asks=TWO)
    path = await page_for(anna, approval)
    form = {"verdict": "approved", "binding": binding_on(await nobody.get(path))}
    assert "Others have to consent" in page_of(await nobody.post(path, data=form)).said


async def test_each_end_has_a_page_of_its_own(
    tenant: Tenant, anna: httpx.AsyncClient, nobody: httpx.AsyncClient, world: World
) -> None:
    for wrong in ("x", "A" * 43):
        assert "is not good" in page_of(await nobody.get(f"/approve/{wrong}"), 404).said

    async def ended(how: str, words: str) -> None:
        _, approval = await asked(tenant)
        path = await page_for(anna, approval)
        form = {"verdict": "approved", "binding": binding_on(await nobody.get(path))}
        of = (tenant.tenant_id, UUID(approval))
        if how == "withdrawn":
            await post(tenant.owner, approval, "withdraw")
        elif how == "denied":
            bob = await tenant.as_user("bob", "approver")
            await decide(bob, approval, "denied")
        elif how == "expired":
            await world.execute(
                "UPDATE approvals SET expires_at = now() WHERE tenant_id = $1 AND approval_id = $2", *of
            )
        else:
            await world.execute(
                "UPDATE approval_links SET expires_at = now() WHERE tenant_id = $1 AND approval_id = $2", *of
            )
        before = await state_of(tenant, approval)
        for answer in (await nobody.get(path), await nobody.post(path, data=form)):
            assert words in page_of(answer, 410).said
        assert await state_of(tenant, approval) == before

    await ended("withdrawn", "was withdrawn")
    await ended("denied", "is denied already")
    await ended("expired", "This request has expired")
    await ended("late", "This link has expired")

    _, approval = await asked(tenant)
    path = await page_for(anna, approval)
    key_id = (await anna.get("/v1/me")).json()["key_id"]
    await tenant.owner.delete(f"/v1/keys/{key_id}")
    assert "may not decide any more" in page_of(await nobody.get(path), 403).said


async def test_what_hides_or_breaks_out_is_shown_for_what_it_is(
    tenant: Tenant, anna: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    reason = 'ok </code><script>alert(1)</script> & "x"'
    await tenant.owner.put("/v1/roles/helper", json={"policy": GATED})
    await tenant.owner.put("/v1/agents/desk", json={**AGENT, "tools": ["mail.send"]})
    mail = {"to": ["jo@customer.example"], "subject": "Hello", "body": reason, "in_reply_to": None}
    _, approval = await asked(tenant, tool="mail.send", args=mail)
    shown = await nobody.get(await page_for(anna, approval))
    page = page_of(shown)
    assert "<script>alert" not in shown.text
    assert '"ok </code><script>alert(1)</script> & \\"x\\""' in page.said
    hidden = Page(told("a\u202eb", "zero\u200bwidth", "nul\x00, \ue000 and a lone \ud800"))
    assert hidden.said.endswith("a\\u202ebzero\\u200bwidthnul\\u0000, \\ue000 and a lone \\ud800\n"), hidden.said
    assert "mails are read first" in page.said, "what the gate of a policy says"


GATED = """role helper {
  permit llm.call
  permit tools
  gate read-first: mail.send needs 1 of role("approver") because "mails are read first"
}
"""
