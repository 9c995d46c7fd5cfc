"""Rehearsals of candidate policies over recorded decisions: what was asked, how far it is, what was found.

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"

_STATEMENTS = (
    """
    CREATE TABLE policy_rehearsals (
        tenant_id     uuid NOT NULL REFERENCES tenants,
        rehearsal_id  uuid NOT NULL,
        version       integer,                              -- of the candidate, if it is stored
        compiled      bytea NOT NULL,
        policy_hash   bytea NOT NULL CHECK (length(policy_hash) = 32),
        since         timestamptz NOT NULL,
        until         timestamptz NOT NULL,
        state         text NOT NULL DEFAULT 'waiting'
                      CHECK (state IN ('waiting', 'running', 'done', 'cancelled', 'failed')),
        done          bigint NOT NULL DEFAULT 0,            -- records
        total         bigint,
        tries         integer NOT NULL DEFAULT 0,
        held_by       uuid,                                 -- who rehearses it now
        held_until    timestamptz,                          -- after that it was lost, and begins anew
        result        jsonb,
        error         text NOT NULL DEFAULT '',
        asked_by      text NOT NULL,
        created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at      timestamptz,
        PRIMARY KEY (tenant_id, rehearsal_id),
        CHECK ((state IN ('done', 'cancelled', 'failed')) = (ended_at IS NOT NULL)),
        CHECK ((state = 'done') = (result IS NOT NULL))
    )
    """,
    "ALTER TABLE policy_rehearsals ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE policy_rehearsals FORCE ROW LEVEL SECURITY",
    """
    CREATE POLICY tenant_only ON policy_rehearsals USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())
    """,
    "GRANT SELECT ON policy_rehearsals TO holdfast_api, holdfast_auditor",
    "GRANT INSERT ON policy_rehearsals TO holdfast_api",
    "GRANT UPDATE (state, done, total, tries, held_by, held_until, result, error, ended_at) ON policy_rehearsals TO holdfast_api",
)


def upgrade() -> None:
    """Creates the table with its row-level security (LAW 5)."""
    for statement in _STATEMENTS:
        op.execute(statement)
