"""Orders: read only, bound, and never another tenant's (LAW 5)."""

from __future__ import annotations

import json
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from activities.tools.dispatch import run_tool
from demo.refund_desk.world.orders import create_orders
from holdfast.errors import LeaseLost

from .conftest import Invoke
from .live_lease import LiveLease


async def test_an_order_is_found(invoke: Invoke, orders_dsn: str, lease: LiveLease) -> None:
    result = await run_tool(invoke("orders.lookup", {"tenant": "acme", "order_id": "a-1007"}, {"dsn": orders_dsn}))
    assert (result.ok, result.cost) == (True, "known")
    order = json.loads(result.content)
    assert (order["order_id"], order["customer_name"], order["amount_usd_cents"]) == ("A-1007", "Jörg Weiß", 5990)
    assert order["delivered_on"] == "2026-05-29"
    assert lease.begun == 1


async def test_another_tenants_order_is_hidden_even_if_policy_let_it_pass(invoke: Invoke, orders_dsn: str) -> None:
    arguments = {"tenant": "globex", "order_id": "G-9001"}
    as_globex = await run_tool(invoke("orders.lookup", arguments, {"dsn": orders_dsn}, tenant="globex"))
    assert as_globex.ok
    as_acme = await run_tool(invoke("orders.lookup", arguments, {"dsn": orders_dsn}, tenant="acme"))
    assert (as_acme.ok, as_acme.error_code) == (False, "orders.not_found")
    assert "Anders" not in as_acme.content
    for tenant in ("", "acme' OR '1'='1", "globex\\"):
        result = await run_tool(invoke("orders.lookup", arguments, {"dsn": orders_dsn}, tenant=tenant))
        assert not result.ok


async def test_the_reader_can_do_nothing_else(orders_dsn: str) -> None:
    connection = await asyncpg.connect(orders_dsn)
    try:
        assert await connection.fetchval("SELECT count(*) FROM shop.orders") == 0
        await connection.execute("SET default_transaction_read_only = off")
        for statement in (
            "INSERT INTO shop.orders SELECT * FROM shop.orders",
            "UPDATE shop.orders SET amount_usd_cents = 1",
            "DELETE FROM shop.orders",
            "ALTER TABLE shop.orders DISABLE ROW LEVEL SECURITY",
            "CREATE TABLE public.mine (a int)",
            "CREATE TABLE shop.mine (a int)",
            "CREATE TEMP TABLE mine (a int)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_database_that_does_not_answer_cost_nothing_and_shows_no_password(
    invoke: Invoke, orders_dsn: str
) -> None:
    parts = urlsplit(orders_dsn)
    wrong_password = orders_dsn.replace("pass", "hush")
    nobody_there = urlunsplit(parts._replace(netloc=parts.netloc.rpartition(":")[0] + ":1"))
    for dsn in (wrong_password, nobody_there, "postgresql://u:hush@127.0.0.1:x/y", "hush"):
        result = await run_tool(invoke("orders.lookup", {"tenant": "acme", "order_id": "A-1"}, {"dsn": dsn}))
        assert (result.ok, result.cost, result.error_code) == (False, "nothing", "orders.unavailable"), dsn
        assert "hush" not in result.content


async def test_without_its_lease_nothing_is_asked(invoke: Invoke, orders_dsn: str, lease: LiveLease) -> None:
    lease.lost_before_writing = True
    with pytest.raises(LeaseLost):
        await run_tool(invoke("orders.lookup", {"tenant": "acme", "order_id": "A-1007"}, {"dsn": orders_dsn}))


async def test_setting_up_twice_changes_nothing_but_the_password(superuser_url: str, orders_dsn: str) -> None:
    again = await create_orders(superuser_url, "another")
    try:
        connection = await asyncpg.connect(again, server_settings={"holdfast.tenant": "globex"})
        assert await connection.fetchval("SELECT count(*) FROM shop.orders") == 12
        await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(orders_dsn)
    finally:
        await create_orders(superuser_url, "pass'word/@:%")
