"""A budget waits for all that its run has open, and a rolling window begins its hour before what is settled late is judged by it.

A hold of no money was nothing to wait for, so the budget of a run that had ended was returned while the outcome of such a hold was
unknown; what a person then said it had cost came to the run's own cap and to no cap above it. And where nothing had been reserved for
hours, what came to more than was held met hours that had left the window, and became debt, although there was room.

Revision ID: 0043
Revises: 0042
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0043"
down_revision = "0042"

_LOCK_CARRIERS: Final = """
    CREATE OR REPLACE FUNCTION lock_carriers(p_tenant_ids uuid[], p_hold_ids uuid[], p_more_tenants uuid[], p_more_caps uuid[],
        OUT tenant_ids uuid[], OUT cap_ids uuid[]) LANGUAGE plpgsql AS $$
    DECLARE legs uuid[]; leg_tenants uuid[]; in_force boolean; ended record; rolled boolean;
    BEGIN
        SELECT array_agg(w.cap_id), array_agg(w.tenant_id) INTO legs, leg_tenants FROM (
            SELECT g.tenant_id, leg AS cap_id FROM unnest(p_tenant_ids, p_hold_ids) AS t (tenant_id, hold_id)
            JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id, unnest(g.leg_cap_ids) AS leg
            UNION SELECT * FROM unnest(p_more_tenants, p_more_caps)) w;
        FOR round IN 1 .. 100 LOOP
            SELECT n.cap_ids, n.tenant_ids INTO cap_ids, tenant_ids FROM newest_buckets(leg_tenants, legs) AS n;
            PERFORM 1 FROM (SELECT c.cap_id FROM (
                SELECT DISTINCT * FROM unnest(leg_tenants || tenant_ids, legs || cap_ids) AS u (tenant_id, cap_id)) w
                JOIN caps c ON c.tenant_id = w.tenant_id AND c.cap_id = w.cap_id ORDER BY c.cap_id FOR NO KEY UPDATE OF c) l;
            SELECT coalesce(bool_and(c.newest), true) INTO in_force FROM unnest(tenant_ids, cap_ids) AS n (tenant_id, cap_id)
            JOIN caps c ON c.tenant_id = n.tenant_id AND c.cap_id = n.cap_id;
            CONTINUE WHEN NOT in_force; -- somebody has begun a new window meanwhile
            rolled := false;
            -- what has left the window is in nobody's way, whether or not anybody has reserved since
            FOR ended IN
                SELECT DISTINCT c.tenant_id, c.cap_id FROM unnest(tenant_ids, cap_ids) AS n (tenant_id, cap_id)
                JOIN caps c ON c.tenant_id = n.tenant_id AND c.cap_id = n.cap_id WHERE c.ends_at <= clock_timestamp() ORDER BY c.cap_id
            LOOP
                PERFORM roll_window(ended.tenant_id, ended.cap_id, clock_timestamp());
                rolled := true;
            END LOOP;
            IF NOT rolled THEN
                RETURN;
            END IF;
        END LOOP;
        RAISE EXCEPTION 'the caps of these holds do not come to rest' USING ERRCODE = 'serialization_failure';
    END $$
"""

_RETURN_BUDGET: Final = """
    CREATE OR REPLACE FUNCTION return_budget(p_tenant_id uuid, p_run_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DECLARE budget record; spent bigint; answer settle_answer;
    BEGIN
        PERFORM require_tenants(ARRAY[p_tenant_id]);
        SELECT h.hold_id, h.state, ru.ended_at IS NOT NULL AS ended INTO budget FROM runs ru
        JOIN holds h ON h.hold_id = ru.budget_hold_id AND h.tenant_id IS NOT DISTINCT FROM ru.tenant_id
        WHERE ru.tenant_id = p_tenant_id AND ru.run_id = p_run_id;
        IF NOT FOUND OR budget.state <> 'held' THEN RETURN true; END IF;
        IF NOT budget.ended OR EXISTS (SELECT 1 FROM caps c WHERE c.tenant_id = p_tenant_id AND c.scope_kind = 'run'
                AND c.scope_id = p_run_id::text AND c.unit = 'nano_usd' AND c.reserved > 0)
            -- LAW 4: what was held at no cost may turn out to have cost something
            OR EXISTS (SELECT 1 FROM holds h WHERE h.tenant_id = p_tenant_id AND h.run_id = p_run_id
                AND h.settled_at IS NULL AND h.kind <> 'run.budget') THEN
            RETURN false;
        END IF;
        SELECT coalesce(sum(c.committed + c.debt), 0) INTO spent FROM caps c
        WHERE c.tenant_id = p_tenant_id AND c.scope_kind = 'run' AND c.scope_id = p_run_id::text
            AND c.unit = 'nano_usd' AND c.window_kind = 'total';
        SELECT * INTO answer FROM ledger_settle(ARRAY[ROW(p_tenant_id, budget.hold_id, 'held', false, false, 'committed', '{nano_usd}',
            ARRAY[spent], 'run', 'the run has ended: its budget is settled at what it spent',
            ARRAY[ROW(new_id(), 'budget', 'budget.returned',
                jsonb_build_object('hold_id', budget.hold_id, 'spent_nano_usd', spent)::text)::ledger_event],
            '{}', false)::settle_member]);
        RETURN answer.status = 'settled';
    END $$
"""

_DUE_RETURNS: Final = """
    CREATE OR REPLACE FUNCTION due_returns(p_limit integer) RETURNS TABLE (tenant_id uuid, run_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
        SELECT h.tenant_id, h.run_id FROM holds h JOIN runs r ON r.tenant_id = h.tenant_id AND r.run_id = h.run_id
        WHERE h.settled_at IS NULL AND h.kind = 'run.budget' AND r.ended_at IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM caps c WHERE c.tenant_id = h.tenant_id AND c.scope_kind = 'run' AND c.scope_id = h.run_id::text
                AND c.unit = 'nano_usd' AND c.reserved > 0)
            AND NOT EXISTS (
            SELECT 1 FROM holds o WHERE o.tenant_id = h.tenant_id AND o.run_id = h.run_id AND o.settled_at IS NULL
                AND o.kind <> 'run.budget')
        LIMIT p_limit
    $$
"""


def upgrade() -> None:
    """Replaces the functions; whoever is in one of them ends in the old one."""
    for statement in (_LOCK_CARRIERS, _RETURN_BUDGET, _DUE_RETURNS):
        op.execute(statement)
