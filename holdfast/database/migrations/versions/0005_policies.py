"""Policies in versions, which of them is active or looked at, and which of them a run is decided by.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from alembic import op

from holdfast.database.online import create_index

revision = "0005"
down_revision = "0004"

_TABLES = ("policies", "policy_activations", "shadow_verdicts")
_STATEMENTS = (
    """
    CREATE TABLE policies (
        tenant_id      uuid NOT NULL REFERENCES tenants,
        policy_id      uuid NOT NULL,
        version        integer NOT NULL CHECK (version > 0),
        source         text NOT NULL CHECK (length(source) <= 1000000),
        compiled       bytea NOT NULL,                      -- canonical JSON: exactly what is run
        policy_hash    bytea NOT NULL CHECK (policy_hash = sha256(compiled)),
        engine_version text NOT NULL,
        origin         text NOT NULL CHECK (origin IN ('written', 'tables', 'starter')),
        cases          text NOT NULL DEFAULT '' CHECK (length(cases) <= 1000000),
        note           text NOT NULL DEFAULT '' CHECK (length(note) <= 1000),
        put_by         text NOT NULL,
        put_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant_id, policy_id),
        UNIQUE (tenant_id, version)
    )
    """,
    # append-only: the newest row of a use says what is active, or what is looked at in the shadow
    """
    CREATE TABLE policy_activations (
        tenant_id    uuid NOT NULL,
        seq          integer NOT NULL CHECK (seq > 0),
        use          text NOT NULL CHECK (use IN ('active', 'shadow')),
        action       text NOT NULL CHECK (action IN ('activate', 'roll_back', 'shadow', 'end_shadow')),
        policy_id    uuid CHECK (policy_id IS NOT NULL OR action = 'end_shadow'),
        activated_by text NOT NULL,
        activated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        reason       text NOT NULL DEFAULT '' CHECK (length(reason) <= 1000),
        PRIMARY KEY (tenant_id, seq),
        FOREIGN KEY (tenant_id, policy_id) REFERENCES policies
    )
    """,
    "CREATE INDEX policy_activations_newest ON policy_activations (tenant_id, use, seq DESC)",
    """
    CREATE TABLE shadow_verdicts (
        tenant_id      uuid NOT NULL,
        decision_id    uuid NOT NULL,
        policy_id      uuid NOT NULL,                       -- the candidate
        run_id         uuid NOT NULL,
        step           integer NOT NULL,
        try            integer NOT NULL,
        action         text NOT NULL,                       -- its name, as policies speak of it
        role           text NOT NULL,
        active_id      uuid,                                -- what decided; NULL if the tenant had no policy
        active_verdict text NOT NULL,
        active_code    text NOT NULL,
        active_rule    text NOT NULL,
        verdict        text NOT NULL,
        code           text NOT NULL,
        rule           text NOT NULL,
        decided_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant_id, decision_id, policy_id),
        FOREIGN KEY (tenant_id, policy_id) REFERENCES policies
    )
    """,
    "CREATE INDEX shadow_verdicts_of_policy ON shadow_verdicts (tenant_id, policy_id, decided_at)",
    *(
        statement
        for table in _TABLES
        for statement in (
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY tenant_only ON {table} USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())",
        )
    ),
    "GRANT SELECT ON policies, policy_activations TO holdfast_api, holdfast_governor, holdfast_broker, holdfast_sweeper",
    "GRANT SELECT ON policies, policy_activations TO holdfast_auditor",
    "GRANT INSERT ON policies, policy_activations TO holdfast_api",  # nobody may change one, or take one away
    "GRANT SELECT ON shadow_verdicts TO holdfast_api, holdfast_governor, holdfast_auditor",
    "GRANT INSERT ON shadow_verdicts TO holdfast_governor",
    # no default that is written, and the check of old rows, which all have NULL, is left out: locks for a moment only
    "ALTER TABLE runs ADD COLUMN policy_id uuid",
    "ALTER TABLE runs ADD COLUMN follows_latest boolean NOT NULL DEFAULT false",
    "ALTER TABLE runs ADD CONSTRAINT runs_policy FOREIGN KEY (tenant_id, policy_id) REFERENCES policies NOT VALID",
    # The store pins, so that also what a program of the version before admits during an upgrade is pinned.
    """
    CREATE FUNCTION pin_policy() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
    BEGIN
        IF NEW.parent_run_id IS NOT NULL THEN -- a part of a run is decided by what its parent is decided by
            SELECT p.policy_id, p.follows_latest INTO NEW.policy_id, NEW.follows_latest FROM runs p
            WHERE p.tenant_id = NEW.tenant_id AND p.run_id = NEW.parent_run_id;
        ELSE
            SELECT a.policy_id INTO NEW.policy_id FROM policy_activations a
            WHERE a.tenant_id = NEW.tenant_id AND a.use = 'active' ORDER BY a.seq DESC LIMIT 1;
        END IF;
        RETURN NEW;
    END $$
    """,
    "REVOKE ALL ON FUNCTION pin_policy() FROM PUBLIC",
    "CREATE TRIGGER pin_policy BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION pin_policy()",
)


def upgrade() -> None:
    """Creates the tables with their row-level security (LAW 5), and the runs' pins."""
    for statement in _STATEMENTS:
        op.execute(statement)
    # whoever activates a version tells the open runs that follow the latest
    create_index("runs_following", "runs (tenant_id, run_id) WHERE follows_latest AND ended_at IS NULL")
