-- The ledger's functions, the only writers of caps, holds and journal. Each takes many members at once and is one statement, so one
-- transaction and one wait for the disk; no lock is ever held while a caller thinks, hangs or is frozen.
--
-- INVARIANT (lock order): caps by id, then runs by id, then holds by id, then approvals. No lock is stronger than FOR NO KEY UPDATE.
-- INVARIANT (LAW 5): they look across tenants, for a batch carries many; so every row is found by tenant and id together, and
-- inside a transaction that is bound to a tenant, no other tenant's member is accepted. Where an id is unique by itself, the tenant is
-- compared by IS NOT DISTINCT FROM: no index has that, so that a planner without statistics does not walk through all of a tenant. LATERAL with OFFSET 0
-- keeps it, in the same way, from walking through a partial index.

CREATE FUNCTION require_tenants(p_tenant_ids uuid[]) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF current_tenant() IS NOT NULL AND EXISTS (SELECT 1 FROM unnest(p_tenant_ids) AS t WHERE t IS DISTINCT FROM current_tenant()) THEN
        RAISE EXCEPTION 'this transaction belongs to another tenant' USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

-- UUIDv7 (RFC 9562), as ids are made elsewhere: 48 bits of milliseconds, version, 12 random bits, variant, 62 random bits
CREATE FUNCTION new_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(set_byte(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        6, (get_byte(uuid_send(gen_random_uuid()), 6) & 15) | 112), 'hex')::uuid
$$;

-- An amount as people read it; `holdfast.money.format_usd` writes money the same way
CREATE FUNCTION amount_text(p_unit text, p_amount bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_unit <> 'nano_usd' THEN p_amount || ' ' || p_unit
        ELSE CASE WHEN p_amount < 0 THEN '-' ELSE '' END || '$' || abs(p_amount) / 1000000000 || '.'
            || rpad(rtrim(lpad((abs(p_amount) % 1000000000)::text, 9, '0'), '0'), 4, '0') END
$$;

-- Windows of caps ----------------------------------------------------------------------------------------------------------

-- Hours are sixty minutes; days and months are as long as the calendar of the zone says, over daylight-saving changes too. Where
-- clocks go back over midnight, that midnight comes twice: the second one ends the day, and what is between them is of the day before.
CREATE FUNCTION window_start(p_kind text, p_at timestamptz, p_zone text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p_kind = 'total' THEN '-infinity' WHEN date_trunc(p_kind, p_at, p_zone) <= p_at THEN date_trunc(p_kind, p_at, p_zone)
        ELSE (date_trunc(p_kind, p_at AT TIME ZONE p_zone) - ('1 ' || p_kind)::interval) AT TIME ZONE p_zone END
$$;

CREATE FUNCTION window_end(p_kind text, p_at timestamptz, p_zone text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p_kind = 'total' THEN 'infinity' WHEN p_kind = 'hour' THEN date_trunc('hour', p_at, p_zone) + interval '1 hour'
        WHEN date_trunc(p_kind, p_at, p_zone) > p_at THEN date_trunc(p_kind, p_at, p_zone)
        ELSE (date_trunc(p_kind, p_at AT TIME ZONE p_zone) + ('1 ' || p_kind)::interval) AT TIME ZONE p_zone END
$$;

-- The next window of a cap whose newest has ended: the same limit, nothing used. The caller has locked that newest.
CREATE FUNCTION roll_window(p_tenant_id uuid, p_cap_id uuid, p_at timestamptz) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE made uuid := new_id(); zone text; old caps%ROWTYPE;
BEGIN
    UPDATE caps SET newest = false WHERE tenant_id = p_tenant_id AND cap_id = p_cap_id AND newest RETURNING * INTO STRICT old;
    SELECT time_zone INTO STRICT zone FROM tenants WHERE tenant_id = p_tenant_id;
    INSERT INTO caps (tenant_id, cap_id, scope_kind, scope_id, unit, window_kind, starts_at, ends_at, unlimited, limit_amount, ceiling, thresholds)
    VALUES (p_tenant_id, made, old.scope_kind, old.scope_id, old.unit, old.window_kind,
        -- no instant belongs to two windows, also when the tenant has moved to another zone
        greatest(window_start(old.window_kind, p_at, zone), old.ends_at), window_end(old.window_kind, p_at, zone),
        old.unlimited, old.limit_amount, old.limit_amount, old.thresholds);
    INSERT INTO journal (tenant_id, kind, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts, unlimited, actor, reason)
    VALUES (p_tenant_id, 'limit', ARRAY[made], '{0}', '{0}', '{0}', ARRAY[old.limit_amount], ARRAY[old.unlimited], 'ledger',
        'a new window has begun');
    RETURN made;
END $$;

CREATE TYPE ledger_scope AS (tenant_id uuid, kind text, scope_id text);

-- Locks the caps in force on any of the scopes, in any of the units, and caps that are named besides; sorted by id. Returns them as
-- arrays, by the scope's place (0: named only) and then by id; first and last say where each scope's caps stand in them.
CREATE FUNCTION lock_caps(p_scopes ledger_scope[], p_units text[], p_named uuid[], p_named_tenants uuid[],
    OUT cap_ids uuid[], OUT tenant_ids uuid[], OUT units text[], OUT kinds text[], OUT limits bigint[], OUT unlimited boolean[],
    OUT ceilings bigint[], OUT reserved bigint[], OUT committed bigint[], OUT debts bigint[], OUT thresholds text[], OUT passed smallint[],
    OUT facts text[], OUT first integer[], OUT last integer[])
LANGUAGE plpgsql AS $$
DECLARE at timestamptz; locked bigint; in_force boolean; ords integer[]; ends timestamptz[]; rolled boolean; o integer; rounds integer := 0;
BEGIN
    LOOP
        rounds := rounds + 1;
        IF rounds > 100 THEN -- each round waits for somebody who made a window or a cap; so many there are not
            RAISE EXCEPTION 'the caps of these scopes do not come to rest' USING ERRCODE = 'serialization_failure';
        END IF;
        SELECT count(*), coalesce(bool_and(l.newest OR l.named), true) INTO locked, in_force FROM (
            SELECT c.newest, w.named FROM (
                SELECT u.tenant_id, u.cap_id, bool_or(u.named) AS named FROM (
                    SELECT c.tenant_id, c.cap_id, false AS named FROM unnest(p_scopes) AS s, LATERAL (SELECT k.* FROM caps k
                WHERE k.newest AND k.tenant_id = s.tenant_id AND k.scope_kind = s.kind AND k.scope_id = s.scope_id OFFSET 0) c
                    WHERE c.unit = ANY(p_units)
                    UNION ALL SELECT n.tenant_id, n.cap_id, true FROM unnest(p_named_tenants, p_named) AS n (tenant_id, cap_id)) u
                GROUP BY 1, 2) w
            JOIN caps c ON c.tenant_id = w.tenant_id AND c.cap_id = w.cap_id ORDER BY c.cap_id FOR NO KEY UPDATE OF c) l;
        CONTINUE WHEN NOT in_force; -- somebody has begun a new window meanwhile
        SELECT array_agg(f.ord ORDER BY f.ord, f.cap_id), array_agg(f.cap_id ORDER BY f.ord, f.cap_id),
            array_agg(f.tenant_id ORDER BY f.ord, f.cap_id), array_agg(f.unit ORDER BY f.ord, f.cap_id),
            array_agg(f.scope_kind ORDER BY f.ord, f.cap_id), array_agg(f.limit_amount ORDER BY f.ord, f.cap_id),
            array_agg(f.unlimited ORDER BY f.ord, f.cap_id), array_agg(f.ceiling ORDER BY f.ord, f.cap_id),
            array_agg(f.reserved ORDER BY f.ord, f.cap_id), array_agg(f.committed ORDER BY f.ord, f.cap_id),
            array_agg(f.debt ORDER BY f.ord, f.cap_id), array_agg(f.thresholds::text ORDER BY f.ord, f.cap_id),
            array_agg(f.threshold_passed ORDER BY f.ord, f.cap_id),
            array_agg('"scope":[' || to_json(f.scope_kind) || ',' || to_json(f.scope_id) || '],"unit":' || to_json(f.unit) || CASE
                WHEN f.window_kind = 'total' THEN '}' ELSE ',"window":["' || f.window_kind || '",'
                    || floor(extract(epoch FROM f.starts_at) * 1000)::bigint || ','
                    || floor(extract(epoch FROM f.ends_at) * 1000)::bigint || ']}' END ORDER BY f.ord, f.cap_id),
            array_agg(f.ends_at ORDER BY f.ord, f.cap_id)
        INTO ords, cap_ids, tenant_ids, units, kinds, limits, unlimited, ceilings, reserved, committed, debts, thresholds, passed, facts, ends
        FROM (
            SELECT s.ord::integer AS ord, c.* FROM unnest(p_scopes) WITH ORDINALITY AS s (tenant_id, kind, scope_id, ord), LATERAL (SELECT k.* FROM caps k
                WHERE k.newest AND k.tenant_id = s.tenant_id AND k.scope_kind = s.kind AND k.scope_id = s.scope_id OFFSET 0) c
            WHERE c.unit = ANY(p_units)
            UNION ALL
            SELECT 0, c.* FROM (SELECT DISTINCT * FROM unnest(p_named_tenants, p_named) AS n (tenant_id, cap_id)) n
            JOIN caps c ON c.tenant_id = n.tenant_id AND c.cap_id = n.cap_id
            WHERE NOT (c.newest AND c.unit = ANY(p_units) AND EXISTS (SELECT 1 FROM unnest(p_scopes) AS s
                WHERE s.tenant_id = c.tenant_id AND s.kind = c.scope_kind AND s.scope_id = c.scope_id))) f;
        CONTINUE WHEN locked <> coalesce(cardinality(cap_ids), 0); -- somebody has made a cap meanwhile
        at := clock_timestamp();
        rolled := false;
        FOR i IN 1 .. locked LOOP
            IF ords[i] > 0 AND ends[i] <= at THEN
                PERFORM roll_window(tenant_ids[i], cap_ids[i], at);
                rolled := true;
            END IF;
        END LOOP;
        EXIT WHEN NOT rolled;
    END LOOP;
    first := array_fill(1, ARRAY[coalesce(cardinality(p_scopes), 0)]);
    last := array_fill(0, ARRAY[coalesce(cardinality(p_scopes), 0)]);
    FOR i IN 1 .. locked LOOP
        o := ords[i];
        CONTINUE WHEN o = 0;
        IF last[o] = 0 THEN first[o] := i; END IF;
        last[o] := i;
    END LOOP;
END $$;

-- What a member does to its caps, one element a cap. One of these a member, for a slice of an array of all legs would copy all of it.
CREATE TYPE ledger_legs AS (
    cap_ids uuid[], reserved bigint[], committed bigint[], debts bigint[], limits bigint[], unlimited boolean[]
);

-- Reserve ------------------------------------------------------------------------------------------------------------------

CREATE TYPE reserve_member AS (
    tenant_id uuid, run_id uuid, step integer, try integer, decision_id uuid, hold_id uuid, kind text, tool text, idempotent boolean,
    digest bytea, action bytea, part_a bytea, part_a_hash bytea, verdict text, code text, history_version bigint, role_version integer,
    units text[], amounts bigint[], scopes integer[], funded boolean, estimate text, lease_ms bigint, hold_ms bigint,
    consumes uuid, approval_id uuid, binding bytea, approval_rule text, approver_role text, requester_id uuid,
    approval_expires_at timestamptz, reply text, event_ids uuid[], channels text[], types text[], data text[], named_caps uuid[]
);

-- status: decided; again = this key was decided before, with the same arguments; changed = what the evaluator read is no longer so;
-- no_run; alone = ask again, alone, and have `named_caps` locked as well
CREATE TYPE reserve_answer AS (
    ord integer, status text, verdict text, code text, message text, retryable boolean, hold_id uuid, expires_at timestamptz,
    record_hash bytea, superseded uuid, seq bigint, named_caps uuid[], standing text
);

CREATE FUNCTION ledger_reserve(p_members reserve_member[], p_scopes ledger_scope[], p_units text[]) RETURNS SETOF reserve_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    m reserve_member; n integer := 0; now_at timestamptz; at_ms bigint; r integer; stop text;
    old_decision uuid; old_hold uuid; old_state text; old_digest text; old_caps uuid[]; old_held bigint[];
    -- caps, as lock_caps returns them
    c_id uuid[]; c_tenant uuid[]; c_unit text[]; c_kind text[]; c_limit bigint[]; c_unlimited boolean[]; c_ceiling bigint[];
    c_reserved bigint[]; c_committed bigint[]; c_debt bigint[]; c_thresholds text[]; c_passed smallint[]; c_facts text[];
    s_first integer[]; s_last integer[]; c_changed boolean[];
    -- runs
    r_id uuid[]; r_tenant uuid[]; r_ended boolean[]; r_history bigint[]; r_seq bigint[]; r_role_version integer[]; r_agent text[]; r_role text[];
    r_status text[]; r_decided integer[]; r_events integer[];
    standing jsonb; any_standing boolean; held_ids uuid[]; stopped uuid[];
    -- answers
    o_status text[]; o_verdict text[]; o_code text[]; o_message text[]; o_retryable boolean[]; o_expires timestamptz[]; o_part_b bytea[];
    o_hash bytea[]; o_superseded uuid[]; o_seq bigint[]; o_named uuid[] := '{}'; o_standing text[]; o_counts boolean[]; o_events integer[];
    o_alarm boolean[]; o_legs ledger_legs[];
    -- legs of the member that is being decided, and the places of their caps
    l_cap uuid[]; l_amount bigint[]; l_limit bigint[]; l_unlimited boolean[]; l_place integer[]; legs integer; none bigint[];
    verdict text; code text; message text; retryable boolean; alarm boolean; allowed boolean;
    legs_text text; has_cap boolean; short integer; amount bigint; free bigint; i integer; u integer;
    needed text; part_b bytea; events integer;
BEGIN
    PERFORM require_tenants(ARRAY(SELECT t.tenant_id FROM unnest(p_members) AS t));
    SELECT l.cap_ids, l.tenant_ids, l.units, l.kinds, l.limits, l.unlimited, l.ceilings, l.reserved, l.committed, l.debts, l.thresholds,
        l.passed, l.facts, l.first, l.last
    INTO c_id, c_tenant, c_unit, c_kind, c_limit, c_unlimited, c_ceiling, c_reserved, c_committed, c_debt, c_thresholds, c_passed, c_facts,
        s_first, s_last
    FROM lock_caps(p_scopes, p_units,
        ARRAY(SELECT x FROM unnest(p_members) AS t, unnest(t.named_caps) AS x),
        ARRAY(SELECT t.tenant_id FROM unnest(p_members) AS t, unnest(t.named_caps) AS x)) AS l;
    c_changed := array_fill(false, ARRAY[coalesce(cardinality(c_id), 0)]);

    SELECT array_agg(l.run_id), array_agg(l.tenant_id), array_agg(l.ended_at IS NOT NULL), array_agg(l.history_version),
        array_agg(l.timeline_seq), array_agg(l.role_version), array_agg(l.agent_name), array_agg(l.role_name)
    INTO r_id, r_tenant, r_ended, r_history, r_seq, r_role_version, r_agent, r_role
    FROM (SELECT r.* FROM (SELECT DISTINCT t.tenant_id, t.run_id FROM unnest(p_members) AS t) w
          JOIN runs r ON r.run_id = w.run_id AND r.tenant_id IS NOT DISTINCT FROM w.tenant_id ORDER BY r.run_id FOR NO KEY UPDATE OF r) l;
    r_status := array_fill(NULL::text, ARRAY[coalesce(cardinality(r_id), 0)]);
    r_decided := array_fill(0, ARRAY[coalesce(cardinality(r_id), 0)]);
    r_events := array_fill(0, ARRAY[coalesce(cardinality(r_id), 0)]);

    -- what stands for the keys; the run's lock keeps others from putting something there, but not executors from moving a hold
    SELECT count(*) > 0, array_agg(d.hold_id) FILTER (WHERE d.hold_id IS NOT NULL) INTO any_standing, held_ids
    FROM unnest(p_members) AS t, LATERAL (
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
        WHERE s.lifted_at IS NULL AND s.tenant_id = ANY (ARRAY(SELECT t.tenant_id FROM unnest(p_members) AS t)));
    now_at := clock_timestamp();
    at_ms := floor(extract(epoch FROM now_at) * 1000)::bigint;

    FOREACH m IN ARRAY p_members LOOP
        n := n + 1;
        o_status[n] := 'decided'; o_verdict[n] := NULL; o_code[n] := ''; o_message[n] := NULL; o_retryable[n] := false;
        o_expires[n] := now_at + m.hold_ms * interval '1 millisecond';
        o_part_b[n] := NULL; o_hash[n] := NULL; o_superseded[n] := NULL; o_seq[n] := 0; o_standing[n] := NULL;
        o_counts[n] := false; o_events[n] := 0; o_alarm[n] := false; o_legs[n] := NULL;
        r := coalesce(width_bucket(m.run_id, r_id), 0);
        -- INVARIANT (LAW 5): another member of this batch may have brought the run of another tenant in
        IF r = 0 OR r_id[r] <> m.run_id OR r_tenant[r] <> m.tenant_id THEN
            o_status[n] := 'no_run';
            CONTINUE;
        END IF;
        o_seq[n] := r_seq[r];
        old_decision := NULL; old_hold := NULL; old_state := NULL;
        IF standing IS NOT NULL AND standing ? n::text THEN
            SELECT x.decision_id, x.digest, x.hold_id, x.state, ARRAY(SELECT jsonb_array_elements_text(x.cap_ids)::uuid),
                ARRAY(SELECT jsonb_array_elements_text(x.amounts)::bigint)
            INTO old_decision, old_digest, old_hold, old_state, old_caps, old_held
            FROM jsonb_to_record(standing -> n::text)
                AS x (decision_id uuid, digest text, hold_id uuid, state text, cap_ids jsonb, amounts jsonb);
            IF old_digest = encode(m.digest, 'hex') THEN
                o_status[n] := 'again';
                o_standing[n] := standing ->> n::text;
                CONTINUE;
            END IF;
        END IF;
        IF r_history[r] <> m.history_version OR r_role_version[r] <> m.role_version THEN
            o_status[n] := 'changed';
            CONTINUE;
        END IF;

        verdict := m.verdict; code := m.code; message := NULL; retryable := false; alarm := false;
        legs_text := ''; legs := 0; l_cap := '{}'; l_amount := '{}'; l_limit := '{}'; l_unlimited := '{}'; l_place := '{}'; short := NULL; has_cap := false;
        IF r_ended[r] THEN
            verdict := 'deny'; code := 'run.ended'; message := 'the run has ended'; alarm := true;
        ELSIF old_decision IS NOT NULL AND old_state <> 'held' THEN
            verdict := 'deny'; code := 'hold.key_conflict'; alarm := true;
            message := 'this step was executed before with other arguments (hold ' || old_hold || ')';
        ELSE
            IF old_hold IS NOT NULL THEN
                -- alone, so that the journal has its return right before what is decided with it; its caps have to be locked, too
                IF cardinality(p_members) > 1 OR EXISTS (SELECT 1 FROM unnest(old_caps) AS x WHERE x <> ALL(coalesce(c_id, '{}'))) THEN
                    o_status[n] := 'alone';
                    o_named := old_caps;
                    CONTINUE;
                END IF;
                FOR j IN 1 .. cardinality(old_caps) LOOP
                    i := array_position(c_id, old_caps[j]);
                    c_reserved[i] := c_reserved[i] - old_held[j];
                    c_ceiling[i] := greatest(c_limit[i], least(c_ceiling[i], c_reserved[i] + c_committed[i]));
                    c_changed[i] := true;
                END LOOP;
            END IF;
            o_superseded[n] := old_decision;
            -- the legs: every cap in force on a scope of the action, in a unit it uses
            needed := CASE WHEN m.funded THEN 'run' ELSE 'tenant' END;
            FOR s IN 1 .. coalesce(cardinality(m.scopes), 0) LOOP
                FOR i IN s_first[m.scopes[s]] .. s_last[m.scopes[s]] LOOP
                    u := array_position(m.units, c_unit[i]);
                    CONTINUE WHEN u IS NULL OR (m.funded AND c_unit[i] = 'nano_usd' AND c_kind[i] <> 'run');
                    amount := m.amounts[u];
                    IF c_unit[i] = 'nano_usd' AND c_kind[i] = needed THEN has_cap := true; END IF;
                    IF short IS NULL AND NOT c_unlimited[i] AND c_limit[i] - c_reserved[i] - c_committed[i] - c_debt[i] < amount THEN
                        short := i;
                    END IF;
                    legs_text := legs_text || CASE WHEN legs_text = '' THEN '' ELSE ',' END || '{"amount":"' || amount || '","cap_id":"'
                        || c_id[i] || '","committed":"' || c_committed[i] || '","debt":"' || c_debt[i] || '","limit":'
                        || CASE WHEN c_unlimited[i] THEN 'null' ELSE '"' || c_limit[i] || '"' END || ',"reserved":"' || c_reserved[i] || '",'
                        || c_facts[i];
                    legs := legs + 1;
                    l_place[legs] := i; l_cap[legs] := c_id[i]; l_amount[legs] := amount; l_limit[legs] := c_limit[i]; l_unlimited[legs] := c_unlimited[i];
                END LOOP;
            END LOOP;
            IF verdict = 'allow' THEN
                stop := CASE WHEN m.tenant_id = ANY (stopped) THEN active_stop(m.tenant_id, r_agent[r], r_role[r], m.tool) END;
                u := array_position(m.units, 'nano_usd');
                IF stop IS NOT NULL THEN
                    verdict := 'deny'; code := 'stop.active'; message := 'an emergency stop is on: ' || stop;
                -- LAW 7: nothing is unlimited by omission
                ELSIF u IS NOT NULL AND m.amounts[u] > 0 AND NOT has_cap THEN
                    verdict := 'deny'; code := 'budget.no_cap'; message := 'the tenant has no money cap, so it cannot spend: set one first';
                -- LAW 3
                ELSIF short IS NOT NULL THEN
                    amount := m.amounts[array_position(m.units, c_unit[short])];
                    free := c_limit[short] - c_reserved[short] - c_committed[short] - c_debt[short];
                    verdict := 'deny'; code := 'budget.cap_exceeded';
                    retryable := c_limit[short] - c_committed[short] - c_debt[short] >= amount;
                    message := 'the cap on ' || c_kind[short] || coalesce(' per ' || substring(c_facts[short] FROM '"window":\["([a-z]+)"'), '') || ' has ' || amount_text(c_unit[short], greatest(free, 0)) || ' left of '
                        || amount_text(c_unit[short], c_limit[short]) || ', and this may take ' || amount_text(c_unit[short], amount);
                ELSIF m.consumes IS NOT NULL AND NOT take_approval(m.tenant_id, m.run_id, m.step, m.consumes, m.decision_id) THEN
                    verdict := 'deny'; code := 'approval.consumed'; message := 'the approval was used already';
                END IF;
            END IF;
            o_counts[n] := true;
        END IF;
        allowed := verdict = 'allow';
        IF allowed THEN
            FOR leg IN 1 .. legs LOOP
                i := l_place[leg];
                c_reserved[i] := c_reserved[i] + l_amount[leg];
                c_changed[i] := true;
            END LOOP;
            none := array_fill(0::bigint, ARRAY[legs]);
            o_legs[n] := ROW(l_cap, l_amount, none, none, l_limit, l_unlimited)::ledger_legs;
        END IF;
        -- canonical bytes: keys in order, no spaces; see holdfast_verdict.record.part_b
        part_b := convert_to('{"decision_id":"' || m.decision_id || '","hold_id":' || CASE WHEN allowed THEN '"' || m.hold_id || '"' ELSE 'null' END
            || ',"legs":[' || legs_text || '],"reason_codes":[' || to_json(code) || '],"time_ms":' || at_ms || ',"v":' || '1,"verdict":"'
            || verdict || '"}', 'UTF8');
        events := CASE WHEN message IS NULL THEN cardinality(m.event_ids) ELSE 1 END;
        r_history[r] := r_history[r] + 1;
        r_seq[r] := r_seq[r] + events;
        r_decided[r] := r_decided[r] + 1;
        r_events[r] := r_events[r] + events;
        r_status[r] := CASE verdict WHEN 'needs_approval' THEN 'waiting' ELSE 'running' END;
        o_verdict[n] := verdict; o_code[n] := code; o_message[n] := message; o_retryable[n] := retryable; o_part_b[n] := part_b;
        o_hash[n] := sha256('\x00'::bytea || m.part_a_hash || sha256(part_b));
        o_seq[n] := r_seq[r]; o_events[n] := events; o_alarm[n] := alarm;
    END LOOP;

    IF array_remove(o_superseded, NULL) <> '{}' THEN
        PERFORM supersede_decisions(p_members, o_superseded);
    END IF;
    UPDATE caps c SET reserved = w.reserved, ceiling = w.ceiling
    FROM unnest(c_tenant, c_id, c_reserved, c_ceiling, c_changed) AS w (tenant_id, cap_id, reserved, ceiling, changed)
    WHERE w.changed AND c.tenant_id = w.tenant_id AND c.cap_id = w.cap_id;
    INSERT INTO holds (tenant_id, hold_id, run_id, step, try, kind, tool, idempotent, digest, action, decision_id, max_cost_nano_usd,
        estimate, lease_ms, expires_at, leg_cap_ids, leg_amounts)
    SELECT t.tenant_id, t.hold_id, t.run_id, t.step, t.try, t.kind, t.tool, t.idempotent, t.digest, t.action, t.decision_id,
        coalesce(t.amounts[array_position(t.units, 'nano_usd')], 0), t.estimate::jsonb, t.lease_ms, o_expires[t.ordinality],
        (o_legs[t.ordinality]).cap_ids, (o_legs[t.ordinality]).reserved
    FROM unnest(p_members) WITH ORDINALITY AS t WHERE o_verdict[t.ordinality] = 'allow';
    INSERT INTO journal (tenant_id, kind, hold_id, run_id, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts, unlimited,
        actor, reason)
    SELECT t.tenant_id, 'reserve', t.hold_id, t.run_id, l.cap_ids, l.reserved, l.committed, l.debts, l.limits, l.unlimited, 'run', t.kind
    FROM unnest(p_members) WITH ORDINALITY AS t, LATERAL (SELECT (o_legs[t.ordinality]).* OFFSET 0) AS l
    WHERE o_verdict[t.ordinality] = 'allow' AND cardinality(l.cap_ids) > 0 ORDER BY t.ordinality;
    INSERT INTO approvals (tenant_id, approval_id, run_id, step, binding, action, rule, approver_role, max_cost_nano_usd, requester_id, expires_at)
    SELECT t.tenant_id, t.approval_id, t.run_id, t.step, t.binding, t.action, t.approval_rule, t.approver_role,
        coalesce(t.amounts[array_position(t.units, 'nano_usd')], 0), t.requester_id, t.approval_expires_at
    FROM unnest(p_members) WITH ORDINALITY AS t WHERE o_verdict[t.ordinality] = 'needs_approval' AND t.approval_id IS NOT NULL;
    INSERT INTO decisions (tenant_id, decision_id, run_id, step, try, kind, digest, verdict, reason_codes, hold_id, approval_id, reply,
        part_a, part_b, record_hash)
    SELECT t.tenant_id, t.decision_id, t.run_id, CASE WHEN o_counts[t.ordinality] THEN t.step END, CASE WHEN o_counts[t.ordinality] THEN t.try END, t.kind,
        t.digest, o_verdict[t.ordinality], ARRAY[o_code[t.ordinality]], CASE WHEN o_verdict[t.ordinality] = 'allow' THEN t.hold_id END,
        CASE WHEN o_verdict[t.ordinality] = 'needs_approval' THEN t.approval_id ELSE t.consumes END,
        CASE WHEN o_message[t.ordinality] IS NULL THEN t.reply::jsonb ELSE jsonb_build_object('code', o_code[t.ordinality], 'message', o_message[t.ordinality],
            'rule_id', CASE WHEN o_alarm[t.ordinality] THEN '' ELSE t.reply::jsonb ->> 'rule_id' END, 'retryable', o_retryable[t.ordinality],
            'approval_expires_at', NULL) END,
        t.part_a, o_part_b[t.ordinality], o_hash[t.ordinality]
    FROM unnest(p_members) WITH ORDINALITY AS t WHERE o_status[t.ordinality] = 'decided';
    UPDATE runs r SET history_version = r.history_version + w.decided, timeline_seq = r.timeline_seq + w.events,
        status = CASE WHEN r.ended_at IS NULL AND r.status IN ('running', 'waiting') THEN w.status ELSE r.status END
    FROM unnest(r_tenant, r_id, r_decided, r_events, r_status) AS w (tenant_id, run_id, decided, events, status)
    WHERE w.decided > 0 AND r.run_id = w.run_id AND r.tenant_id IS NOT DISTINCT FROM w.tenant_id;
    INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
    SELECT t.tenant_id, t.run_id, o_seq[t.ordinality] - o_events[t.ordinality] + e.ord, e.event_id, e.channel,
        CASE WHEN o_alarm[t.ordinality] THEN 'decision.alarm' ELSE e.type END,
        CASE WHEN o_message[t.ordinality] IS NULL THEN e.data::jsonb ELSE e.data::jsonb || jsonb_build_object('verdict', o_verdict[t.ordinality],
            'code', o_code[t.ordinality], 'message', o_message[t.ordinality], 'hold_id', NULL, 'held_nano_usd', 0)
            || CASE WHEN o_alarm[t.ordinality] THEN '{"rule": ""}'::jsonb ELSE '{}'::jsonb END END
    FROM unnest(p_members) WITH ORDINALITY AS t,
        unnest(t.event_ids, t.channels, t.types, t.data) WITH ORDINALITY AS e (event_id, channel, type, data, ord)
    WHERE o_status[t.ordinality] = 'decided' AND e.ord <= o_events[t.ordinality];
    RETURN QUERY SELECT a::integer, o_status[a], o_verdict[a], o_code[a], o_message[a], o_retryable[a],
        CASE WHEN o_verdict[a] = 'allow' THEN (p_members[a]).hold_id END, o_expires[a], o_hash[a],
        CASE WHEN o_superseded[a] IS NOT NULL THEN (standing -> a::text ->> 'hold_id')::uuid END, o_seq[a], o_named, o_standing[a]
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

-- Settle -------------------------------------------------------------------------------------------------------------------

CREATE TYPE settle_member AS (
    tenant_id uuid, hold_id uuid, seen_state text, seen_outcome boolean, seen_outward boolean, to_state text, units text[], amounts bigint[],
    actor text, reason text, event_ids uuid[], channels text[], types text[], data text[], parents bytea[], entry_ids bytea[],
    contents bytea[], returns_budget boolean
);

-- status: settled; changed = the hold is not as the caller saw it; conflict = it may not go that way; no_entry = the transcript has
-- no entry to go on from
CREATE TYPE settle_answer AS (ord integer, status text, state text, seq bigint);

CREATE FUNCTION may_settle(p_kind text, p_from text, p_to text, p_outward boolean) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE p_from WHEN 'held' THEN p_to IN ('voided', 'expired') OR (p_kind = 'run.budget' AND p_to = 'committed')
        -- LAW 4: what went outside did not cost nothing only because nobody knows what it cost
        WHEN 'executing' THEN p_to = 'unknown' OR (p_to = 'voided' AND NOT p_outward)
        WHEN 'executed' THEN p_to IN ('committed', 'voided', 'unknown')
        WHEN 'unknown' THEN p_to IN ('committed', 'voided') ELSE false END
$$;

CREATE FUNCTION ledger_settle(p_members settle_member[]) RETURNS SETOF settle_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    m settle_member; h record; r integer; i integer; u integer; n integer := coalesce(cardinality(p_members), 0);
    c_id uuid[]; c_tenant uuid[]; c_unit text[]; c_kind text[]; c_limit bigint[]; c_unlimited boolean[]; c_ceiling bigint[];
    c_reserved bigint[]; c_committed bigint[]; c_debt bigint[]; c_thresholds text[]; c_passed smallint[]; c_facts text[]; c_changed boolean[];
    r_id uuid[]; r_tenant uuid[]; r_seq bigint[]; r_events integer[]; r_simulated boolean[]; r_project uuid[]; r_user uuid[];
    r_agent text[]; r_role text[]; r_zone text[];
    o_status text[]; o_state text[]; o_seq bigint[]; o_before bigint[]; o_run integer[]; o_cost bigint[]; o_tokens bigint[]; o_calls bigint[]; o_kind text[];
    o_input bigint[]; o_cached bigint[]; o_simulated boolean[];
    o_legs ledger_legs[]; o_hold_kind text[]; o_tool text[]; o_model text[];
    l_cap uuid[]; l_reserved bigint[]; l_committed bigint[]; l_debt bigint[]; l_limit bigint[]; l_unlimited boolean[]; legs integer;
    t_run integer[]; t_seq bigint[]; t_data jsonb[]; told integer := 0;
    last_hold uuid; held bigint; actual bigint; within bigint; excess bigint; fits bigint; threshold smallint;
BEGIN
    PERFORM require_tenants(ARRAY(SELECT t.tenant_id FROM unnest(p_members) AS t));
    SELECT l.cap_ids, l.tenant_ids, l.units, l.kinds, l.limits, l.unlimited, l.ceilings, l.reserved, l.committed, l.debts, l.thresholds, l.passed, l.facts
    INTO c_id, c_tenant, c_unit, c_kind, c_limit, c_unlimited, c_ceiling, c_reserved, c_committed, c_debt, c_thresholds, c_passed, c_facts
    FROM (SELECT array_agg(x.cap_id) AS ids, array_agg(x.tenant_id) AS tenants FROM (
        SELECT g.tenant_id, leg AS cap_id FROM unnest(p_members) AS t
        JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id, unnest(g.leg_cap_ids) AS leg
        UNION
        -- whoever may be the last to settle of a run that has ended returns its budget in the same transaction
        SELECT b.tenant_id, leg FROM unnest(p_members) AS t
        JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id
        JOIN runs ru ON ru.run_id = g.run_id AND ru.tenant_id IS NOT DISTINCT FROM g.tenant_id
        JOIN holds b ON b.hold_id = ru.budget_hold_id AND b.tenant_id IS NOT DISTINCT FROM ru.tenant_id, unnest(b.leg_cap_ids) AS leg
        WHERE t.returns_budget) x) ids, lock_caps('{}', '{}', ids.ids, ids.tenants) AS l;
    c_changed := array_fill(false, ARRAY[coalesce(cardinality(c_id), 0)]);

    SELECT array_agg(l.run_id), array_agg(l.tenant_id), array_agg(l.timeline_seq), array_agg(l.project_id), array_agg(l.user_id),
        array_agg(l.agent_name), array_agg(l.role_name), array_agg(l.time_zone)
    INTO r_id, r_tenant, r_seq, r_project, r_user, r_agent, r_role, r_zone
    FROM (SELECT ru.*, z.time_zone FROM (
            SELECT DISTINCT g.tenant_id, g.run_id FROM unnest(p_members) AS t
            JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id) w
          JOIN runs ru ON ru.run_id = w.run_id AND ru.tenant_id IS NOT DISTINCT FROM w.tenant_id JOIN tenants z ON z.tenant_id = w.tenant_id
          ORDER BY ru.run_id FOR NO KEY UPDATE OF ru) l;
    r_events := array_fill(0, ARRAY[coalesce(cardinality(r_id), 0)]);
    r_simulated := array_fill(false, ARRAY[coalesce(cardinality(r_id), 0)]);
    o_status := array_fill('changed'::text, ARRAY[n]); -- a hold that is not there cannot be as anybody saw it
    o_seq := array_fill(0::bigint, ARRAY[n]);

    -- first the locks, then a look: an outcome that was stored while they were waited for is not to be missed (LAW 4)
    PERFORM 1 FROM (
        SELECT g.hold_id FROM unnest(p_members) AS t
        JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id
        ORDER BY g.hold_id FOR NO KEY UPDATE OF g) l;
    FOR h IN
        SELECT t.ordinality::integer AS ord, g.tenant_id, g.hold_id, g.run_id, g.kind, g.tool, g.state, g.outward_at IS NOT NULL AS outward,
            g.leg_cap_ids, g.leg_amounts, o.hold_id IS NOT NULL AS has_outcome, coalesce(o.simulated, false) AS simulated,
            coalesce(g.estimate #>> '{prices_used,model}', '') AS model
        FROM unnest(p_members) WITH ORDINALITY AS t
        JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id
        LEFT JOIN outcomes o ON o.tenant_id = g.tenant_id AND o.hold_id = g.hold_id
        ORDER BY g.hold_id, t.ordinality
    LOOP
        m := p_members[h.ord];
        CONTINUE WHEN h.hold_id = last_hold OR (h.state, h.has_outcome, h.outward) <> (m.seen_state, m.seen_outcome, m.seen_outward);
        IF NOT may_settle(h.kind, h.state, m.to_state, h.outward) OR (m.to_state <> 'committed' AND cardinality(m.amounts) > 0)
                OR 0 > ANY (m.amounts) THEN
            o_status[h.ord] := 'conflict';
            o_state[h.ord] := h.state;
            CONTINUE;
        END IF;
        IF NOT write_entries(h.tenant_id, h.run_id, m.parents, m.entry_ids, m.contents) THEN
            o_status[h.ord] := 'no_entry';
            CONTINUE;
        END IF;
        last_hold := h.hold_id;
        r := width_bucket(h.run_id, r_id);
        o_status[h.ord] := 'settled'; o_run[h.ord] := r;
        o_hold_kind[h.ord] := h.kind; o_tool[h.ord] := h.tool; o_model[h.ord] := h.model;
        legs := 0; l_cap := '{}'; l_reserved := '{}'; l_committed := '{}'; l_debt := '{}'; l_limit := '{}'; l_unlimited := '{}';
        r_simulated[r] := r_simulated[r] OR h.simulated;
        o_before[h.ord] := r_seq[r];
        r_events[r] := r_events[r] + cardinality(m.event_ids);
        r_seq[r] := r_seq[r] + cardinality(m.event_ids);
        o_seq[h.ord] := r_seq[r];
        CONTINUE WHEN m.to_state = 'unknown';
        o_kind[h.ord] := CASE m.to_state WHEN 'committed' THEN 'commit' WHEN 'voided' THEN 'void' ELSE 'expire' END;
        o_cost[h.ord] := coalesce(m.amounts[array_position(m.units, 'nano_usd')], 0);
        o_tokens[h.ord] := coalesce(m.amounts[array_position(m.units, 'tokens')], 0);
        o_calls[h.ord] := coalesce(m.amounts[array_position(m.units, 'calls')], 0);
        o_input[h.ord] := coalesce(m.amounts[array_position(m.units, 'input_tokens')], 0);
        o_cached[h.ord] := coalesce(m.amounts[array_position(m.units, 'cached_tokens')], 0);
        o_simulated[h.ord] := h.simulated;
        FOR j IN 1 .. cardinality(h.leg_cap_ids) LOOP
            i := width_bucket(h.leg_cap_ids[j], c_id);
            held := h.leg_amounts[j];
            u := array_position(m.units, c_unit[i]);
            actual := CASE WHEN u IS NULL OR c_unit[i] = 'slots' THEN 0 ELSE m.amounts[u] END;
            -- up to the hold it is committed, and the rest returns; what exceeds it takes free headroom first; what is left is debt (LAW 3)
            within := least(actual, held);
            excess := actual - within;
            fits := CASE WHEN c_unlimited[i] THEN excess
                ELSE least(excess, greatest(c_limit[i] - c_reserved[i] - c_committed[i] - c_debt[i] + held - within, 0)) END;
            c_reserved[i] := c_reserved[i] - held;
            c_committed[i] := c_committed[i] + within + fits;
            c_debt[i] := c_debt[i] + excess - fits;
            -- it only ever shrinks here, so that the CHECK against it still means something
            c_ceiling[i] := greatest(c_limit[i], least(c_ceiling[i], c_reserved[i] + c_committed[i]));
            c_changed[i] := true;
            legs := legs + 1;
            l_cap[legs] := c_id[i]; l_reserved[legs] := -held; l_committed[legs] := within + fits; l_debt[legs] := excess - fits;
            l_limit[legs] := c_limit[i]; l_unlimited[legs] := c_unlimited[i];
            IF actual > 0 AND NOT c_unlimited[i] AND c_limit[i] > 0 THEN
                FOREACH threshold IN ARRAY c_thresholds[i]::smallint[] LOOP
                    CONTINUE WHEN threshold <= c_passed[i] OR (c_committed[i] + c_debt[i])::numeric * 100 < c_limit[i]::numeric * threshold;
                    c_passed[i] := threshold;
                    told := told + 1;
                    r_events[r] := r_events[r] + 1;
                    r_seq[r] := r_seq[r] + 1;
                    o_seq[h.ord] := r_seq[r];
                    t_run[told] := r; t_seq[told] := r_seq[r];
                    t_data[told] := jsonb_build_object('cap_id', c_id[i], 'scope', c_kind[i], 'unit', c_unit[i],
                        'window', coalesce(substring(c_facts[i] FROM '"window":\["([a-z]+)"'), 'total'), 'percent', threshold,
                        'used', (c_committed[i] + c_debt[i])::text, 'limit', c_limit[i]::text);
                END LOOP;
            END IF;
        END LOOP;
        o_legs[h.ord] := ROW(l_cap, l_reserved, l_committed, l_debt, l_limit, l_unlimited)::ledger_legs;
    END LOOP;

    UPDATE caps c SET reserved = w.reserved, committed = w.committed, debt = w.debt, ceiling = w.ceiling, threshold_passed = w.passed
    FROM unnest(c_tenant, c_id, c_reserved, c_committed, c_debt, c_ceiling, c_passed, c_changed)
        AS w (tenant_id, cap_id, reserved, committed, debt, ceiling, passed, changed)
    WHERE w.changed AND c.tenant_id = w.tenant_id AND c.cap_id = w.cap_id;
    UPDATE holds g SET state = t.to_state, cost_nano_usd = o_cost[t.ordinality], settled_by = t.actor,
        settled_at = CASE WHEN t.to_state <> 'unknown' THEN now() END,
        unknown_at = CASE WHEN t.to_state = 'unknown' THEN now() ELSE g.unknown_at END
    FROM unnest(p_members) WITH ORDINALITY AS t
    WHERE o_status[t.ordinality] = 'settled' AND g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id;
    INSERT INTO journal (tenant_id, kind, hold_id, run_id, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts, unlimited,
        cost_nano_usd, tokens, calls, input_tokens, cached_tokens, simulated, day, actor, reason)
    SELECT t.tenant_id, o_kind[t.ordinality], t.hold_id, r_id[o_run[t.ordinality]], l.cap_ids, l.reserved, l.committed, l.debts, l.limits, l.unlimited, o_cost[t.ordinality], o_tokens[t.ordinality], o_calls[t.ordinality],
        o_input[t.ordinality], o_cached[t.ordinality], o_simulated[t.ordinality], (now() AT TIME ZONE r_zone[o_run[t.ordinality]])::date, t.actor, t.reason
    FROM unnest(p_members) WITH ORDINALITY AS t, LATERAL (SELECT (o_legs[t.ordinality]).* OFFSET 0) AS l WHERE o_kind[t.ordinality] IS NOT NULL ORDER BY t.hold_id;
    UPDATE runs ru SET timeline_seq = ru.timeline_seq + w.events, simulated = ru.simulated OR w.simulated
    FROM unnest(r_tenant, r_id, r_events, r_simulated) AS w (tenant_id, run_id, events, simulated)
    WHERE (w.events > 0 OR w.simulated) AND ru.run_id = w.run_id AND ru.tenant_id IS NOT DISTINCT FROM w.tenant_id;
    INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
    SELECT t.tenant_id, r_id[o_run[t.ordinality]], o_before[t.ordinality] + e.ord, e.event_id, e.channel, e.type, e.data::jsonb
    FROM unnest(p_members) WITH ORDINALITY AS t,
        unnest(t.event_ids, t.channels, t.types, t.data) WITH ORDINALITY AS e (event_id, channel, type, data, ord)
    WHERE o_status[t.ordinality] = 'settled';
    IF told > 0 THEN
        INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
        SELECT r_tenant[x.run], r_id[x.run], x.seq, new_id(), 'budget', 'cap.threshold', x.data
        FROM unnest(t_run, t_seq, t_data) AS x (run, seq, data);
    END IF;
    INSERT INTO rollups AS old (tenant_id, day, run_id, kind, tool, model, simulated, project_id, user_id, agent, role, holds, calls, tokens,
        input_tokens, cached_tokens, cost_nano_usd)
    SELECT t.tenant_id, (now() AT TIME ZONE r_zone[o_run[t.ordinality]])::date AS day, r_id[o_run[t.ordinality]] AS run_id, o_hold_kind[t.ordinality] AS kind,
        o_tool[t.ordinality] AS tool, o_model[t.ordinality] AS model, o_simulated[t.ordinality] AS simulated, r_project[o_run[t.ordinality]], r_user[o_run[t.ordinality]], r_agent[o_run[t.ordinality]],
        r_role[o_run[t.ordinality]], count(*), sum(o_calls[t.ordinality]), sum(o_tokens[t.ordinality]),
        sum(o_input[t.ordinality]), sum(o_cached[t.ordinality]), sum(o_cost[t.ordinality])
    FROM unnest(p_members) WITH ORDINALITY AS t WHERE o_kind[t.ordinality] = 'commit' AND o_hold_kind[t.ordinality] <> 'run.budget'
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    ON CONFLICT (tenant_id, day, run_id, kind, tool, model, simulated) DO UPDATE SET holds = old.holds + excluded.holds,
        calls = old.calls + excluded.calls, tokens = old.tokens + excluded.tokens,
        input_tokens = old.input_tokens + excluded.input_tokens, cached_tokens = old.cached_tokens + excluded.cached_tokens,
        cost_nano_usd = old.cost_nano_usd + excluded.cost_nano_usd;
    FOR h IN
        SELECT DISTINCT t.tenant_id, r_id[o_run[t.ordinality]] AS run_id FROM unnest(p_members) WITH ORDINALITY AS t
        WHERE t.returns_budget AND o_status[t.ordinality] = 'settled' ORDER BY 2
    LOOP
        PERFORM return_budget(h.tenant_id, h.run_id);
    END LOOP;
    RETURN QUERY SELECT a::integer, o_status[a], o_state[a], o_seq[a] FROM generate_series(1, n) AS a;
END $$;

-- Appends transcript entries, each after its parent; false if there is no such parent. Written before, they are written no more (LAW 9).
CREATE FUNCTION write_entries(p_tenant_id uuid, p_run_id uuid, p_parents bytea[], p_entry_ids bytea[], p_contents bytea[]) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE place integer;
BEGIN
    FOR e IN 1 .. coalesce(cardinality(p_entry_ids), 0) LOOP
        place := 1;
        IF p_parents[e] IS NOT NULL THEN
            SELECT depth + 1 INTO place FROM transcript_entries
            WHERE tenant_id = p_tenant_id AND run_id = p_run_id AND entry_id = p_parents[e];
            IF NOT FOUND THEN RETURN false; END IF;
        END IF;
        INSERT INTO transcript_entries (tenant_id, run_id, entry_id, parent_id, depth, content)
        VALUES (p_tenant_id, p_run_id, p_entry_ids[e], p_parents[e], place, p_contents[e]) ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN true;
END $$;

-- Budgets of runs ----------------------------------------------------------------------------------------------------------

-- Locks the money caps in force on the scopes above a run, and says how they stand: before anything of the run is locked.
CREATE FUNCTION lock_for_budget(p_scopes ledger_scope[]) RETURNS TABLE (cap_id uuid, scope_kind text, scope_id text, unit text,
    window_kind text, starts_at timestamptz, ends_at timestamptz, unlimited boolean, limit_amount bigint, ceiling bigint, reserved bigint,
    committed bigint, debt bigint) LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE ids uuid[];
BEGIN
    PERFORM require_tenants(ARRAY(SELECT s.tenant_id FROM unnest(p_scopes) AS s));
    SELECT l.cap_ids INTO ids FROM lock_caps(p_scopes, '{nano_usd}', '{}', '{}') AS l;
    RETURN QUERY SELECT c.cap_id, c.scope_kind, c.scope_id, c.unit, c.window_kind, c.starts_at, c.ends_at, c.unlimited, c.limit_amount,
        c.ceiling, c.reserved, c.committed, c.debt FROM caps c WHERE c.tenant_id = (p_scopes[1]).tenant_id AND c.cap_id = ANY(ids) ORDER BY 1;
END $$;

-- Takes a run's guaranteed budget from caps that the caller has locked: step 0, try 0 of the run. Should they not have that much
-- left, the trigger on caps refuses (LAW 3).
CREATE FUNCTION take_budget(p_tenant_id uuid, p_run_id uuid, p_hold_id uuid, p_decision_id uuid, p_cap_ids uuid[], p_amount_nano_usd bigint,
    p_action bytea, p_digest bytea, p_life_ms bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE ids uuid[]; amounts bigint[]; limits bigint[]; unlimiteds boolean[];
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant_id]);
    SELECT array_agg(c.cap_id ORDER BY c.cap_id), array_agg(p_amount_nano_usd), array_agg(c.limit_amount ORDER BY c.cap_id),
        array_agg(c.unlimited ORDER BY c.cap_id)
    INTO ids, amounts, limits, unlimiteds FROM (
        SELECT * FROM caps k WHERE k.tenant_id = p_tenant_id AND k.cap_id = ANY(p_cap_ids) AND k.unit = 'nano_usd'
        ORDER BY k.cap_id FOR NO KEY UPDATE) c;
    IF coalesce(cardinality(ids), 0) <> cardinality(p_cap_ids) OR cardinality(p_cap_ids) = 0 THEN
        RAISE EXCEPTION 'a budget is taken from money caps that are there' USING ERRCODE = 'foreign_key_violation';
    END IF;
    UPDATE caps SET reserved = reserved + p_amount_nano_usd WHERE tenant_id = p_tenant_id AND cap_id = ANY(ids);
    INSERT INTO holds (tenant_id, hold_id, run_id, step, try, kind, idempotent, digest, action, decision_id, max_cost_nano_usd, estimate,
        lease_ms, expires_at, leg_cap_ids, leg_amounts)
    VALUES (p_tenant_id, p_hold_id, p_run_id, 0, 0, 'run.budget', false, p_digest, p_action, p_decision_id, p_amount_nano_usd, '{}', 1,
        now() + p_life_ms * interval '1 millisecond', ids, amounts);
    INSERT INTO journal (tenant_id, kind, hold_id, run_id, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts, unlimited, actor, reason)
    VALUES (p_tenant_id, 'reserve', p_hold_id, p_run_id, ids, amounts, array_fill(0::bigint, ARRAY[cardinality(ids)]),
        array_fill(0::bigint, ARRAY[cardinality(ids)]), limits, unlimiteds, 'run', 'run.budget');
    UPDATE runs SET budget_hold_id = p_hold_id WHERE tenant_id = p_tenant_id AND run_id = p_run_id;
END $$;

-- Locks, in the one order, whatever ending a run may touch of caps: its own and those that its budget was taken from.
CREATE FUNCTION lock_for_return(p_tenant_id uuid, p_run_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant_id]);
    PERFORM 1 FROM (
        SELECT c.cap_id FROM caps c WHERE c.tenant_id = p_tenant_id AND (
            (c.scope_kind = 'run' AND c.scope_id = p_run_id::text)
            OR c.cap_id IN (SELECT unnest(b.leg_cap_ids) FROM runs ru JOIN holds b ON b.hold_id = ru.budget_hold_id AND b.tenant_id IS NOT DISTINCT FROM ru.tenant_id
                WHERE ru.tenant_id = p_tenant_id AND ru.run_id = p_run_id))
        ORDER BY c.cap_id FOR NO KEY UPDATE) l;
END $$;

-- Settles a guaranteed budget once its run has ended and has nothing open: what it spent is committed above, the rest returns. As long
-- as a hold of the run is open it stays; returned before, the caps above would forget what that hold may still cost (LAW 4).
-- True if the run holds no budget any more. The caller has locked the caps; see lock_for_return.
CREATE FUNCTION return_budget(p_tenant_id uuid, p_run_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE budget record; spent bigint; answer settle_answer;
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant_id]);
    SELECT h.hold_id, h.state, ru.ended_at IS NOT NULL AS ended INTO budget FROM runs ru
    JOIN holds h ON h.hold_id = ru.budget_hold_id AND h.tenant_id IS NOT DISTINCT FROM ru.tenant_id WHERE ru.tenant_id = p_tenant_id AND ru.run_id = p_run_id;
    IF NOT FOUND OR budget.state <> 'held' THEN RETURN true; END IF;
    IF NOT budget.ended OR EXISTS (SELECT 1 FROM caps c WHERE c.tenant_id = p_tenant_id AND c.scope_kind = 'run'
            AND c.scope_id = p_run_id::text AND c.unit = 'nano_usd' AND c.reserved > 0) THEN
        RETURN false;
    END IF;
    SELECT coalesce(sum(c.committed + c.debt), 0) INTO spent FROM caps c
    WHERE c.tenant_id = p_tenant_id AND c.scope_kind = 'run' AND c.scope_id = p_run_id::text AND c.unit = 'nano_usd' AND c.window_kind = 'total';
    SELECT * INTO answer FROM ledger_settle(ARRAY[ROW(p_tenant_id, budget.hold_id, 'held', false, false, 'committed', '{nano_usd}',
        ARRAY[spent], 'run', 'the run has ended: its budget is settled at what it spent', ARRAY[new_id()], '{budget}', '{budget.returned}',
        ARRAY[jsonb_build_object('hold_id', budget.hold_id, 'spent_nano_usd', spent)::text], '{}', '{}', '{}', false)::settle_member]);
    RETURN answer.status = 'settled';
END $$;

-- Budgets of runs that have ended and have nothing open: a parent's, whose last child has returned its own
CREATE FUNCTION due_returns(p_limit integer) RETURNS TABLE (tenant_id uuid, run_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT h.tenant_id, h.run_id FROM holds h JOIN runs r ON r.tenant_id = h.tenant_id AND r.run_id = h.run_id
    WHERE h.settled_at IS NULL AND h.kind = 'run.budget' AND r.ended_at IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM caps c WHERE c.tenant_id = h.tenant_id AND c.scope_kind = 'run' AND c.scope_id = h.run_id::text
            AND c.unit = 'nano_usd' AND c.reserved > 0)
    LIMIT p_limit
$$;

-- Limits -------------------------------------------------------------------------------------------------------------------

-- Sets a cap's limit, and makes the cap if need be. Raised, it pays off debt first; lowered, it stops new holds and never running ones:
-- then the ceiling is what is used already, and shrinks as holds settle.
CREATE FUNCTION set_limit(p_tenant_id uuid, p_kind text, p_scope_id text, p_unit text, p_window text, p_limit bigint, p_unlimited boolean,
    p_thresholds smallint[], p_actor text, p_reason text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE cap caps%ROWTYPE; zone text; paid bigint; used bigint; at timestamptz := clock_timestamp();
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant_id]);
    IF NOT EXISTS (SELECT 1 FROM caps c WHERE c.newest AND c.tenant_id = p_tenant_id AND c.scope_kind = p_kind AND c.scope_id = p_scope_id
            AND c.unit = p_unit AND c.window_kind = p_window) THEN
        SELECT time_zone INTO STRICT zone FROM tenants WHERE tenant_id = p_tenant_id;
        INSERT INTO caps (tenant_id, cap_id, scope_kind, scope_id, unit, window_kind, starts_at, ends_at, unlimited, limit_amount, ceiling)
        VALUES (p_tenant_id, new_id(), p_kind, p_scope_id, p_unit, p_window, window_start(p_window, at, zone),
            window_end(p_window, at, zone), false, 0, 0)
        ON CONFLICT (tenant_id, scope_kind, scope_id, unit, window_kind) WHERE newest DO NOTHING;
    END IF;
    LOOP
        SELECT * INTO cap FROM caps c WHERE c.newest AND c.tenant_id = p_tenant_id AND c.scope_kind = p_kind AND c.scope_id = p_scope_id
            AND c.unit = p_unit AND c.window_kind = p_window FOR NO KEY UPDATE;
        CONTINUE WHEN NOT FOUND; -- somebody has begun a new window meanwhile
        EXIT WHEN cap.ends_at > clock_timestamp();
        PERFORM roll_window(p_tenant_id, cap.cap_id, clock_timestamp());
    END LOOP;
    used := cap.reserved + cap.committed;
    paid := CASE WHEN p_unlimited THEN cap.debt ELSE least(cap.debt, greatest(p_limit - used, 0)) END;
    UPDATE caps SET limit_amount = p_limit, unlimited = p_unlimited, ceiling = greatest(p_limit, used + paid), committed = committed + paid,
        debt = debt - paid, thresholds = coalesce(p_thresholds, thresholds),
        -- what is not reached any more is told again when it is; what a lower limit has reached is told with what is used next
        threshold_passed = least(cap.threshold_passed, coalesce((SELECT max(t) FROM unnest(coalesce(p_thresholds, thresholds)) AS t
            WHERE NOT p_unlimited AND p_limit > 0 AND (cap.committed + cap.debt)::numeric * 100 >= p_limit::numeric * t), 0))
    WHERE tenant_id = p_tenant_id AND cap_id = cap.cap_id;
    INSERT INTO journal (tenant_id, kind, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts, unlimited, actor, reason)
    VALUES (p_tenant_id, 'limit', ARRAY[cap.cap_id], '{0}', ARRAY[paid], ARRAY[-paid], ARRAY[p_limit], ARRAY[p_unlimited], p_actor, p_reason);
    RETURN cap.cap_id;
END $$;

-- Redeem and outcomes --------------------------------------------------------------------------------------------------------

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

-- Many at once, in the order of holds: one transaction, one wait for the disk
CREATE FUNCTION begin_outward_all(p_hold_ids uuid[], p_lease_tokens bytea[]) RETURNS TABLE (ord integer, remaining_ms bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE m outcome_member;
BEGIN
    FOR ord IN SELECT w.ordinality::integer FROM unnest(p_members) WITH ORDINALITY AS w ORDER BY w.hold_id, w.ordinality LOOP
        m := p_members[ord];
        stored := store_outcome(m.hold_id, m.lease_token, m.ok, m.error_code, m.retryable, m.retry_after_ms, m.cost_class,
            m.provider_request_id, m.simulated, m.result);
        RETURN NEXT;
    END LOOP;
END $$;

-- Rights -----------------------------------------------------------------------------------------------------------------

GRANT SELECT, INSERT ON caps, holds, journal, decisions, approvals, rollups TO holdfast_definer;
GRANT UPDATE (newest, unlimited, limit_amount, ceiling, reserved, committed, debt, thresholds, threshold_passed) ON caps TO holdfast_definer;
GRANT UPDATE (state, cost_nano_usd, lease_hash, lease_expires_at, outward_at, unknown_at, settled_at, settled_by, superseded_at) ON holds
    TO holdfast_definer;
GRANT UPDATE (superseded_at) ON decisions TO holdfast_definer; -- a record is never rewritten
GRANT UPDATE (consumed_by, expires_at) ON approvals TO holdfast_definer;
GRANT UPDATE (holds, calls, tokens, input_tokens, cached_tokens, cost_nano_usd) ON rollups TO holdfast_definer;
GRANT UPDATE (history_version, timeline_seq, status, simulated, budget_hold_id) ON runs TO holdfast_definer;
GRANT SELECT, INSERT ON timeline_events, transcript_entries TO holdfast_definer;
GRANT SELECT ON stops TO holdfast_definer;
GRANT USAGE ON SEQUENCE journal_entry_id TO holdfast_definer;
DO $$
DECLARE f regprocedure;
BEGIN
    FOR f IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.proname IN (
        'require_tenants', 'new_id', 'amount_text', 'window_start', 'window_end', 'roll_window', 'lock_caps', 'ledger_reserve', 'take_approval',
        'supersede_decisions', 'may_settle', 'ledger_settle', 'write_entries', 'lock_for_budget', 'take_budget', 'lock_for_return', 'return_budget',
        'due_returns', 'set_limit', 'active_stop', 'ledger_redeem', 'begin_outward_all', 'store_outcome_all', 'make_journal_partitions', 'journal_strays', 'refuse_resettling') LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO holdfast_definer', f);
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION ledger_reserve TO holdfast_governor;
GRANT EXECUTE ON FUNCTION ledger_settle, lock_for_return, return_budget TO holdfast_governor, holdfast_sweeper, holdfast_api;
GRANT EXECUTE ON FUNCTION lock_for_budget, take_budget, set_limit, window_start, window_end TO holdfast_api;
GRANT EXECUTE ON FUNCTION due_returns TO holdfast_sweeper;
GRANT EXECUTE ON FUNCTION ledger_redeem TO holdfast_broker;
GRANT EXECUTE ON FUNCTION begin_outward_all, store_outcome_all TO holdfast_executor;
GRANT EXECUTE ON FUNCTION make_journal_partitions, journal_strays TO holdfast_sweeper;

GRANT CREATE ON SCHEMA public TO holdfast_definer;
DO $$
DECLARE f regprocedure;
BEGIN
    FOR f IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.proname IN (
        'ledger_reserve', 'ledger_settle', 'lock_for_budget', 'take_budget', 'lock_for_return', 'return_budget', 'due_returns', 'set_limit',
        'ledger_redeem', 'begin_outward', 'begin_outward_all', 'store_outcome_all') LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO holdfast_definer', f);
    END LOOP;
END $$;
REVOKE CREATE ON SCHEMA public FROM holdfast_definer;
