-- Deciding on approvals. INVARIANT (lock order): the run, then the approval; whoever holds both decides alone, by PostgreSQL's clock.

-- What a gate asks for. `approver_role` holds the gate's JSON, or the name of the one role that older programs ask for.
CREATE FUNCTION gate_of(p_text text) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN p_text LIKE '{%' THEN p_text::jsonb ELSE jsonb_build_object(
        'needs', jsonb_build_array(jsonb_build_object('count', 1, 'kind', 'role', 'name', p_text)), 'not_requester', true, 'escalate', NULL) END
$$;

CREATE FUNCTION meets_need(p_need jsonb, p_voter jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(CASE p_need ->> 'kind' WHEN 'role' THEN p_voter ->> 'kind' = 'user' AND (p_voter -> 'roles') ? (p_need ->> 'name')
        ELSE p_voter ->> 'kind' = p_need ->> 'kind' AND p_voter ->> 'name' = p_need ->> 'name' END, false)
$$;

-- Whether voters can be seated so that every need has as many as it asks for, each voter on one seat: so it is if and only if no set of
-- needs has more seats than voters who may take one of them (Hall's theorem). Whom a gate escalates to may take any seat, once as many
-- of them as it says have consented. A gate with no needs, or more than twelve, is never met (LAW 7).
CREATE FUNCTION gate_met(p_gate jsonb, p_escalated boolean, p_voters jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    WITH need AS (
        SELECT 1 << (n.ord - 1)::integer AS bit, coalesce((n.value ->> 'count')::integer, 1000000) AS seats, n.value
        FROM jsonb_array_elements(p_gate -> 'needs') WITH ORDINALITY AS n (value, ord) WHERE n.ord <= 13
    ), voter AS (
        SELECT (SELECT coalesce(bit_or(need.bit), 0) FROM need WHERE meets_need(need.value, v.value)) AS fills,
            p_escalated AND meets_need(p_gate #> '{escalate,to}', v.value) AS stands_in
        FROM jsonb_array_elements(p_voters) AS v (value)
    ), able AS (
        SELECT CASE WHEN stands_in AND (SELECT count(*) FROM voter WHERE stands_in) >= (p_gate #>> '{escalate,to,count}')::integer
            THEN -1 ELSE fills END AS fills FROM voter
    )
    SELECT coalesce((SELECT count(*) FROM need) <= 12 AND (SELECT min(seats) FROM need) > 0 AND bool_and(
        (SELECT count(*) FROM able WHERE able.fills & s.bits <> 0) >= (SELECT sum(seats) FROM need WHERE need.bit & s.bits <> 0)), false)
    FROM generate_series(1, (1 << least((SELECT count(*) FROM need), 12)::integer) - 1) AS s (bits)
$$;

-- The votes that stand for a revision: the newest of each voter.
CREATE FUNCTION standing_votes(p_tenant_id uuid, p_approval_id uuid, p_revision integer)
RETURNS TABLE (kind text, voter text, name text, roles text[], verdict text) LANGUAGE sql STABLE AS $$
    SELECT l.kind, l.voter, l.name, l.roles, l.verdict FROM (
        SELECT DISTINCT ON (v.kind, v.voter) v.* FROM approval_votes v
        WHERE v.tenant_id = p_tenant_id AND v.approval_id = p_approval_id AND v.revision = p_revision
        ORDER BY v.kind, v.voter, v.number DESC) l
    WHERE l.verdict <> 'withdrawn'
$$;

CREATE FUNCTION consents_meet(p_tenant_id uuid, p_approval_id uuid, p_revision integer, p_gate jsonb, p_escalated boolean) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT gate_met(p_gate, p_escalated, coalesce(
        (SELECT jsonb_agg(jsonb_build_object('kind', v.kind, 'name', v.name, 'roles', to_jsonb(v.roles)))
         FROM standing_votes(p_tenant_id, p_approval_id, p_revision) v WHERE v.verdict = 'approved'), '[]'))
$$;

-- INVARIANT: not even a faulty program can approve what the needed ones did not consent to, or decide twice.
CREATE FUNCTION refuse_unmet() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF NOT consents_meet(NEW.tenant_id, NEW.approval_id, NEW.revision, gate_of(NEW.approver_role),
        escalates_at(NEW.created_at, gate_of(NEW.approver_role)) <= clock_timestamp()) THEN
        RAISE EXCEPTION 'approval % has not the consents that it needs', NEW.approval_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'approvals_consented', TABLE = 'approvals';
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION refuse_redeciding() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'approval % is decided as %', OLD.approval_id, OLD.verdict
        USING ERRCODE = 'check_violation', CONSTRAINT = 'approvals_decided_once', TABLE = 'approvals';
END $$;
-- when a gate turns to somebody else; null if it never does
CREATE FUNCTION escalates_at(p_created_at timestamptz, p_gate jsonb) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT p_created_at + make_interval(secs => (p_gate #>> '{escalate,after_ms}')::double precision / 1000)
$$;
CREATE TRIGGER approvals_consented BEFORE UPDATE OF verdict ON approvals FOR EACH ROW
    WHEN (OLD.verdict IS NULL AND NEW.verdict = 'approved' AND NEW.approver_role LIKE '{%') EXECUTE FUNCTION refuse_unmet();
CREATE TRIGGER approvals_decided_once BEFORE UPDATE ON approvals FOR EACH ROW
    WHEN (OLD.verdict IS NOT NULL AND (NEW.verdict, NEW.binding, NEW.edited_action, NEW.revision, NEW.approver_role, NEW.decided_at)
        IS DISTINCT FROM (OLD.verdict, OLD.binding, OLD.edited_action, OLD.revision, OLD.approver_role, OLD.decided_at))
    EXECUTE FUNCTION refuse_redeciding();

-- Appends one event to the timeline of the run that waits, whose row the caller has locked.
CREATE FUNCTION tell_approval(p_tenant_id uuid, p_run_id uuid, p_type text, p_data jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE seq bigint;
BEGIN
    UPDATE runs r SET timeline_seq = r.timeline_seq + 1, history_version = r.history_version + 1
    WHERE r.tenant_id = p_tenant_id AND r.run_id = p_run_id RETURNING r.timeline_seq INTO seq;
    INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
    VALUES (p_tenant_id, p_run_id, seq, new_id(), 'approval', p_type, p_data);
    RETURN seq;
END $$;

-- Locks the run and the approval, in this order, and says whether it is open: '', unknown, decided, ended or expired.
CREATE FUNCTION lock_approval(p_tenant_id uuid, p_approval_id uuid, OUT stands text, OUT a approvals, OUT r runs) LANGUAGE plpgsql AS $$
BEGIN
    SELECT w.* INTO r FROM runs w WHERE w.tenant_id = p_tenant_id AND w.run_id = (
        SELECT x.run_id FROM approvals x WHERE x.tenant_id = p_tenant_id AND x.approval_id = p_approval_id) FOR NO KEY UPDATE;
    SELECT x.* INTO a FROM approvals x WHERE x.tenant_id = p_tenant_id AND x.approval_id = p_approval_id FOR NO KEY UPDATE;
    stands := CASE WHEN a.approval_id IS NULL THEN 'unknown' WHEN a.verdict IS NOT NULL THEN 'decided' WHEN r.ended_at IS NOT NULL THEN 'ended'
        WHEN a.expires_at <= clock_timestamp() THEN 'expired' ELSE '' END;
END $$;

-- Whether one run descends from the other, or is it: nobody consents for a run of their own family.
CREATE FUNCTION related_runs(p_tenant_id uuid, p_run_id uuid, p_other_id uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    WITH RECURSIVE up (start, run_id) AS (
        SELECT s, s FROM unnest(ARRAY[p_run_id, p_other_id]) AS s
        UNION
        SELECT up.start, r.parent_run_id FROM up JOIN runs r ON r.tenant_id = p_tenant_id AND r.run_id = up.run_id
        WHERE r.parent_run_id IS NOT NULL)
    SELECT EXISTS (SELECT 1 FROM up WHERE (up.start = p_run_id AND up.run_id = p_other_id) OR (up.start = p_other_id AND up.run_id = p_run_id))
$$;

-- The delegations that stand: the newest of each who delegates, unless it was taken back.
CREATE FUNCTION standing_delegations(p_tenant_id uuid, p_approval_id uuid) RETURNS SETOF approval_delegations LANGUAGE sql STABLE AS $$
    SELECT l.* FROM (SELECT DISTINCT ON (d.from_user_id) d.* FROM approval_delegations d
        WHERE d.tenant_id = p_tenant_id AND d.approval_id = p_approval_id ORDER BY d.from_user_id, d.number DESC) l
    WHERE l.to_user_id IS NOT NULL
$$;

-- Writes down a decision on an approval; what decides it last wakes the run by the outbox, unless the run is asking right now.
CREATE FUNCTION close_approval(p_approval approvals, p_verdict text, p_user_id uuid, p_name text, p_reason text, p_signalled boolean,
    p_withdrawn boolean) RETURNS void LANGUAGE sql AS $$
    UPDATE approvals x SET verdict = p_verdict, decided_by = p_user_id, decided_name = p_name, decided_at = clock_timestamp(), comment = p_reason,
        signalled_at = CASE WHEN p_signalled THEN clock_timestamp() END, withdrawn_at = CASE WHEN p_withdrawn THEN clock_timestamp() END
    WHERE x.tenant_id = p_approval.tenant_id AND x.approval_id = p_approval.approval_id
$$;

-- One vote. `status`: cast; same = it stands already; or why it does not count. `p_seen` is the binding that the voter was shown: without
-- it only what was never edited is voted on. With `p_edits` the voter puts other arguments in place, and earlier votes are for what was.
CREATE FUNCTION cast_vote(p_tenant_id uuid, p_approval_id uuid, p_seen bytea, p_kind text, p_voter text, p_name text, p_user_id uuid,
    p_roles text[], p_voter_run_id uuid, p_via text, p_verdict text, p_reason text, p_evidence bytea, p_edits boolean, p_edited bytea,
    p_binding bytea, p_signalled boolean, OUT status text, OUT run_id uuid, OUT state text, OUT seq bigint, OUT revision integer,
    OUT step integer, OUT rule text, OUT action bytea, OUT binding bytea, OUT roles text[])
LANGUAGE plpgsql AS $$
DECLARE l record; stands text; a approvals; r runs; gate jsonb; voter jsonb; escalated boolean; away boolean; mine text; edits boolean; closes boolean;
BEGIN
    SELECT * INTO l FROM lock_approval(p_tenant_id, p_approval_id);
    stands := l.stands; a := l.a; r := l.r; seq := 0;
    IF stands = 'unknown' THEN status := 'unknown'; RETURN; END IF;
    gate := gate_of(a.approver_role);
    escalated := coalesce(escalates_at(a.created_at, gate) <= clock_timestamp(), false);
    away := p_kind = 'user' AND EXISTS (SELECT 1 FROM standing_delegations(p_tenant_id, p_approval_id) d WHERE d.from_user_id = p_user_id);
    roles := ARRAY(SELECT DISTINCT x FROM (
        SELECT unnest(p_roles) AS x WHERE NOT away
        UNION ALL SELECT unnest(d.roles) FROM standing_delegations(p_tenant_id, p_approval_id) d
        WHERE p_kind = 'user' AND d.to_user_id = p_user_id) t ORDER BY x);
    voter := jsonb_build_object('kind', p_kind, 'name', p_name, 'roles', to_jsonb(roles));
    run_id := a.run_id; step := a.step; rule := a.rule; revision := a.revision; binding := a.binding; state := coalesce(a.verdict, 'pending');
    action := coalesce(a.edited_action, a.action);
    SELECT v.verdict INTO mine FROM standing_votes(p_tenant_id, p_approval_id, a.revision) v WHERE v.kind = p_kind AND v.voter = p_voter;
    edits := p_edits AND p_edited IS DISTINCT FROM a.edited_action;
    status := CASE
        WHEN p_user_id = a.requester_id AND coalesce((gate ->> 'not_requester')::boolean, true) THEN 'requester'
        WHEN p_kind = 'agent' AND (p_name = r.agent_name OR related_runs(p_tenant_id, p_voter_run_id, a.run_id)) THEN 'own_action'
        WHEN NOT (EXISTS (SELECT 1 FROM jsonb_array_elements(gate -> 'needs') AS n (value) WHERE meets_need(n.value, voter))
            OR (escalated AND meets_need(gate #> '{escalate,to}', voter))) THEN CASE WHEN away THEN 'delegated' ELSE 'not_eligible' END
        WHEN stands = 'decided' THEN CASE WHEN a.withdrawn_at IS NULL AND a.verdict = p_verdict
            AND a.edited_action IS NOT DISTINCT FROM CASE WHEN p_edits THEN p_edited END THEN 'same' ELSE 'decided' END
        WHEN stands <> '' THEN stands
        WHEN p_evidence IS NOT NULL AND EXISTS (SELECT 1 FROM approval_votes v WHERE v.tenant_id = p_tenant_id
            AND v.approval_id = p_approval_id AND v.evidence = p_evidence) THEN CASE mine WHEN p_verdict THEN 'same' ELSE 'replayed' END
        WHEN p_edits AND NOT edits AND mine = p_verdict THEN 'same'
        WHEN (p_seen IS NULL AND a.revision > 0) OR p_seen <> a.binding THEN 'changed'
        WHEN mine = p_verdict AND NOT edits THEN 'same'
        WHEN mine = 'denied' THEN 'voted'
        ELSE 'cast' END;
    IF status <> 'cast' THEN RETURN; END IF;
    IF edits THEN
        UPDATE approvals x SET edited_action = p_edited, binding = p_binding, revision = x.revision + 1
        WHERE x.tenant_id = p_tenant_id AND x.approval_id = p_approval_id RETURNING x.* INTO a;
        revision := a.revision; binding := a.binding; action := coalesce(a.edited_action, a.action);
    END IF;
    INSERT INTO approval_votes (tenant_id, approval_id, number, revision, kind, voter, name, user_id, run_id, roles, verdict, via, reason, evidence)
    SELECT p_tenant_id, p_approval_id, coalesce(max(v.number), 0) + 1, a.revision, p_kind, p_voter, p_name, p_user_id, p_voter_run_id, cast_vote.roles,
        p_verdict, p_via, p_reason, p_evidence
    FROM approval_votes v WHERE v.tenant_id = p_tenant_id AND v.approval_id = p_approval_id;
    closes := p_verdict = 'denied' OR consents_meet(p_tenant_id, p_approval_id, a.revision, gate, escalated);
    IF closes THEN
        PERFORM close_approval(a, p_verdict, CASE p_kind WHEN 'user' THEN p_user_id END, p_name, p_reason, p_signalled, false);
        state := p_verdict;
    END IF;
    seq := tell_approval(p_tenant_id, a.run_id,
        CASE WHEN closes THEN 'approval.decided' WHEN edits THEN 'approval.edited' ELSE 'approval.voted' END,
        jsonb_build_object('approval_id', a.approval_id, 'step', a.step, 'verdict', p_verdict, 'by', p_name, 'kind', p_kind,
            'edited', a.edited_action IS NOT NULL, 'revision', a.revision, 'comment', p_reason));
END $$;

CREATE FUNCTION vote_on_approval(p_tenant_id uuid, p_approval_id uuid, p_seen bytea, p_kind text, p_voter text, p_name text, p_user_id uuid,
    p_roles text[], p_via text, p_verdict text, p_reason text, p_evidence bytea, p_edits boolean, p_edited bytea, p_binding bytea,
    p_signalled boolean)
RETURNS TABLE (status text, run_id uuid, state text, seq bigint, revision integer, step integer, rule text, action bytea, binding bytea, roles text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF p_tenant_id IS DISTINCT FROM current_tenant() OR p_kind NOT IN ('user', 'signer') THEN
        RAISE EXCEPTION 'this transaction belongs to another tenant' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN QUERY SELECT c.status, c.run_id, c.state, c.seq, c.revision, c.step, c.rule, c.action, c.binding, c.roles
    FROM cast_vote(p_tenant_id, p_approval_id, p_seen, p_kind, p_voter, p_name, p_user_id, p_roles, NULL, p_via, p_verdict, p_reason,
        p_evidence, p_edits, p_edited, p_binding, p_signalled) c;
END $$;

-- Takes a user's own vote back before the approval is decided, or else the delegation, as long as it was not used.
CREATE FUNCTION withdraw_vote(p_tenant_id uuid, p_approval_id uuid, p_user_id uuid, p_name text, p_reason text)
RETURNS TABLE (status text, run_id uuid, seq bigint) LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE l record; stands text; a approvals; vote record; handed approval_delegations; next integer;
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant_id]);
    SELECT * INTO l FROM lock_approval(p_tenant_id, p_approval_id);
    stands := l.stands; a := l.a;
    IF stands <> '' THEN RETURN QUERY SELECT stands, a.run_id, 0::bigint; RETURN; END IF;
    SELECT v.* INTO vote FROM standing_votes(p_tenant_id, p_approval_id, a.revision) v WHERE v.kind = 'user' AND v.voter = p_user_id::text;
    IF FOUND THEN
        SELECT max(v.number) + 1 INTO next FROM approval_votes v WHERE v.tenant_id = p_tenant_id AND v.approval_id = p_approval_id;
        INSERT INTO approval_votes (tenant_id, approval_id, number, revision, kind, voter, name, user_id, roles, verdict, via, reason)
        VALUES (p_tenant_id, p_approval_id, next, a.revision, 'user', p_user_id::text, p_name, p_user_id, vote.roles, 'withdrawn', 'api', p_reason);
        RETURN QUERY SELECT 'vote', a.run_id, tell_approval(p_tenant_id, a.run_id, 'approval.vote_withdrawn', jsonb_build_object(
            'approval_id', a.approval_id, 'step', a.step, 'by', p_name, 'revision', a.revision, 'comment', p_reason));
        RETURN;
    END IF;
    SELECT d.* INTO handed FROM standing_delegations(p_tenant_id, p_approval_id) d WHERE d.from_user_id = p_user_id;
    IF NOT FOUND THEN RETURN QUERY SELECT 'nothing', a.run_id, 0::bigint; RETURN; END IF;
    IF EXISTS (SELECT 1 FROM standing_votes(p_tenant_id, p_approval_id, a.revision) v
        WHERE v.kind = 'user' AND v.voter = handed.to_user_id::text) THEN
        RETURN QUERY SELECT 'used', a.run_id, 0::bigint; RETURN;
    END IF;
    INSERT INTO approval_delegations (tenant_id, approval_id, number, from_user_id, from_name, to_user_id, to_name, roles, reason)
    SELECT p_tenant_id, p_approval_id, max(d.number) + 1, p_user_id, p_name, NULL, handed.to_name, '{}', p_reason
    FROM approval_delegations d WHERE d.tenant_id = p_tenant_id AND d.approval_id = p_approval_id;
    RETURN QUERY SELECT 'delegation', a.run_id, tell_approval(p_tenant_id, a.run_id, 'approval.delegated', jsonb_build_object(
        'approval_id', a.approval_id, 'step', a.step, 'by', p_name, 'to', NULL, 'comment', p_reason));
END $$;

-- The requester no longer asks: the approval is denied, and the run goes on without it.
CREATE FUNCTION withdraw_approval(p_tenant_id uuid, p_approval_id uuid, p_user_id uuid, p_name text, p_reason text)
RETURNS TABLE (status text, run_id uuid, seq bigint) LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE l record; stands text; a approvals;
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant_id]);
    SELECT * INTO l FROM lock_approval(p_tenant_id, p_approval_id);
    stands := l.stands; a := l.a;
    IF stands = 'decided' AND a.withdrawn_at IS NOT NULL AND a.requester_id = p_user_id THEN stands := 'same'; END IF;
    IF stands IN ('', 'same') AND a.requester_id IS DISTINCT FROM p_user_id THEN stands := 'not_requester'; END IF;
    IF stands <> '' THEN RETURN QUERY SELECT stands, a.run_id, 0::bigint; RETURN; END IF;
    PERFORM close_approval(a, 'denied', p_user_id, p_name, p_reason, false, true);
    RETURN QUERY SELECT 'request', a.run_id, tell_approval(p_tenant_id, a.run_id, 'approval.decided', jsonb_build_object(
        'approval_id', a.approval_id, 'step', a.step, 'verdict', 'withdrawn', 'by', p_name, 'kind', 'user',
        'edited', a.edited_action IS NOT NULL, 'revision', a.revision, 'comment', p_reason));
END $$;

-- Another votes in the place of one who may. What was handed to somebody is not handed on.
CREATE FUNCTION delegate_approval(p_tenant_id uuid, p_approval_id uuid, p_user_id uuid, p_name text, p_roles text[], p_to_user_id uuid,
    p_to_name text, p_reason text)
RETURNS TABLE (status text, run_id uuid, seq bigint) LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE l record; stands text; a approvals; gate jsonb; named text[]; standing uuid;
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant_id]);
    SELECT * INTO l FROM lock_approval(p_tenant_id, p_approval_id);
    stands := l.stands; a := l.a;
    gate := gate_of(a.approver_role);
    named := ARRAY(SELECT x FROM unnest(p_roles) AS x WHERE EXISTS (
        SELECT 1 FROM jsonb_array_elements((gate -> 'needs') || coalesce(gate #> '{escalate,to}', '[]')) AS n (value)
        WHERE n.value ->> 'kind' = 'role' AND n.value ->> 'name' = x) ORDER BY x);
    SELECT d.to_user_id INTO standing FROM standing_delegations(p_tenant_id, p_approval_id) d WHERE d.from_user_id = p_user_id;
    stands := CASE
        WHEN stands = 'unknown' THEN stands
        WHEN p_user_id = a.requester_id AND coalesce((gate ->> 'not_requester')::boolean, true) THEN 'requester'
        WHEN named = '{}' THEN 'not_eligible'
        WHEN stands <> '' THEN stands
        WHEN p_to_user_id = a.requester_id THEN 'to_requester'
        WHEN p_to_user_id = p_user_id THEN 'to_self'
        WHEN standing = p_to_user_id THEN 'same'
        WHEN standing IS NOT NULL THEN 'delegated'
        WHEN EXISTS (SELECT 1 FROM standing_votes(p_tenant_id, p_approval_id, a.revision) v WHERE v.kind = 'user' AND v.voter = p_user_id::text)
            THEN 'voted'
        ELSE '' END;
    IF stands <> '' THEN RETURN QUERY SELECT stands, a.run_id, 0::bigint; RETURN; END IF;
    INSERT INTO approval_delegations (tenant_id, approval_id, number, from_user_id, from_name, to_user_id, to_name, roles, reason)
    SELECT p_tenant_id, p_approval_id, coalesce(max(d.number), 0) + 1, p_user_id, p_name, p_to_user_id, p_to_name, named, p_reason
    FROM approval_delegations d WHERE d.tenant_id = p_tenant_id AND d.approval_id = p_approval_id;
    RETURN QUERY SELECT 'delegation', a.run_id, tell_approval(p_tenant_id, a.run_id, 'approval.delegated', jsonb_build_object(
        'approval_id', a.approval_id, 'step', a.step, 'by', p_name, 'to', p_to_name, 'comment', p_reason));
END $$;

-- What nobody has answered in time, for the sweepers: no timer is kept, the rows say when.
CREATE FUNCTION due_escalations(p_limit integer) RETURNS TABLE (tenant_id uuid, run_id uuid, approval_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT a.tenant_id, a.run_id, a.approval_id FROM approvals a JOIN runs r ON r.tenant_id = a.tenant_id AND r.run_id = a.run_id
    WHERE a.verdict IS NULL AND a.escalated_at IS NULL AND a.approver_role LIKE '{%' AND a.expires_at > now() AND r.ended_at IS NULL
      AND escalates_at(a.created_at, gate_of(a.approver_role)) <= now()
    ORDER BY a.approval_id LIMIT p_limit
$$;

-- Says, once, that a gate turned to somebody else; those who have consented already may be enough from now on.
CREATE FUNCTION escalate_approval(p_tenant_id uuid, p_approval_id uuid) RETURNS TABLE (status text, run_id uuid, seq bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE l record; stands text; a approvals; gate jsonb; told bigint;
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant_id]);
    SELECT * INTO l FROM lock_approval(p_tenant_id, p_approval_id);
    stands := l.stands; a := l.a;
    gate := gate_of(a.approver_role);
    IF stands <> '' OR a.escalated_at IS NOT NULL OR coalesce(escalates_at(a.created_at, gate) > clock_timestamp(), true) THEN
        RETURN QUERY SELECT 'not_due', a.run_id, 0::bigint; RETURN;
    END IF;
    UPDATE approvals x SET escalated_at = clock_timestamp() WHERE x.tenant_id = p_tenant_id AND x.approval_id = p_approval_id;
    told := tell_approval(p_tenant_id, a.run_id, 'approval.escalated', jsonb_build_object(
        'approval_id', a.approval_id, 'step', a.step, 'to', gate #> '{escalate,to}', 'expires_at', a.expires_at));
    IF consents_meet(p_tenant_id, p_approval_id, a.revision, gate, true) THEN
        PERFORM close_approval(a, 'approved', NULL, 'escalation', '', false, false);
        told := tell_approval(p_tenant_id, a.run_id, 'approval.decided', jsonb_build_object(
            'approval_id', a.approval_id, 'step', a.step, 'verdict', 'approved', 'by', 'escalation', 'kind', 'escalation',
            'edited', a.edited_action IS NOT NULL, 'revision', a.revision, 'comment', ''));
        RETURN QUERY SELECT 'approved', a.run_id, told; RETURN;
    END IF;
    RETURN QUERY SELECT 'escalated', a.run_id, told;
END $$;

-- An agent reads and votes as an action of its own run: the executor has nothing but the lease, and what counts is what was decided.
CREATE FUNCTION vote_by_hold(p_hold_id uuid, p_lease_token bytea)
RETURNS TABLE (status text, state text, revision integer) LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE h record; args jsonb; c record; part_a bytea; part_b bytea; decision uuid := new_id(); code text;
BEGIN
    SELECT o.tenant_id, o.run_id, o.action, o.decision_id, o.tool, r.agent_name, r.user_id INTO h FROM holds o
    JOIN runs r ON r.tenant_id = o.tenant_id AND r.run_id = o.run_id
    WHERE o.hold_id = p_hold_id AND o.state = 'executing' AND o.outward_at IS NOT NULL AND o.tool = 'approval.vote'
      AND o.lease_hash = sha256(p_lease_token) AND o.lease_expires_at > clock_timestamp();
    IF NOT FOUND THEN RETURN QUERY SELECT 'lease_lost', '', 0; RETURN; END IF;
    args := convert_from(h.action, 'UTF8')::jsonb -> 'args';
    SELECT * INTO c FROM cast_vote(h.tenant_id, (args ->> 'approval_id')::uuid, decode(args ->> 'binding', 'hex'), 'agent', h.agent_name,
        h.agent_name, h.user_id, '{}', h.run_id, 'run', args ->> 'verdict', args ->> 'reason', NULL, false, NULL, NULL, false);
    IF c.status = 'cast' THEN
        code := CASE c.state WHEN 'pending' THEN 'approval.voted' ELSE 'approval.' || (args ->> 'verdict') END;
        -- canonical bytes: keys in order, no spaces; the reason stands in the action that the cited decision allowed
        part_a := convert_to('{"facts":{"action_digest":"' || encode(sha256(c.action), 'hex') || '","agent":' || to_json(h.agent_name)
            || ',"binding":"' || encode(c.binding, 'hex') || '","decision_id":"' || h.decision_id || '","run_id":"' || h.run_id || '","state":"'
            || c.state || '","verdict":"' || (args ->> 'verdict') || '"},"kind":"approval","v":1}', 'UTF8');
        part_b := convert_to('{"decision_id":"' || decision || '","hold_id":null,"legs":[],"reason_codes":["' || code || '"],"time_ms":' || floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint || ',"v":' || '1,"verdict":"'
            || CASE args ->> 'verdict' WHEN 'approved' THEN 'allow' ELSE 'deny' END || '"}', 'UTF8');
        INSERT INTO decisions (tenant_id, decision_id, run_id, kind, verdict, reason_codes, approval_id, reply, part_a, part_b, record_hash)
        VALUES (h.tenant_id, decision, c.run_id, 'approval', CASE args ->> 'verdict' WHEN 'approved' THEN 'allow' ELSE 'deny' END,
            ARRAY[code], (args ->> 'approval_id')::uuid, jsonb_build_object('code', code,
            'message', 'the agent ' || h.agent_name || ' has ' || (args ->> 'verdict') || ' step ' || c.step, 'rule_id', '', 'retryable', false,
            'approval_expires_at', NULL), part_a, part_b, sha256('\x00'::bytea || sha256(part_a) || sha256(part_b)));
    END IF;
    RETURN QUERY SELECT c.status, c.state, c.revision;
END $$;

-- Shown only to an agent that the gate names: others have no business with it.
CREATE FUNCTION read_approval_by_hold(p_hold_id uuid, p_lease_token bytea) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT jsonb_build_object('approval_id', a.approval_id, 'state', coalesce(a.verdict, CASE WHEN a.expires_at <= clock_timestamp()
            OR w.ended_at IS NOT NULL THEN 'expired' ELSE 'pending' END), 'binding', encode(a.binding, 'hex'),
        'action', convert_from(coalesce(a.edited_action, a.action), 'UTF8')::jsonb, 'rule', a.rule, 'agent', w.agent_name, 'role', w.role_name,
        'max_cost_nano_usd', a.max_cost_nano_usd, 'revision', a.revision, 'needs', gate_of(a.approver_role) -> 'needs',
        'expires_at', to_char(a.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
    FROM holds o JOIN runs r ON r.tenant_id = o.tenant_id AND r.run_id = o.run_id
    JOIN approvals a ON a.tenant_id = o.tenant_id AND a.approval_id = (convert_from(o.action, 'UTF8')::jsonb #>> '{args,approval_id}')::uuid
    JOIN runs w ON w.tenant_id = a.tenant_id AND w.run_id = a.run_id
    WHERE o.hold_id = p_hold_id AND o.state = 'executing' AND o.outward_at IS NOT NULL AND o.tool = 'approval.read'
      AND o.lease_hash = sha256(p_lease_token) AND o.lease_expires_at > clock_timestamp()
      AND EXISTS (SELECT 1 FROM jsonb_array_elements((gate_of(a.approver_role) -> 'needs')
            || coalesce(gate_of(a.approver_role) #> '{escalate,to}', '[]')) AS n (value)
          WHERE n.value ->> 'kind' = 'agent' AND n.value ->> 'name' = r.agent_name)
$$;

-- Across tenants, by an id or a secret that names exactly one row: whoever follows a link or signs has no key.
CREATE FUNCTION locate_approval(p_approval_id uuid) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS
$$ SELECT tenant_id FROM approvals WHERE approval_id = p_approval_id $$;
CREATE FUNCTION locate_link(p_link_hash bytea) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS
$$ SELECT tenant_id FROM approval_links WHERE link_hash = p_link_hash $$;

-- An approval is bound to one step and used up by the try that executes, and so is every other that was given for the same step. A try
-- that came to nothing, or whose idempotent action is repeated because its outcome was lost, leaves it for the next try of the same step.
CREATE OR REPLACE FUNCTION take_approval(p_tenant_id uuid, p_run_id uuid, p_step integer, p_approval_id uuid, p_decision_id uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE given record; found_it boolean := false; used uuid; use record;
BEGIN
    FOR given IN SELECT a.approval_id, a.verdict, a.consumed_by FROM approvals a
        WHERE a.tenant_id = p_tenant_id AND a.run_id = p_run_id AND a.step = p_step ORDER BY a.approval_id FOR NO KEY UPDATE LOOP
        CONTINUE WHEN given.approval_id <> p_approval_id;
        -- INVARIANT: what was not approved releases nothing, whatever the evaluator was told
        IF given.verdict IS DISTINCT FROM 'approved' THEN RETURN false; END IF;
        found_it := true; used := given.consumed_by;
        IF given.consumed_by IS NOT NULL THEN
            SELECT h.state, h.idempotent INTO use FROM decisions d JOIN holds h ON h.hold_id = d.hold_id AND h.tenant_id IS NOT DISTINCT FROM d.tenant_id
            WHERE d.tenant_id = p_tenant_id AND d.decision_id = given.consumed_by;
            IF NOT FOUND OR NOT (use.state IN ('voided', 'expired') OR (use.state = 'unknown' AND use.idempotent)) THEN
                RETURN false;
            END IF;
        END IF;
    END LOOP;
    IF NOT found_it THEN RETURN false; END IF;
    UPDATE approvals SET consumed_by = p_decision_id
    WHERE tenant_id = p_tenant_id AND run_id = p_run_id AND step = p_step AND verdict = 'approved' AND consumed_by IS NOT DISTINCT FROM used;
    RETURN true;
END $$;

REVOKE ALL ON FUNCTION gate_of, meets_need, gate_met, standing_votes, consents_meet, refuse_unmet, refuse_redeciding, escalates_at, tell_approval,
    lock_approval, related_runs, standing_delegations, close_approval, cast_vote, vote_on_approval, withdraw_vote, withdraw_approval,
    delegate_approval, due_escalations, escalate_approval, vote_by_hold, read_approval_by_hold, locate_approval, locate_link FROM PUBLIC;
GRANT EXECUTE ON FUNCTION gate_of, meets_need, gate_met, standing_votes, consents_meet, escalates_at, tell_approval, lock_approval, related_runs,
    standing_delegations, close_approval, cast_vote TO holdfast_definer;
GRANT EXECUTE ON FUNCTION gate_of, escalates_at, standing_delegations TO holdfast_api, holdfast_governor, holdfast_sweeper;
GRANT EXECUTE ON FUNCTION vote_on_approval TO holdfast_api, holdfast_governor;
GRANT EXECUTE ON FUNCTION withdraw_vote, withdraw_approval, delegate_approval, locate_approval, locate_link TO holdfast_api;
GRANT EXECUTE ON FUNCTION due_escalations, escalate_approval TO holdfast_sweeper;
GRANT EXECUTE ON FUNCTION vote_by_hold, read_approval_by_hold TO holdfast_executor;
GRANT CREATE ON SCHEMA public TO holdfast_definer;
ALTER FUNCTION refuse_unmet OWNER TO holdfast_definer;
ALTER FUNCTION vote_on_approval OWNER TO holdfast_definer;
ALTER FUNCTION withdraw_vote OWNER TO holdfast_definer;
ALTER FUNCTION withdraw_approval OWNER TO holdfast_definer;
ALTER FUNCTION delegate_approval OWNER TO holdfast_definer;
ALTER FUNCTION due_escalations OWNER TO holdfast_definer;
ALTER FUNCTION escalate_approval OWNER TO holdfast_definer;
ALTER FUNCTION vote_by_hold OWNER TO holdfast_definer;
ALTER FUNCTION read_approval_by_hold OWNER TO holdfast_definer;
ALTER FUNCTION locate_approval OWNER TO holdfast_definer;
ALTER FUNCTION locate_link OWNER TO holdfast_definer;
REVOKE CREATE ON SCHEMA public FROM holdfast_definer;
