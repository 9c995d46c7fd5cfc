"""What decisions are looked for by, with the indexes that serve it; written when a record gets its number in the log.

So the transaction that decides writes no more than before. Records that have no number yet are few, and their facets are computed
when they are asked for.

Revision ID: 0021
Revises: 0020
"""

from __future__ import annotations

from typing import Final

from alembic import op

from holdfast.database.online import create_index, outside_transaction

revision = "0021"
down_revision = "0020"

_STATEMENTS: Final = (
    """
    ALTER TABLE decisions ADD COLUMN IF NOT EXISTS facet_agent text, ADD COLUMN IF NOT EXISTS facet_role text,
        ADD COLUMN IF NOT EXISTS facet_tool text, ADD COLUMN IF NOT EXISTS facet_rule text, ADD COLUMN IF NOT EXISTS facet_code text
    """,
    # Agent and role are the run's where there is one. What nobody can read has none: it must not hold up the log.
    """
    CREATE OR REPLACE FUNCTION decision_facets(d decisions, OUT agent text, OUT role text, OUT tool text, OUT rule text, OUT code text)
    LANGUAGE plpgsql STABLE AS $$
    DECLARE a json;
    BEGIN
        rule := left(coalesce(d.reply ->> 'rule_id', ''), 200);
        code := left(coalesce(d.reason_codes[1], ''), 200);
        IF d.run_id IS NOT NULL THEN
            SELECT r.agent_name, r.role_name INTO agent, role FROM runs r WHERE r.run_id = d.run_id AND r.tenant_id = d.tenant_id;
        END IF;
        IF agent IS NULL OR d.kind = 'tool.call' THEN
            BEGIN
                a := convert_from(d.part_a, 'UTF8')::json;
                tool := a #>> '{action,tool}';
                agent := coalesce(agent, a #>> '{subject,agent}', a #>> '{facts,agent}');
                role := coalesce(role, a #>> '{subject,role}', a #>> '{facts,role}');
            EXCEPTION WHEN data_exception THEN
                NULL; -- a text with a NUL, or no JSON
            END;
        END IF;
        agent := left(coalesce(agent, ''), 200);
        role := left(coalesce(role, ''), 200);
        tool := left(coalesce(tool, ''), 200);
    END $$
    """,
    """
    CREATE OR REPLACE FUNCTION keep_facets() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        SELECT f.agent, f.role, f.tool, f.rule, f.code
        INTO NEW.facet_agent, NEW.facet_role, NEW.facet_tool, NEW.facet_rule, NEW.facet_code FROM decision_facets(NEW) f;
        RETURN NEW;
    END $$
    """,
    """
    CREATE OR REPLACE TRIGGER decisions_facets BEFORE UPDATE OF leaf_index ON decisions FOR EACH ROW
    WHEN (OLD.leaf_index IS NULL AND NEW.leaf_index IS NOT NULL) EXECUTE FUNCTION keep_facets()
    """,
    # Records that were numbered before: a thousand a transaction, so that nobody waits for one of their rows for long.
    """
    CREATE OR REPLACE PROCEDURE fill_facets() LANGUAGE plpgsql AS $$
    DECLARE tenants uuid[]; tenant uuid; place bigint; ending bigint;
    BEGIN
        SELECT array_agg(t.tenant_id) INTO tenants FROM list_tenants() t;
        FOREACH tenant IN ARRAY tenants LOOP
            place := 0;
            LOOP
                PERFORM set_config('holdfast.tenant_id', tenant::text, true);
                SELECT max(d.leaf_index) INTO ending FROM decisions d WHERE d.tenant_id = tenant AND d.leaf_index IS NOT NULL;
                EXIT WHEN ending IS NULL OR place > ending;
                UPDATE decisions d SET facet_agent = f.agent, facet_role = f.role, facet_tool = f.tool, facet_rule = f.rule,
                    facet_code = f.code
                FROM decisions o, LATERAL decision_facets(o) f
                WHERE o.tenant_id = tenant AND o.leaf_index >= place AND o.leaf_index < place + 1000 AND o.facet_code IS NULL
                    AND d.tenant_id = o.tenant_id AND d.decision_id = o.decision_id;
                place := place + 1000;
                COMMIT;
            END LOOP;
        END LOOP;
    END $$
    """,
    "REVOKE ALL ON FUNCTION decision_facets, keep_facets FROM PUBLIC",
    "REVOKE ALL ON PROCEDURE fill_facets FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION decision_facets TO holdfast_api, holdfast_sweeper, holdfast_auditor",
)

_NUMBERED: Final = "leaf_index IS NOT NULL"
_INDEXES: Final = {
    "decisions_at": ("", ""),
    "decisions_run": ("run_id, ", " AND run_id IS NOT NULL"),
    "decisions_agent": ("facet_agent, ", " AND facet_agent <> ''"),
    "decisions_role": ("facet_role, ", " AND facet_role <> ''"),
    "decisions_tool": ("facet_tool, ", " AND facet_tool <> ''"),
    "decisions_rule": ("facet_rule, ", " AND facet_rule <> ''"),
    "decisions_code": ("facet_code, ", ""),
    "decisions_kind": ("kind, ", ""),
    "decisions_refused": ("verdict, ", " AND verdict <> 'allow'"),
}
"""What each is by, and what it is of; each in the order of time, for pages."""


def upgrade() -> None:
    """Adds the columns and what fills them, then fills them and builds the indexes while the table is in use."""
    for statement in _STATEMENTS:
        op.execute(statement)
    with outside_transaction():
        op.execute("CALL fill_facets()")
    for name, (by, of) in _INDEXES.items():
        create_index(name, f"decisions (tenant_id, {by}created_at, decision_id) WHERE {_NUMBERED}{of}")
