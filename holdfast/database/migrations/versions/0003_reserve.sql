-- Deciding on actions and taking holds. What every function here keeps to stands at the head of 0003_caps.sql.

CREATE TYPE reserve_member AS (
    tenant_id uuid, run_id uuid, step integer, try integer, decision_id uuid, hold_id uuid, kind text, tool text, idempotent boolean,
    digest bytea, action bytea, part_a bytea, part_a_hash bytea, verdict text, code text, history_version bigint, role_version integer,
    amounts bigint[], scopes integer[], funded boolean, estimate text, lease_ms bigint, hold_ms bigint,
    consumes uuid, approval_id uuid, binding bytea, approval_rule text, approver_role text, requester_id uuid,
    approval_expires_at timestamptz, reply text, events ledger_event[], named_caps uuid[]
);

-- status: decided; again = this key was decided before, with the same arguments; changed = what the evaluator read is no longer so;
-- no_run; alone = ask again, alone, and have `named_caps` locked as well
CREATE TYPE reserve_answer AS (
    ord integer, status text, verdict text, code text, message text, retryable boolean, hold_id uuid, expires_at timestamptz,
    record_hash bytea, superseded uuid, seq bigint, named_caps uuid[], standing text
);

-- Amounts of a member stand in the order of `p_units`, null where it does not use a unit; its scopes are places in `p_scopes`.
CREATE FUNCTION ledger_reserve(p_members reserve_member[], p_scopes ledger_scope[], p_units text[]) RETURNS SETOF reserve_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    m reserve_member; n integer := 0; now_at timestamptz; at_ms bigint; r integer; s integer; i integer; stop text;
    old_decision uuid; old_hold uuid; old_state text; old_digest text; old_caps uuid[]; old_held bigint[];
    -- of all members, so that not every look at one of them takes all of it
    m_tenant uuid[]; m_run uuid[]; m_step integer[]; m_try integer[]; names boolean; money integer;
    -- caps, as lock_caps returns them
    c_id uuid[]; c_tenant uuid[]; c_unit integer[]; c_kind text[]; c_limit bigint[]; c_unlimited boolean[]; c_ceiling bigint[];
    c_reserved bigint[]; c_committed bigint[]; c_debt bigint[]; c_window text[]; c_head text[]; c_tail text[];
    s_first integer[]; s_last integer[]; c_room bigint[];
    c_carried_reserved bigint[]; c_carried_committed bigint[]; c_carried_debt bigint[]; c_carrier integer[]; k integer;
    -- runs
    r_id uuid[]; r_tenant uuid[]; r_ended boolean[]; r_history bigint[]; r_seq bigint[]; r_role_version integer[]; r_agent text[]; r_role text[];
    r_status text[]; r_decided integer[]; r_events integer[];
    standing jsonb; any_standing boolean; held_ids uuid[]; stopped uuid[];
    -- answers; what is not there is as it usually is
    o_status text[]; o_verdict text[]; o_code text[]; o_message text[]; o_retryable boolean[]; o_expires timestamptz[]; o_part_b bytea[];
    o_hash bytea[]; o_superseded uuid[]; o_seq bigint[]; o_named uuid[] := '{}'; o_standing text[]; o_counts boolean[]; o_events integer[];
    o_alarm boolean[]; o_legs ledger_legs[];
    -- legs of the member that is being decided: the places of their caps and the amounts; and what follows from the places, kept as long
    -- as the next member has the same
    l_place integer[]; l_amount bigint[]; legs integer; k_place integer[]; l_cap uuid[]; l_limit bigint[]; l_unlimited boolean[]; none bigint[];
    tenant_pays boolean; run_pays boolean;
    verdict text; code text; message text; retryable boolean; alarm boolean;
    legs_text text; short integer; amount bigint; free bigint;
    part_b bytea; events integer; asks boolean := false;
BEGIN
    SELECT array_agg(t.tenant_id), array_agg(t.run_id), array_agg(t.step), array_agg(t.try), bool_or(cardinality(t.named_caps) > 0)
    INTO m_tenant, m_run, m_step, m_try, names FROM unnest(p_members) AS t;
    IF current_tenant() IS NOT NULL THEN
        PERFORM require_tenants(m_tenant);
    END IF;
    SELECT l.cap_ids, l.tenant_ids, l.unit_places, l.kinds, l.limits, l.unlimited, l.ceilings, l.reserved, l.committed, l.debts, l.windows,
        l.heads, l.tails, l.first, l.last, l.carried_reserved, l.carried_committed, l.carried_debts, l.carriers
    INTO c_id, c_tenant, c_unit, c_kind, c_limit, c_unlimited, c_ceiling, c_reserved, c_committed, c_debt, c_window, c_head, c_tail, s_first, s_last,
        c_carried_reserved, c_carried_committed, c_carried_debt, c_carrier
    FROM lock_caps(p_scopes, p_units,
        CASE WHEN names THEN ARRAY(SELECT x FROM unnest(p_members) AS t, unnest(t.named_caps) AS x) ELSE '{}' END,
        CASE WHEN names THEN ARRAY(SELECT t.tenant_id FROM unnest(p_members) AS t, unnest(t.named_caps) AS x) ELSE '{}' END) AS l;
    FOR i IN 1 .. coalesce(cardinality(c_id), 0) LOOP
        -- what holds may take of it; nothing in here changes that but what returns to an older bucket of a rolling window
        c_room[i] := c_limit[i] - c_committed[i] - c_debt[i] - c_carried_reserved[i] - c_carried_committed[i] - c_carried_debt[i];
    END LOOP;
    money := array_position(p_units, 'nano_usd');

    SELECT array_agg(l.run_id), array_agg(l.tenant_id), array_agg(l.ended_at IS NOT NULL), array_agg(l.history_version),
        array_agg(l.timeline_seq), array_agg(l.role_version), array_agg(l.agent_name), array_agg(l.role_name)
    INTO r_id, r_tenant, r_ended, r_history, r_seq, r_role_version, r_agent, r_role
    FROM (SELECT r.* FROM (SELECT DISTINCT t.tenant_id, t.run_id FROM unnest(m_tenant, m_run) AS t (tenant_id, run_id)) w
          JOIN runs r ON r.run_id = w.run_id AND r.tenant_id IS NOT DISTINCT FROM w.tenant_id ORDER BY r.run_id FOR NO KEY UPDATE OF r) l;
    r_status := array_fill(NULL::text, ARRAY[coalesce(cardinality(r_id), 0)]);
    r_decided := array_fill(0, ARRAY[coalesce(cardinality(r_id), 0)]);
    r_events := array_fill(0, ARRAY[coalesce(cardinality(r_id), 0)]);

    -- what stands for the keys; the run's lock keeps others from putting something there, but not executors from moving a hold
    SELECT count(*) > 0, array_agg(d.hold_id) FILTER (WHERE d.hold_id IS NOT NULL) INTO any_standing, held_ids
    FROM unnest(m_tenant, m_run, m_step, m_try) AS t (tenant_id, run_id, step, try), LATERAL (
        SELECT k.hold_id FROM decisions k WHERE k.run_id = t.run_id AND k.step = t.step AND k.try = t.try
            AND k.tenant_id IS NOT DISTINCT FROM t.tenant_id AND k.superseded_at IS NULL AND k.step IS NOT NULL OFFSET 0) d;
    IF any_standing THEN
        PERFORM 1 FROM (SELECT h.hold_id FROM unnest(held_ids) AS w (hold_id) JOIN holds h ON h.hold_id = w.hold_id
            ORDER BY h.hold_id FOR NO KEY UPDATE OF h) l;
        SELECT jsonb_object_agg(t.ordinality, jsonb_build_object('decision_id', d.decision_id, 'verdict', d.verdict,
            'digest', encode(d.digest, 'hex'), 'reply', d.reply, 'record_hash', encode(d.record_hash, 'hex'), 'approval_id', d.approval_id,
            'hold_id', h.hold_id, 'state', h.state, 'expires_at', h.expires_at, 'max_cost_nano_usd', h.max_cost_nano_usd,
            'lease_ms', h.lease_ms, 'cap_ids', h.leg_cap_ids, 'amounts', h.leg_amounts)) INTO standing
        FROM unnest(p_members) WITH ORDINALITY AS t, LATERAL (
            SELECT k.* FROM decisions k WHERE k.run_id = t.run_id AND k.step = t.step AND k.try = t.try
                AND k.tenant_id IS NOT DISTINCT FROM t.tenant_id AND k.superseded_at IS NULL AND k.step IS NOT NULL OFFSET 0) d
        LEFT JOIN holds h ON h.hold_id = d.hold_id AND h.tenant_id IS NOT DISTINCT FROM d.tenant_id;
    END IF;

    stopped := ARRAY(SELECT DISTINCT s.tenant_id FROM stops s
        WHERE s.lifted_at IS NULL AND s.tenant_id = ANY (m_tenant));
    o_status := array_fill('decided'::text, ARRAY[coalesce(cardinality(p_members), 0)]);
    now_at := clock_timestamp();
    at_ms := floor(extract(epoch FROM now_at) * 1000)::bigint;

    FOREACH m IN ARRAY p_members LOOP
        n := n + 1;
        o_expires[n] := now_at + m.hold_ms * interval '1 millisecond';
        r := coalesce(width_bucket(m.run_id, r_id), 0);
        -- INVARIANT (LAW 5): another member of this batch may have brought the run of another tenant in
        IF r = 0 OR r_id[r] <> m.run_id OR r_tenant[r] <> m.tenant_id THEN
            o_status[n] := 'no_run';
            CONTINUE;
        END IF;
        old_decision := NULL; old_hold := NULL; old_state := NULL;
        IF standing IS NOT NULL AND standing ? n::text THEN
            SELECT x.decision_id, x.digest, x.hold_id, x.state, ARRAY(SELECT jsonb_array_elements_text(x.cap_ids)::uuid),
                ARRAY(SELECT jsonb_array_elements_text(x.amounts)::bigint)
            INTO old_decision, old_digest, old_hold, old_state, old_caps, old_held
            FROM jsonb_to_record(standing -> n::text)
                AS x (decision_id uuid, digest text, hold_id uuid, state text, cap_ids jsonb, amounts jsonb);
            IF old_digest = encode(m.digest, 'hex') THEN
                o_status[n] := 'again'; o_seq[n] := r_seq[r];
                o_standing[n] := standing ->> n::text;
                CONTINUE;
            END IF;
        END IF;
        IF r_history[r] <> m.history_version OR r_role_version[r] <> m.role_version THEN
            o_status[n] := 'changed'; o_seq[n] := r_seq[r];
            CONTINUE;
        END IF;

        verdict := m.verdict; code := m.code; message := NULL; retryable := false; alarm := false;
        legs_text := ''; legs := 0; l_place := '{}'; l_amount := '{}'; short := NULL;
        IF r_ended[r] THEN
            verdict := 'deny'; code := 'run.ended'; message := 'the run has ended'; alarm := true;
        ELSIF old_decision IS NOT NULL AND old_state <> 'held' THEN
            verdict := 'deny'; code := 'hold.key_conflict'; alarm := true;
            message := 'this step was executed before with other arguments (hold ' || old_hold || ')';
        ELSE
            IF old_hold IS NOT NULL THEN
                -- alone, so that the journal has its return right before what is decided with it; its caps have to be locked, too
                IF cardinality(p_members) > 1 OR EXISTS (SELECT 1 FROM unnest(old_caps) AS x WHERE x <> ALL(coalesce(c_id, '{}'))) THEN
                    o_status[n] := 'alone'; o_seq[n] := r_seq[r];
                    o_named := old_caps;
                    CONTINUE;
                END IF;
                FOR j IN 1 .. cardinality(old_caps) LOOP
                    i := array_position(c_id, old_caps[j]);
                    k := coalesce(c_carrier[i], i);
                    c_reserved[i] := c_reserved[i] - old_held[j];
                    IF k <> i THEN
                        c_ceiling[i] := greatest(c_limit[i], least(c_ceiling[i], c_reserved[i] + c_committed[i]));
                        c_carried_reserved[k] := c_carried_reserved[k] - old_held[j];
                        c_room[k] := c_room[k] + old_held[j];
                        c_head[k] := leg_head(c_id[k], 0::smallint, c_carried_reserved[k] + c_carried_committed[k] + c_carried_debt[k],
                            c_committed[k], c_debt[k], c_unlimited[k], c_limit[k]);
                    END IF;
                    c_ceiling[k] := greatest(c_limit[k],
                        least(c_ceiling[k], c_carried_reserved[k] + c_carried_committed[k] + c_reserved[k] + c_committed[k]));
                END LOOP;
            END IF;
            o_superseded[n] := old_decision;
            -- the legs: every cap in force on a scope of the action, in a unit it uses
            FOREACH s IN ARRAY m.scopes LOOP
                CONTINUE WHEN s_last[s] = 0;
                FOR i IN s_first[s] .. s_last[s] LOOP
                    amount := m.amounts[c_unit[i]];
                    CONTINUE WHEN amount IS NULL OR (m.funded AND c_unit[i] = money AND c_kind[i] <> 'run');
                    IF c_room[i] - c_reserved[i] < amount AND short IS NULL AND NOT c_unlimited[i] THEN
                        short := i;
                    END IF;
                    legs_text := legs_text || CASE legs WHEN 0 THEN '{"amount":"' ELSE ',{"amount":"' END || amount || c_head[i] || c_reserved[i]
                        || c_tail[i];
                    legs := legs + 1;
                    l_place[legs] := i; l_amount[legs] := amount;
                END LOOP;
            END LOOP;
            IF k_place IS DISTINCT FROM l_place THEN
                k_place := l_place; l_cap := '{}'; l_limit := '{}'; l_unlimited := '{}'; tenant_pays := false; run_pays := false;
                FOREACH i IN ARRAY k_place LOOP
                    l_cap := l_cap || c_id[i]; l_limit := l_limit || c_limit[i]; l_unlimited := l_unlimited || c_unlimited[i];
                    tenant_pays := tenant_pays OR (c_unit[i] = money AND c_kind[i] = 'tenant');
                    run_pays := run_pays OR (c_unit[i] = money AND c_kind[i] = 'run');
                END LOOP;
                none := array_fill(0::bigint, ARRAY[legs]);
            END IF;
            IF verdict = 'allow' THEN
                stop := CASE WHEN m.tenant_id = ANY (stopped) THEN active_stop(m.tenant_id, r_agent[r], r_role[r], m.tool) END;
                IF stop IS NOT NULL THEN
                    verdict := 'deny'; code := 'stop.active'; message := 'an emergency stop is on: ' || stop;
                -- LAW 7: nothing is unlimited by omission
                ELSIF m.amounts[money] > 0 AND NOT (CASE WHEN m.funded THEN run_pays ELSE tenant_pays END) THEN
                    verdict := 'deny'; code := 'budget.no_cap'; message := 'the tenant has no money cap, so it cannot spend: set one first';
                -- LAW 3
                ELSIF short IS NOT NULL THEN
                    amount := m.amounts[c_unit[short]];
                    free := c_room[short] - c_reserved[short];
                    verdict := 'deny'; code := 'budget.cap_exceeded';
                    retryable := c_room[short] + c_carried_reserved[short] >= amount;
                    message := 'the cap on ' || c_kind[short] || CASE WHEN c_window[short] = 'total' THEN '' ELSE ' per ' || c_window[short] END
                        || ' has ' || amount_text(p_units[c_unit[short]], greatest(free, 0)) || ' left of '
                        || amount_text(p_units[c_unit[short]], c_limit[short]) || ', and this may take '
                        || amount_text(p_units[c_unit[short]], amount);
                ELSIF m.consumes IS NOT NULL AND NOT take_approval(m.tenant_id, m.run_id, m.step, m.consumes, m.decision_id) THEN
                    verdict := 'deny'; code := 'approval.consumed'; message := 'the approval was used already';
                END IF;
            END IF;
            o_counts[n] := true;
        END IF;
        IF verdict = 'allow' THEN
            FOR leg IN 1 .. legs LOOP
                c_reserved[l_place[leg]] := c_reserved[l_place[leg]] + l_amount[leg];
            END LOOP;
            o_legs[n] := ROW(l_cap, l_amount, none, none, l_limit, l_unlimited)::ledger_legs;
        END IF;
        -- canonical bytes: keys in order, no spaces; see holdfast_verdict.record.part_b
        part_b := convert_to('{"decision_id":"' || m.decision_id || '","hold_id":' || CASE verdict WHEN 'allow' THEN '"' || m.hold_id || '"' ELSE 'null' END
            || ',"legs":[' || legs_text || '],"reason_codes":[' || to_json(code) || '],"time_ms":' || at_ms || ',"v":' || '1,"verdict":"'
            || verdict || '"}', 'UTF8');
        events := CASE WHEN message IS NULL THEN cardinality(m.events) ELSE 1 END;
        r_history[r] := r_history[r] + 1;
        r_seq[r] := r_seq[r] + events;
        r_decided[r] := r_decided[r] + 1;
        r_events[r] := r_events[r] + events;
        r_status[r] := CASE verdict WHEN 'needs_approval' THEN 'waiting' ELSE 'running' END;
        asks := asks OR verdict = 'needs_approval';
        o_verdict[n] := verdict; o_code[n] := code; o_part_b[n] := part_b; o_seq[n] := r_seq[r]; o_events[n] := events;
        o_hash[n] := sha256('\x00'::bytea || m.part_a_hash || sha256(part_b));
        IF message IS NOT NULL THEN
            o_message[n] := message; o_retryable[n] := retryable; o_alarm[n] := alarm;
        END IF;
    END LOOP;

    IF array_remove(o_superseded, NULL) <> '{}' THEN
        PERFORM supersede_decisions(p_members, o_superseded);
    END IF;
    UPDATE caps c SET reserved = w.reserved, ceiling = w.ceiling, carried_reserved = w.carried_reserved
    FROM unnest(c_tenant, c_id, c_reserved, c_ceiling, c_carried_reserved) AS w (tenant_id, cap_id, reserved, ceiling, carried_reserved)
    WHERE c.tenant_id = w.tenant_id AND c.cap_id = w.cap_id
        AND (c.reserved <> w.reserved OR c.ceiling <> w.ceiling OR c.carried_reserved <> w.carried_reserved);
    IF asks THEN
        INSERT INTO approvals (tenant_id, approval_id, run_id, step, binding, action, rule, approver_role, max_cost_nano_usd, requester_id, expires_at)
        SELECT t.tenant_id, t.approval_id, t.run_id, t.step, t.binding, t.action, t.approval_rule, t.approver_role,
            coalesce(t.amounts[money], 0), t.requester_id, t.approval_expires_at
        FROM unnest(p_members) WITH ORDINALITY AS t WHERE o_verdict[t.ordinality] = 'needs_approval' AND t.approval_id IS NOT NULL;
    END IF;
    -- one statement, for each has to be made ready, and carries the members from where they came
    WITH mem AS MATERIALIZED (
        SELECT t.*, o_verdict[t.ordinality] AS decided, o_message[t.ordinality] AS message_now, coalesce(o_alarm[t.ordinality], false) AS alarms
        FROM unnest(p_members) WITH ORDINALITY AS t WHERE o_status[t.ordinality] = 'decided'
    ), hold AS (
        INSERT INTO holds (tenant_id, hold_id, run_id, step, try, kind, tool, idempotent, digest, action, decision_id, max_cost_nano_usd,
            estimate, lease_ms, expires_at, leg_cap_ids, leg_amounts)
        SELECT t.tenant_id, t.hold_id, t.run_id, t.step, t.try, t.kind, t.tool, t.idempotent, t.digest, t.action, t.decision_id,
            coalesce(t.amounts[money], 0), t.estimate::jsonb, t.lease_ms, o_expires[t.ordinality],
            (o_legs[t.ordinality]).cap_ids, (o_legs[t.ordinality]).reserved
        FROM mem AS t WHERE t.decided = 'allow'
    ), entry AS (
        INSERT INTO journal (tenant_id, kind, hold_id, run_id, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts,
            unlimited, actor, reason)
        SELECT t.tenant_id, 'reserve', t.hold_id, t.run_id, l.cap_ids, l.reserved, l.committed, l.debts, l.limits, l.unlimited, 'run', t.kind
        FROM mem AS t, LATERAL (SELECT (o_legs[t.ordinality]).* OFFSET 0) AS l
        WHERE t.decided = 'allow' AND cardinality(l.cap_ids) > 0 ORDER BY t.ordinality
    ), decision AS (
        INSERT INTO decisions (tenant_id, decision_id, run_id, step, try, kind, digest, verdict, reason_codes, hold_id, approval_id, reply,
            part_a, part_b, record_hash)
        SELECT t.tenant_id, t.decision_id, t.run_id, CASE WHEN o_counts[t.ordinality] THEN t.step END, CASE WHEN o_counts[t.ordinality] THEN t.try END,
            t.kind, t.digest, t.decided, ARRAY[o_code[t.ordinality]], CASE t.decided WHEN 'allow' THEN t.hold_id END,
            CASE t.decided WHEN 'needs_approval' THEN t.approval_id ELSE t.consumes END,
            CASE WHEN t.message_now IS NULL THEN t.reply::jsonb ELSE jsonb_build_object('code', o_code[t.ordinality], 'message', t.message_now,
                'rule_id', CASE WHEN t.alarms THEN '' ELSE t.reply::jsonb ->> 'rule_id' END, 'retryable', o_retryable[t.ordinality],
                'approval_expires_at', NULL) END,
            t.part_a, o_part_b[t.ordinality], o_hash[t.ordinality]
        FROM mem AS t
    )
    INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
    SELECT t.tenant_id, t.run_id, o_seq[t.ordinality] - o_events[t.ordinality] + e.ord, e.event_id, e.channel,
        CASE WHEN t.alarms THEN 'decision.alarm' ELSE e.type END,
        CASE WHEN t.message_now IS NULL THEN e.data::jsonb ELSE e.data::jsonb || jsonb_build_object('verdict', t.decided,
            'code', o_code[t.ordinality], 'message', t.message_now, 'hold_id', NULL, 'held_nano_usd', 0)
            || CASE WHEN t.alarms THEN '{"rule": ""}'::jsonb ELSE '{}'::jsonb END END
    FROM mem AS t, unnest(t.events) WITH ORDINALITY AS e (event_id, channel, type, data, ord)
    WHERE e.ord <= o_events[t.ordinality];
    UPDATE runs r SET history_version = r.history_version + w.decided, timeline_seq = r.timeline_seq + w.events,
        status = CASE WHEN r.ended_at IS NULL AND r.status IN ('running', 'waiting') THEN w.status ELSE r.status END
    FROM unnest(r_tenant, r_id, r_decided, r_events, r_status) AS w (tenant_id, run_id, decided, events, status)
    WHERE w.decided > 0 AND r.run_id = w.run_id AND r.tenant_id IS NOT DISTINCT FROM w.tenant_id;
    RETURN QUERY SELECT a::integer, o_status[a], o_verdict[a], coalesce(o_code[a], ''), o_message[a], coalesce(o_retryable[a], false),
        CASE WHEN o_verdict[a] = 'allow' THEN (p_members[a]).hold_id END, o_expires[a], o_hash[a],
        CASE WHEN o_superseded[a] IS NOT NULL THEN (standing -> a::text ->> 'hold_id')::uuid END, coalesce(o_seq[a], 0), o_named, o_standing[a]
    FROM generate_series(1, n) AS a;
END $$;

-- An approval is bound to one step and used up by the try that executes. A try that came to nothing, or whose idempotent action is
-- repeated because its outcome was lost, leaves it for the next try of the same step.
CREATE FUNCTION take_approval(p_tenant_id uuid, p_run_id uuid, p_step integer, p_approval_id uuid, p_decision_id uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE used uuid; use record;
BEGIN
    SELECT consumed_by INTO used FROM approvals
    WHERE tenant_id = p_tenant_id AND approval_id = p_approval_id AND run_id = p_run_id AND step = p_step FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN false; END IF;
    IF used IS NOT NULL THEN
        SELECT h.state, h.idempotent INTO use FROM decisions d JOIN holds h ON h.hold_id = d.hold_id AND h.tenant_id IS NOT DISTINCT FROM d.tenant_id
        WHERE d.tenant_id = p_tenant_id AND d.decision_id = used;
        IF NOT FOUND OR NOT (use.state IN ('voided', 'expired') OR (use.state = 'unknown' AND use.idempotent)) THEN
            RETURN false;
        END IF;
    END IF;
    UPDATE approvals SET consumed_by = p_decision_id WHERE tenant_id = p_tenant_id AND approval_id = p_approval_id;
    RETURN true;
END $$;

-- Takes decisions out of their keys' place, with their holds, which are voided, and the approvals they asked for. The caller has
-- locked all of it, and changes the balances.
CREATE FUNCTION supersede_decisions(p_members reserve_member[], p_decision_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH gone AS (
        SELECT t.ordinality AS ord, d.tenant_id, d.hold_id, d.decision_id FROM unnest(p_members) WITH ORDINALITY AS t
        JOIN decisions d ON d.tenant_id = t.tenant_id AND d.decision_id = p_decision_ids[t.ordinality]),
    hold AS (
        UPDATE holds h SET state = 'voided', cost_nano_usd = 0, settled_by = 'run', settled_at = now(), superseded_at = now()
        FROM gone WHERE h.hold_id = gone.hold_id AND h.tenant_id IS NOT DISTINCT FROM gone.tenant_id
        RETURNING h.tenant_id, h.hold_id, h.run_id, h.leg_cap_ids, h.leg_amounts, gone.ord)
    INSERT INTO journal (tenant_id, kind, hold_id, run_id, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts, unlimited,
        cost_nano_usd, tokens, calls, actor, reason)
    SELECT h.tenant_id, 'void', h.hold_id, h.run_id, h.leg_cap_ids, ARRAY(SELECT -x FROM unnest(h.leg_amounts) WITH ORDINALITY AS a (x, o) ORDER BY o),
        array_fill(0::bigint, ARRAY[cardinality(h.leg_cap_ids)]), array_fill(0::bigint, ARRAY[cardinality(h.leg_cap_ids)]),
        ARRAY(SELECT c.limit_amount FROM unnest(h.leg_cap_ids) WITH ORDINALITY AS a (cap_id, o)
              JOIN caps c ON c.tenant_id = h.tenant_id AND c.cap_id = a.cap_id ORDER BY o),
        ARRAY(SELECT c.unlimited FROM unnest(h.leg_cap_ids) WITH ORDINALITY AS a (cap_id, o)
              JOIN caps c ON c.tenant_id = h.tenant_id AND c.cap_id = a.cap_id ORDER BY o),
        0, 0, 0, 'run', 'superseded by other arguments'
    FROM hold h WHERE cardinality(h.leg_cap_ids) > 0 ORDER BY h.ord;
    UPDATE decisions d SET superseded_at = now() FROM unnest(p_members) WITH ORDINALITY AS t
    WHERE d.tenant_id = t.tenant_id AND d.decision_id = p_decision_ids[t.ordinality];
    UPDATE approvals a SET expires_at = now() FROM unnest(p_members) WITH ORDINALITY AS t
    JOIN decisions d ON d.tenant_id = t.tenant_id AND d.decision_id = p_decision_ids[t.ordinality]
    WHERE a.tenant_id = d.tenant_id AND a.approval_id = d.approval_id AND a.verdict IS NULL;
END $$;
