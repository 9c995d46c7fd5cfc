-- Redeeming permits, going outside and storing outcomes. What every function here keeps to stands at the head of 0003_caps.sql.

CREATE TYPE redeem_member AS (tenant_id uuid, hold_id uuid, digest bytea, lease_hash bytea);
-- status: redeemed; used = used, expired, gone, or for other arguments; ended; cancelled; stopped
CREATE TYPE redeem_answer AS (ord integer, status text, lease_ms bigint, action bytea, reason text);

CREATE FUNCTION active_stop(p_tenant_id uuid, p_agent text, p_role text, p_tool text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT s.reason FROM stops s WHERE s.tenant_id = p_tenant_id AND s.lifted_at IS NULL
        AND (s.scope_kind, s.scope_name) IN (('tenant', ''), ('agent', p_agent), ('role', p_role), ('tool', p_tool))
    ORDER BY s.stop_id LIMIT 1
$$;

-- held → executing, once (LAW 1). Its commit does not wait for the disk: should PostgreSQL crash and forget it, the lease is forgotten
-- too and begin_outward fails, so nothing has gone outside.
CREATE FUNCTION ledger_redeem(p_members redeem_member[]) RETURNS SETOF redeem_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE h record; m redeem_member; answer redeem_answer; stop text; last_hold uuid;
BEGIN
    PERFORM require_tenants(ARRAY(SELECT t.tenant_id FROM unnest(p_members) AS t));
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR h IN
        SELECT t.ordinality::integer AS ord, t.tenant_id, t.hold_id, g.state, g.digest, g.expires_at, g.lease_ms, g.lease_hash, g.lease_expires_at, g.action, g.tool,
            ru.ended_at, ru.cancel_requested_at, ru.agent_name, ru.role_name
        FROM unnest(p_members) WITH ORDINALITY AS t
        JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id
        JOIN runs ru ON ru.run_id = g.run_id AND ru.tenant_id IS NOT DISTINCT FROM g.tenant_id
        ORDER BY t.hold_id, t.ordinality FOR NO KEY UPDATE OF g
    LOOP
        m := p_members[h.ord];
        answer := ROW(h.ord, 'redeemed', h.lease_ms, h.action, NULL);
        IF h.state = 'executing' AND h.lease_hash = m.lease_hash AND h.digest = m.digest AND h.lease_expires_at > clock_timestamp() THEN
            NULL; -- the answer was lost, and the same asks again
        ELSIF h.hold_id = last_hold OR h.state <> 'held' OR h.digest <> m.digest OR h.expires_at <= clock_timestamp() THEN
            answer.status := 'used';
        ELSIF h.ended_at IS NOT NULL THEN
            answer.status := 'ended';
        ELSIF h.cancel_requested_at IS NOT NULL THEN
            answer.status := 'cancelled';
        ELSE
            stop := active_stop(h.tenant_id, h.agent_name, h.role_name, h.tool);
            IF stop IS NOT NULL THEN
                answer.status := 'stopped';
                answer.reason := stop;
            ELSE
                UPDATE holds SET state = 'executing', lease_hash = m.lease_hash,
                    lease_expires_at = clock_timestamp() + lease_ms * interval '1 millisecond'
                WHERE tenant_id = h.tenant_id AND hold_id = h.hold_id;
                last_hold := h.hold_id;
            END IF;
        END IF;
        IF answer.status <> 'redeemed' THEN answer.action := NULL; END IF;
        RETURN NEXT answer;
    END LOOP;
END $$;

-- An emergency stop also holds for permits that were redeemed, as long as nothing has gone outside.
CREATE OR REPLACE FUNCTION begin_outward(p_hold_id uuid, p_lease_token bytea) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE remaining_ms bigint;
BEGIN
    -- whoever sets a stop waits here, right before its commit, for what is just going outside; whatever comes later sees the stop
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(h.tenant_id::text, 2)) FROM holds h WHERE h.hold_id = p_hold_id;
    -- compare and set on state, fencing token and lease in one statement: a frozen executor that wakes late fails here (LAW 1)
    -- (asked again by the same holder after a lost answer, it answers again)
    UPDATE holds h SET outward_at = coalesce(h.outward_at, clock_timestamp())
    WHERE h.hold_id = p_hold_id AND h.state = 'executing'
      AND h.lease_hash = sha256(p_lease_token) AND h.lease_expires_at > clock_timestamp()
      AND (h.outward_at IS NOT NULL OR NOT EXISTS (SELECT 1 FROM stops s JOIN runs r ON r.run_id = h.run_id AND r.tenant_id IS NOT DISTINCT FROM h.tenant_id
        WHERE s.tenant_id = h.tenant_id AND s.lifted_at IS NULL AND (s.scope_kind, s.scope_name)
            IN (('tenant', ''), ('agent', r.agent_name), ('role', r.role_name), ('tool', h.tool))))
    RETURNING floor(extract(epoch FROM h.lease_expires_at - clock_timestamp()) * 1000)::bigint INTO remaining_ms;
    RETURN remaining_ms; -- NULL: the lease is lost
END $$;

-- Many at once, in the order of holds: one transaction, one wait for the disk. Plans are made in here and kept, perhaps while the table is
-- still empty, so none may walk through it.
CREATE FUNCTION begin_outward_all(p_hold_ids uuid[], p_lease_tokens bytea[]) RETURNS TABLE (ord integer, remaining_ms bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
BEGIN
    FOR ord IN SELECT w.ord::integer FROM unnest(p_hold_ids) WITH ORDINALITY AS w (hold_id, ord) ORDER BY w.hold_id, w.ord LOOP
        remaining_ms := begin_outward(p_hold_ids[ord], p_lease_tokens[ord]);
        RETURN NEXT;
    END LOOP;
END $$;

CREATE TYPE outcome_member AS (
    hold_id uuid, lease_token bytea, ok boolean, error_code text, retryable boolean, retry_after_ms bigint, cost_class text,
    provider_request_id text, simulated boolean, result bytea
);

CREATE FUNCTION store_outcome_all(p_members outcome_member[]) RETURNS TABLE (ord integer, stored boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE m outcome_member;
BEGIN
    FOR ord IN SELECT w.ordinality::integer FROM unnest(p_members) WITH ORDINALITY AS w ORDER BY w.hold_id, w.ordinality LOOP
        m := p_members[ord];
        stored := store_outcome(m.hold_id, m.lease_token, m.ok, m.error_code, m.retryable, m.retry_after_ms, m.cost_class,
            m.provider_request_id, m.simulated, m.result);
        RETURN NEXT;
    END LOOP;
END $$;
