-- Row-level security on every table, forced also on the owner (LAW 5); rights per process; the few functions that cross tenants.

DO $$
DECLARE t text;
BEGIN
    FOR t IN SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
             WHERE n.nspname = current_schema() AND c.relkind = 'r' LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant_only ON %I USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())', t);
    END LOOP;
END $$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO holdfast_api, holdfast_governor, holdfast_broker, holdfast_executor, holdfast_sweeper, holdfast_auditor, holdfast_definer;

-- The API admits, reads and records approvals. It cannot grant a hold, nor touch a balance but through its own runs' admission.
GRANT SELECT ON tenants, projects, users, api_keys, roles, agents, runs, run_inputs, transcript_entries, timeline_events, caps, holds,
    hold_legs, journal, outcomes, decisions, approvals, approval_tokens, idempotency_keys TO holdfast_api;
GRANT INSERT ON tenants, projects, users, api_keys, roles, agents, runs, run_inputs, timeline_events, caps, holds, hold_legs, journal,
    decisions, approval_tokens, idempotency_keys TO holdfast_api;
GRANT UPDATE (revoked_at) ON api_keys TO holdfast_api;
GRANT UPDATE (status, started_at, cancel_requested_at, cancel_signalled_at, timeline_seq, history_version, budget_hold_id, simulated) ON runs TO holdfast_api;
GRANT UPDATE (signalled_at) ON run_inputs TO holdfast_api;
GRANT UPDATE (limit_amount, unlimited, ceiling, reserved, committed, debt) ON caps TO holdfast_api;
GRANT UPDATE (verdict, decided_by, decided_at, comment, edited_action, binding, signalled_at) ON approvals TO holdfast_api;
GRANT UPDATE (state, cost_nano_usd, settled_at, settled_by) ON holds TO holdfast_api; -- a person resolves an unknown hold

-- The governor decides. It executes nothing and cannot read the vault.
GRANT SELECT ON tenants, projects, users, roles, agents, runs, run_inputs, transcript_entries, timeline_events, caps, holds, hold_legs,
    journal, outcomes, decisions, approvals, approval_tokens TO holdfast_governor;
GRANT INSERT ON transcript_entries, timeline_events, caps, holds, hold_legs, journal, decisions, approvals TO holdfast_governor;
GRANT UPDATE ON runs, caps, approvals, approval_tokens TO holdfast_governor;
-- What a hold is for never changes, its lease is the broker's, and `outward_at` is set by the executor's function alone.
GRANT UPDATE (state, cost_nano_usd, unknown_at, settled_at, settled_by, superseded_at) ON holds TO holdfast_governor;
GRANT UPDATE (superseded_at) ON decisions TO holdfast_governor; -- a record is never rewritten

-- The broker redeems permits and hands out credentials; it stores what `vault put` sends.
GRANT SELECT ON tenants, projects, users, api_keys, roles, agents, runs, run_inputs, transcript_entries, holds, vault_entries
    TO holdfast_broker;
GRANT INSERT, UPDATE, DELETE ON vault_entries TO holdfast_broker;
GRANT INSERT ON decisions TO holdfast_broker;
GRANT UPDATE (state, lease_hash, lease_expires_at) ON holds TO holdfast_broker;

-- Sweepers settle what nobody else will, and drain the outboxes.
GRANT SELECT ON tenants, projects, users, runs, run_inputs, agents, roles, transcript_entries, timeline_events, caps, holds, hold_legs, journal,
    outcomes, decisions, approvals
    TO holdfast_sweeper;
GRANT INSERT ON transcript_entries, timeline_events, journal, decisions TO holdfast_sweeper;
GRANT UPDATE ON runs, caps, approvals, run_inputs TO holdfast_sweeper;
GRANT UPDATE (state, cost_nano_usd, unknown_at, settled_at, settled_by, superseded_at) ON holds TO holdfast_sweeper;
GRANT UPDATE (leaf_index) ON decisions TO holdfast_sweeper; -- the sequencer numbers what is written, and changes nothing of it

GRANT SELECT ON tenants, projects, users, roles, agents, runs, timeline_events, caps, holds, hold_legs, journal, outcomes, decisions,
    approvals TO holdfast_auditor;

-- The executor's role has no right on any table: it may call two functions, and only with the lease that it was given.

CREATE FUNCTION begin_outward(p_hold_id uuid, p_lease_token bytea) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE remaining_ms bigint;
BEGIN
    -- compare and set on state, fencing token and lease in one statement: a frozen executor that wakes late fails here (LAW 1)
    -- (asked again by the same holder after a lost answer, it answers again)
    UPDATE holds SET outward_at = coalesce(outward_at, clock_timestamp())
    WHERE hold_id = p_hold_id AND state = 'executing'
      AND lease_hash = sha256(p_lease_token) AND lease_expires_at > clock_timestamp()
    RETURNING floor(extract(epoch FROM lease_expires_at - clock_timestamp()) * 1000)::bigint INTO remaining_ms;
    RETURN remaining_ms; -- NULL: the lease is lost
END $$;

CREATE FUNCTION store_outcome(p_hold_id uuid, p_lease_token bytea, p_ok boolean, p_error_code text, p_retryable boolean,
    p_retry_after_ms bigint, p_cost_class text, p_provider_request_id text, p_simulated boolean, p_result bytea) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE h record; stored outcomes%ROWTYPE;
BEGIN
    SELECT tenant_id, run_id, state INTO h FROM holds
    WHERE hold_id = p_hold_id AND lease_hash = sha256(p_lease_token) FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN false; END IF;
    SELECT * INTO stored FROM outcomes WHERE tenant_id = h.tenant_id AND hold_id = p_hold_id;
    IF FOUND THEN -- the same again is no error, also when its hold was settled in between; another is never taken
        RETURN stored.ok = p_ok AND stored.cost_class = p_cost_class AND stored.result = p_result;
    END IF;
    -- An outcome that comes late, after its hold became `unknown`, is still the truth about that hold (LAW 4).
    IF h.state NOT IN ('executing', 'unknown') THEN RETURN false; END IF;
    INSERT INTO outcomes (tenant_id, hold_id, run_id, ok, error_code, retryable, retry_after_ms, cost_class, provider_request_id, simulated, result)
    VALUES (h.tenant_id, p_hold_id, h.run_id, p_ok, p_error_code, p_retryable, p_retry_after_ms, p_cost_class, p_provider_request_id,
            p_simulated, p_result);
    UPDATE holds SET state = CASE WHEN h.state = 'unknown' THEN 'unknown' ELSE 'executed' END WHERE hold_id = p_hold_id;
    RETURN true;
END $$;

-- Across tenants, by a secret or an id that names exactly one row.

CREATE FUNCTION authenticate_key(p_key_hash bytea)
RETURNS TABLE (tenant_id uuid, tenant_slug text, key_id uuid, user_id uuid, user_name text, project_id uuid, project_slug text, roles text[], state text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT k.tenant_id, t.slug, k.key_id, k.user_id, u.name, k.project_id, p.slug, k.roles,
           CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= now() THEN 'expired' ELSE 'valid' END
    FROM api_keys k JOIN tenants t ON t.tenant_id = k.tenant_id
    JOIN users u ON u.tenant_id = k.tenant_id AND u.user_id = k.user_id
    JOIN projects p ON p.tenant_id = k.tenant_id AND p.project_id = k.project_id
    WHERE k.key_hash = p_key_hash
$$;

CREATE FUNCTION locate_run(p_run_id uuid) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS
$$ SELECT tenant_id FROM runs WHERE run_id = p_run_id $$;

CREATE FUNCTION list_tenants() RETURNS TABLE (tenant_id uuid, slug text, name text, time_zone text, created_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS
$$ SELECT tenant_id, slug, name, time_zone, created_at FROM tenants ORDER BY slug $$;

-- What is due for the sweepers: ids only; each is then worked on inside its tenant.
CREATE FUNCTION due_holds(p_limit integer, p_unknown_deadline interval)
RETURNS TABLE (tenant_id uuid, hold_id uuid, run_id uuid, step integer, try integer, state text, run_ended boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT h.tenant_id, h.hold_id, h.run_id, h.step, h.try, h.state, r.ended_at IS NOT NULL
    FROM holds h JOIN runs r ON r.tenant_id = h.tenant_id AND r.run_id = h.run_id
    WHERE h.settled_at IS NULL AND h.kind <> 'run.budget'
      AND ((h.state = 'held' AND (h.expires_at <= now() OR r.ended_at IS NOT NULL))
        OR (h.state = 'executing' AND h.outward_at IS NULL AND r.ended_at IS NOT NULL)
        OR (h.state = 'executing' AND h.lease_expires_at <= now() AND (r.ended_at IS NOT NULL OR h.expires_at <= now()))
        OR (h.state = 'executed' AND (r.ended_at IS NOT NULL OR h.expires_at <= now()))
        OR (h.state = 'unknown' AND (h.unknown_at + p_unknown_deadline <= now()
            OR EXISTS (SELECT 1 FROM outcomes o WHERE o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id AND o.cost_class <> 'unknown'))))
    ORDER BY h.expires_at LIMIT p_limit
$$;

CREATE FUNCTION due_starts(p_limit integer) RETURNS TABLE (tenant_id uuid, run_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT tenant_id, run_id FROM runs WHERE started_at IS NULL AND ended_at IS NULL AND created_at < now() - interval '1 second'
    ORDER BY created_at LIMIT p_limit
$$;

CREATE FUNCTION due_signals(p_limit integer) RETURNS TABLE (tenant_id uuid, run_id uuid, kind text, approval_id uuid, seq integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    (SELECT a.tenant_id, a.run_id, 'approval', a.approval_id, NULL::integer FROM approvals a
     WHERE a.decided_at IS NOT NULL AND a.signalled_at IS NULL AND a.decided_at < now() - interval '1 second' LIMIT p_limit)
    UNION ALL
    (SELECT i.tenant_id, i.run_id, 'input', NULL::uuid, i.seq FROM run_inputs i JOIN runs r USING (tenant_id, run_id)
     WHERE i.signalled_at IS NULL AND i.created_at < now() - interval '1 second' AND r.started_at IS NOT NULL AND r.ended_at IS NULL
     ORDER BY i.created_at LIMIT p_limit)
    UNION ALL
    (SELECT r.tenant_id, r.run_id, 'cancel', NULL::uuid, NULL::integer FROM runs r
     WHERE r.cancel_requested_at IS NOT NULL AND r.cancel_signalled_at IS NULL AND r.ended_at IS NULL AND r.started_at IS NOT NULL
       AND r.cancel_requested_at < now() - interval '1 second' LIMIT p_limit)
$$;

CREATE FUNCTION open_runs(p_limit integer, p_after uuid) RETURNS TABLE (tenant_id uuid, run_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT tenant_id, run_id FROM runs WHERE ended_at IS NULL AND started_at IS NOT NULL AND run_id > p_after ORDER BY run_id LIMIT p_limit
$$;

CREATE FUNCTION undigested_runs(p_limit integer) RETURNS TABLE (tenant_id uuid, run_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT tenant_id, run_id FROM runs WHERE ended_at IS NOT NULL AND history_digest IS NULL AND started_at IS NOT NULL
    ORDER BY ended_at LIMIT p_limit
$$;

DO $$
DECLARE f text;
BEGIN
    FOREACH f IN ARRAY ARRAY[
        'current_tenant()', 'refuse_overspend()',
        'begin_outward(uuid, bytea)', 'store_outcome(uuid, bytea, boolean, text, boolean, bigint, text, text, boolean, bytea)',
        'authenticate_key(bytea)', 'locate_run(uuid)', 'list_tenants()', 'due_holds(integer, interval)', 'due_starts(integer)',
        'due_signals(integer)', 'open_runs(integer, uuid)', 'undigested_runs(integer)'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION current_tenant TO holdfast_api, holdfast_governor, holdfast_broker, holdfast_sweeper, holdfast_auditor, holdfast_definer;
GRANT EXECUTE ON FUNCTION begin_outward, store_outcome TO holdfast_executor;
GRANT EXECUTE ON FUNCTION authenticate_key TO holdfast_api, holdfast_broker;
GRANT EXECUTE ON FUNCTION locate_run TO holdfast_governor;
GRANT EXECUTE ON FUNCTION list_tenants TO holdfast_api, holdfast_sweeper, holdfast_auditor;
GRANT EXECUTE ON FUNCTION due_holds, due_starts, due_signals, open_runs, undigested_runs TO holdfast_sweeper;

-- The definer sees, across tenants, only what these functions read, and changes only what the two of the executor change.
GRANT SELECT ON tenants, projects, users, api_keys, runs, run_inputs, holds, outcomes, approvals TO holdfast_definer;
GRANT UPDATE (outward_at, state) ON holds TO holdfast_definer;
GRANT INSERT ON outcomes TO holdfast_definer;
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['tenants', 'projects', 'users', 'api_keys', 'runs', 'run_inputs', 'holds', 'outcomes', 'approvals'] LOOP
        -- by name, for a policy applies to members of its role as well, and the owner is one
        EXECUTE format('CREATE POLICY definer_all ON %I TO holdfast_definer USING (current_user = ''holdfast_definer'')
                        WITH CHECK (current_user = ''holdfast_definer'')', t);
    END LOOP;
END $$;
GRANT CREATE ON SCHEMA public TO holdfast_definer;
ALTER FUNCTION begin_outward OWNER TO holdfast_definer;
ALTER FUNCTION store_outcome OWNER TO holdfast_definer;
ALTER FUNCTION authenticate_key OWNER TO holdfast_definer;
ALTER FUNCTION locate_run OWNER TO holdfast_definer;
ALTER FUNCTION list_tenants OWNER TO holdfast_definer;
ALTER FUNCTION due_holds OWNER TO holdfast_definer;
ALTER FUNCTION due_starts OWNER TO holdfast_definer;
ALTER FUNCTION due_signals OWNER TO holdfast_definer;
ALTER FUNCTION open_runs OWNER TO holdfast_definer;
ALTER FUNCTION undigested_runs OWNER TO holdfast_definer;
REVOKE CREATE ON SCHEMA public FROM holdfast_definer;

INSERT INTO tenants (tenant_id, slug, name) SELECT '00000000-0000-0000-0000-000000000000', 'platform', 'Platform'
    FROM (SELECT set_config('holdfast.tenant_id', '00000000-0000-0000-0000-000000000000', true)) AS tenant;
