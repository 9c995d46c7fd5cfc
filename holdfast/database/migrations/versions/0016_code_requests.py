"""What code asked its run for while it ran, and what it was answered.

Revision ID: 0016
Revises: 0011
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0011"

_STATEMENTS = (
    """
    CREATE TABLE code_requests (
        tenant_id   uuid NOT NULL,
        hold_id     uuid NOT NULL,                          -- of the `code.exec` whose job asks
        number      integer NOT NULL CHECK (number > 0),    -- within the job
        run_id      uuid NOT NULL,
        step        integer NOT NULL,
        kind        text NOT NULL CHECK (kind IN ('tool', 'emit', 'cite')),
        name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 512),
        arguments   bytea NOT NULL CHECK (length(arguments) <= 262144),
        created_at  timestamptz NOT NULL DEFAULT now(),
        answered_at timestamptz,
        ok          boolean,
        code        text,
        answer      bytea,                                  -- UTF-8: what the tool returned, or why not
        PRIMARY KEY (tenant_id, hold_id, number),
        FOREIGN KEY (tenant_id, hold_id) REFERENCES holds,
        CHECK ((answered_at IS NULL) = (ok IS NULL) AND (ok IS NULL) = (code IS NULL) AND (ok IS NULL) = (answer IS NULL))
    )
    """,
    "CREATE INDEX code_requests_step ON code_requests (tenant_id, run_id, step, number)",
    "ALTER TABLE code_requests ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE code_requests FORCE ROW LEVEL SECURITY",
    "CREATE POLICY tenant_only ON code_requests USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())",
    """
    CREATE POLICY definer_all ON code_requests TO holdfast_definer USING (current_user = 'holdfast_definer')
    WITH CHECK (current_user = 'holdfast_definer')
    """,
    "GRANT SELECT, UPDATE (answered_at, ok, code, answer) ON code_requests TO holdfast_governor",
    "GRANT SELECT ON code_requests TO holdfast_auditor",
    "GRANT SELECT, INSERT ON code_requests TO holdfast_definer",
    # The job whose code is running right now, for whoever holds its lease.
    """
    CREATE FUNCTION running_code(p_hold_id uuid, p_lease_token bytea)
    RETURNS TABLE (tenant_id uuid, run_id uuid, step integer, try integer) LANGUAGE sql STABLE AS $$
        SELECT h.tenant_id, h.run_id, h.step, h.try FROM holds h
        WHERE h.hold_id = p_hold_id AND h.kind = 'code.exec' AND h.state = 'executing' AND h.outward_at IS NOT NULL
          AND h.lease_hash = sha256(p_lease_token) AND h.lease_expires_at > clock_timestamp()
    $$
    """,
    # Writes a request down: once, however often it is asked. What is said to the run is an event at once; code that is run again
    # after its host had died does not say the same thing twice. A call of a tool only stands there: the governor decides on it.
    """
    CREATE FUNCTION ask_by_hold(
        p_hold_id uuid, p_lease_token bytea, p_number integer, p_kind text, p_name text, p_arguments bytea, p_told jsonb
    ) RETURNS TABLE (status text, seq bigint) LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DECLARE job record; told bigint := 0;
    BEGIN
        SELECT * INTO job FROM running_code(p_hold_id, p_lease_token);
        IF NOT FOUND THEN RETURN QUERY SELECT 'lease_lost', 0::bigint; RETURN; END IF;
        INSERT INTO code_requests (tenant_id, hold_id, number, run_id, step, kind, name, arguments)
        VALUES (job.tenant_id, p_hold_id, p_number, job.run_id, job.step, p_kind, p_name, p_arguments) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            PERFORM 1 FROM code_requests q WHERE q.tenant_id = job.tenant_id AND q.hold_id = p_hold_id AND q.number = p_number
                AND q.kind = p_kind AND q.name = p_name AND q.arguments = p_arguments;
            RETURN QUERY SELECT CASE WHEN FOUND THEN 'asked' ELSE 'conflict' END, 0::bigint; RETURN;
        END IF;
        IF p_kind <> 'tool' AND NOT EXISTS (SELECT 1 FROM code_requests q WHERE q.tenant_id = job.tenant_id AND q.run_id = job.run_id
            AND q.step = job.step AND q.number = p_number AND q.hold_id <> p_hold_id
            AND q.kind = p_kind AND q.name = p_name AND q.arguments = p_arguments)
        THEN
            UPDATE runs r SET timeline_seq = r.timeline_seq + 1 WHERE r.tenant_id = job.tenant_id AND r.run_id = job.run_id
            RETURNING r.timeline_seq INTO told;
            INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
            VALUES (job.tenant_id, job.run_id, told, new_id(), CASE p_kind WHEN 'emit' THEN 'code' ELSE 'citation' END,
                CASE p_kind WHEN 'emit' THEN 'code.emitted' ELSE 'citation.added' END,
                jsonb_build_object('step', job.step, 'try', job.try, 'request', p_number) || p_told);
        END IF;
        RETURN QUERY SELECT 'asked', told;
    END $$
    """,
    """
    CREATE FUNCTION answer_by_hold(p_hold_id uuid, p_lease_token bytea, p_number integer)
    RETURNS TABLE (ok boolean, code text, answer bytea) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
        SELECT q.ok, q.code, q.answer FROM running_code(p_hold_id, p_lease_token) j
        JOIN code_requests q ON q.tenant_id = j.tenant_id AND q.hold_id = p_hold_id AND q.number = p_number
        WHERE q.answered_at IS NOT NULL
    $$
    """,
    "REVOKE ALL ON FUNCTION running_code, ask_by_hold, answer_by_hold FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION running_code TO holdfast_definer",
    "GRANT CREATE ON SCHEMA public TO holdfast_definer",
    "ALTER FUNCTION ask_by_hold OWNER TO holdfast_definer",
    "ALTER FUNCTION answer_by_hold OWNER TO holdfast_definer",
    "REVOKE CREATE ON SCHEMA public FROM holdfast_definer",
    "GRANT EXECUTE ON FUNCTION ask_by_hold, answer_by_hold TO holdfast_executor",
)


def upgrade() -> None:
    """Creates the table with its row-level security (LAW 5), and the two functions of whoever runs code."""
    for statement in _STATEMENTS:
        op.execute(statement)
