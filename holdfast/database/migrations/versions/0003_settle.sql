-- Settling holds, and with the last one of a run its budget. What every function here keeps to stands at the head of 0003_caps.sql.

CREATE TYPE settle_member AS (
    tenant_id uuid, hold_id uuid, seen_state text, seen_outcome boolean, seen_outward boolean, to_state text, units text[], amounts bigint[],
    actor text, reason text, events ledger_event[], entries ledger_entry[], returns_budget boolean
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
    m settle_member; h record; m_tenant uuid[]; m_hold uuid[]; returns boolean; b_tenant uuid[]; b_cap uuid[]; r integer; i integer; n integer := coalesce(cardinality(p_members), 0);
    c_id uuid[]; c_tenant uuid[]; c_unit text[]; c_limit bigint[]; c_unlimited boolean[]; c_ceiling bigint[];
    c_reserved bigint[]; c_committed bigint[]; c_debt bigint[]; c_thresholds text[]; c_passed smallint[]; c_next bigint[];
    c_carried_reserved bigint[]; c_carried_committed bigint[]; c_carried_debt bigint[]; c_carrier integer[]; k integer; rolling boolean;
    r_id uuid[]; r_tenant uuid[]; r_seq bigint[]; r_events integer[]; r_simulated boolean[]; r_project uuid[]; r_user uuid[];
    r_agent text[]; r_role text[]; r_zone text[];
    o_status text[]; o_state text[]; o_seq bigint[]; o_before bigint[]; o_run integer[]; o_cost bigint[]; o_tokens bigint[]; o_calls bigint[]; o_kind text[];
    o_input bigint[]; o_cached bigint[]; o_simulated boolean[];
    o_legs ledger_legs[]; o_hold_kind text[]; o_tool text[]; o_model text[];
    -- legs of the member that is being settled; and what follows from its units and its caps, kept as long as the next one has the same
    l_reserved bigint[]; l_committed bigint[]; l_debt bigint[]; k_units text[]; c_at integer[]; money integer; token integer; call integer;
    input integer; cached integer; k_caps uuid[]; k_place integer[]; l_limit bigint[]; l_unlimited boolean[]; none bigint[];
    t_run integer[]; t_seq bigint[]; t_data jsonb[]; told integer := 0;
    last_hold uuid; held bigint; actual bigint; excess bigint; fits bigint; used bigint; threshold smallint;
BEGIN
    SELECT array_agg(t.tenant_id), array_agg(t.hold_id), bool_or(t.returns_budget) INTO m_tenant, m_hold, returns FROM unnest(p_members) AS t;
    IF current_tenant() IS NOT NULL THEN
        PERFORM require_tenants(m_tenant);
    END IF;
    IF returns THEN
        -- whoever may be the last to settle of a run that has ended returns its budget in the same transaction
        SELECT array_agg(b.tenant_id), array_agg(leg) INTO b_tenant, b_cap FROM unnest(p_members) AS t
        JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id
        JOIN runs ru ON ru.run_id = g.run_id AND ru.tenant_id IS NOT DISTINCT FROM g.tenant_id
        JOIN holds b ON b.hold_id = ru.budget_hold_id AND b.tenant_id IS NOT DISTINCT FROM ru.tenant_id, unnest(b.leg_cap_ids) AS leg
        WHERE t.returns_budget;
    END IF;
    rolling := EXISTS (SELECT 1 FROM caps c WHERE c.rolling_hours IS NOT NULL AND c.newest AND c.tenant_id = ANY (m_tenant));
    IF rolling THEN
        SELECT b_tenant || l.tenant_ids, b_cap || l.cap_ids INTO b_tenant, b_cap FROM lock_carriers(m_tenant, m_hold, b_tenant, b_cap) AS l;
    END IF;
    SELECT array_agg(l.cap_id), array_agg(l.tenant_id), array_agg(l.unit), array_agg(l.limit_amount), array_agg(l.unlimited),
        array_agg(l.ceiling), array_agg(l.reserved), array_agg(l.committed), array_agg(l.debt), array_agg(l.thresholds::text),
        array_agg(l.threshold_passed),
        -- what has to be used for the next threshold to be told
        array_agg((SELECT least(min(ceil(l.limit_amount::numeric * x / 100)), 9223372036854775807)::bigint FROM unnest(l.thresholds) AS x
                   WHERE NOT l.unlimited AND l.limit_amount > 0 AND x > l.threshold_passed)),
        array_agg(l.carried_reserved), array_agg(l.carried_committed), array_agg(l.carried_debt)
    INTO c_id, c_tenant, c_unit, c_limit, c_unlimited, c_ceiling, c_reserved, c_committed, c_debt, c_thresholds, c_passed, c_next,
        c_carried_reserved, c_carried_committed, c_carried_debt
    FROM (SELECT c.* FROM (
            SELECT g.tenant_id, leg AS cap_id FROM unnest(m_tenant, m_hold) AS t (tenant_id, hold_id)
            JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id, unnest(g.leg_cap_ids) AS leg
            UNION SELECT * FROM unnest(b_tenant, b_cap)) w
          JOIN caps c ON c.tenant_id = w.tenant_id AND c.cap_id = w.cap_id ORDER BY c.cap_id FOR NO KEY UPDATE OF c) l;
    c_carrier := CASE WHEN rolling THEN carriers_of(c_tenant, c_id) END;

    SELECT array_agg(l.run_id), array_agg(l.tenant_id), array_agg(l.timeline_seq), array_agg(l.project_id), array_agg(l.user_id),
        array_agg(l.agent_name), array_agg(l.role_name), array_agg(l.time_zone)
    INTO r_id, r_tenant, r_seq, r_project, r_user, r_agent, r_role, r_zone
    FROM (SELECT ru.*, z.time_zone FROM (
            SELECT DISTINCT g.tenant_id, g.run_id FROM unnest(m_tenant, m_hold) AS t (tenant_id, hold_id)
            JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id) w
          JOIN runs ru ON ru.run_id = w.run_id AND ru.tenant_id IS NOT DISTINCT FROM w.tenant_id JOIN tenants z ON z.tenant_id = w.tenant_id
          ORDER BY ru.run_id FOR NO KEY UPDATE OF ru) l;
    r_events := array_fill(0, ARRAY[coalesce(cardinality(r_id), 0)]);
    r_simulated := array_fill(false, ARRAY[coalesce(cardinality(r_id), 0)]);
    o_status := array_fill('changed'::text, ARRAY[n]); -- a hold that is not there cannot be as anybody saw it
    o_seq := array_fill(0::bigint, ARRAY[n]);

    -- first the locks, then a look: an outcome that was stored while they were waited for is not to be missed (LAW 4)
    PERFORM 1 FROM (
        SELECT g.hold_id FROM unnest(m_tenant, m_hold) AS t (tenant_id, hold_id)
        JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id
        ORDER BY g.hold_id FOR NO KEY UPDATE OF g) l;
    FOR h IN
        SELECT t.ordinality::integer AS ord, g.tenant_id, g.hold_id, g.run_id, g.kind, g.tool, g.state, g.outward_at IS NOT NULL AS outward,
            g.leg_cap_ids, g.leg_amounts, o.hold_id IS NOT NULL AS has_outcome, coalesce(o.simulated, false) AS simulated,
            coalesce(g.estimate #>> '{prices_used,model}', '') AS model
        FROM unnest(m_tenant, m_hold) WITH ORDINALITY AS t (tenant_id, hold_id, ordinality)
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
        IF cardinality(m.entries) > 0 AND NOT write_entries(h.tenant_id, h.run_id, m.entries) THEN
            o_status[h.ord] := 'no_entry';
            CONTINUE;
        END IF;
        last_hold := h.hold_id;
        r := width_bucket(h.run_id, r_id);
        o_status[h.ord] := 'settled'; o_run[h.ord] := r;
        o_hold_kind[h.ord] := h.kind; o_tool[h.ord] := h.tool; o_model[h.ord] := h.model;
        r_simulated[r] := r_simulated[r] OR h.simulated;
        o_before[h.ord] := r_seq[r];
        r_events[r] := r_events[r] + cardinality(m.events);
        r_seq[r] := r_seq[r] + cardinality(m.events);
        o_seq[h.ord] := r_seq[r];
        CONTINUE WHEN m.to_state = 'unknown';
        o_kind[h.ord] := CASE m.to_state WHEN 'committed' THEN 'commit' WHEN 'voided' THEN 'void' ELSE 'expire' END;
        IF k_units IS DISTINCT FROM m.units THEN
            k_units := m.units;
            money := array_position(k_units, 'nano_usd'); token := array_position(k_units, 'tokens'); call := array_position(k_units, 'calls');
            input := array_position(k_units, 'input_tokens'); cached := array_position(k_units, 'cached_tokens');
            FOR c IN 1 .. coalesce(cardinality(c_id), 0) LOOP
                c_at[c] := CASE c_unit[c] WHEN 'slots' THEN NULL ELSE array_position(k_units, c_unit[c]) END;
            END LOOP;
        END IF;
        o_cost[h.ord] := coalesce(m.amounts[money], 0); o_tokens[h.ord] := coalesce(m.amounts[token], 0);
        o_calls[h.ord] := coalesce(m.amounts[call], 0); o_input[h.ord] := coalesce(m.amounts[input], 0);
        o_cached[h.ord] := coalesce(m.amounts[cached], 0); o_simulated[h.ord] := h.simulated;
        IF k_caps IS DISTINCT FROM h.leg_cap_ids THEN
            k_caps := h.leg_cap_ids; k_place := '{}'; l_limit := '{}'; l_unlimited := '{}';
            FOR j IN 1 .. cardinality(k_caps) LOOP
                i := width_bucket(k_caps[j], c_id);
                k_place[j] := i; l_limit[j] := c_limit[i]; l_unlimited[j] := c_unlimited[i];
            END LOOP;
            none := array_fill(0::bigint, ARRAY[cardinality(k_caps)]);
        END IF;
        l_reserved := '{}'; l_committed := '{}'; l_debt := none;
        FOR j IN 1 .. cardinality(k_place) LOOP
            i := k_place[j];
            k := coalesce(c_carrier[i], i); -- the headroom of an older bucket of a rolling window is what the newest has
            held := h.leg_amounts[j];
            actual := coalesce(m.amounts[c_at[i]], 0);
            l_reserved[j] := -held;
            -- up to the hold it is committed, and the rest returns; what exceeds it takes free headroom first; what is left is debt (LAW 3)
            IF actual > held THEN
                excess := actual - held;
                fits := CASE WHEN c_unlimited[k] THEN excess
                    ELSE least(excess, greatest(c_limit[k] - c_carried_reserved[k] - c_carried_committed[k] - c_carried_debt[k]
                        - c_reserved[k] - c_committed[k] - c_debt[k], 0)) END;
                c_debt[i] := c_debt[i] + excess - fits;
                l_debt[j] := excess - fits;
                actual := held + fits;
            END IF;
            c_reserved[i] := c_reserved[i] - held;
            c_committed[i] := c_committed[i] + actual;
            l_committed[j] := actual;
            -- it only ever shrinks here, so that the CHECK against it still means something
            IF k <> i THEN
                c_ceiling[i] := greatest(c_limit[i], least(c_ceiling[i], c_reserved[i] + c_committed[i]));
                c_carried_reserved[k] := c_carried_reserved[k] - held;
                c_carried_committed[k] := c_carried_committed[k] + actual;
                c_carried_debt[k] := c_carried_debt[k] + l_debt[j];
            END IF;
            IF c_ceiling[k] > c_limit[k] THEN
                c_ceiling[k] := greatest(c_limit[k],
                    least(c_ceiling[k], c_carried_reserved[k] + c_carried_committed[k] + c_reserved[k] + c_committed[k]));
            END IF;
            used := c_carried_committed[k] + c_carried_debt[k] + c_committed[k] + c_debt[k];
            IF used >= c_next[k] AND actual + l_debt[j] > 0 THEN
                FOREACH threshold IN ARRAY c_thresholds[k]::smallint[] LOOP
                    CONTINUE WHEN threshold <= c_passed[k] OR used::numeric * 100 < c_limit[k]::numeric * threshold;
                    c_passed[k] := threshold;
                    told := told + 1;
                    r_events[r] := r_events[r] + 1;
                    r_seq[r] := r_seq[r] + 1;
                    o_seq[h.ord] := r_seq[r];
                    t_run[told] := r; t_seq[told] := r_seq[r];
                    t_data[told] := (
                        SELECT jsonb_build_object('cap_id', c.cap_id, 'scope', c.scope_kind, 'unit', c.unit, 'window', c.window_kind,
                            'percent', threshold, 'used', used::text, 'limit', c_limit[k]::text)
                        FROM caps c WHERE c.tenant_id = c_tenant[k] AND c.cap_id = c_id[k]);
                END LOOP;
                c_next[k] := (SELECT least(min(ceil(c_limit[k]::numeric * x / 100)), 9223372036854775807)::bigint
                    FROM unnest(c_thresholds[k]::smallint[]) AS x WHERE x > c_passed[k]);
            END IF;
        END LOOP;
        o_legs[h.ord] := ROW(k_caps, l_reserved, l_committed, l_debt, l_limit, l_unlimited)::ledger_legs;
    END LOOP;

    UPDATE caps c SET reserved = w.reserved, committed = w.committed, debt = w.debt, ceiling = w.ceiling, threshold_passed = w.passed,
        carried_reserved = w.carried_reserved, carried_committed = w.carried_committed, carried_debt = w.carried_debt
    FROM unnest(c_tenant, c_id, c_reserved, c_committed, c_debt, c_ceiling, c_passed, c_carried_reserved, c_carried_committed, c_carried_debt)
        AS w (tenant_id, cap_id, reserved, committed, debt, ceiling, passed, carried_reserved, carried_committed, carried_debt)
    WHERE c.tenant_id = w.tenant_id AND c.cap_id = w.cap_id AND (c.reserved <> w.reserved OR c.committed <> w.committed
        OR c.debt <> w.debt OR c.ceiling <> w.ceiling OR c.threshold_passed <> w.passed OR c.carried_reserved <> w.carried_reserved
        OR c.carried_committed <> w.carried_committed OR c.carried_debt <> w.carried_debt);
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
        unnest(t.events) WITH ORDINALITY AS e (event_id, channel, type, data, ord)
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
    IF returns THEN
        FOR h IN
            SELECT DISTINCT t.tenant_id, r_id[o_run[t.ordinality]] AS run_id FROM unnest(p_members) WITH ORDINALITY AS t
            WHERE t.returns_budget AND o_status[t.ordinality] = 'settled' ORDER BY 2
        LOOP
            PERFORM return_budget(h.tenant_id, h.run_id);
        END LOOP;
    END IF;
    RETURN QUERY SELECT a::integer, o_status[a], o_state[a], o_seq[a] FROM generate_series(1, n) AS a;
END $$;

-- Locks, in the one order, all caps that settling these holds touches, where some may be rolling; returns the newest buckets that carry
-- what the holds' own have. Should a window roll while its bucket is waited for, its new newest is looked for.
CREATE FUNCTION lock_carriers(p_tenant_ids uuid[], p_hold_ids uuid[], p_more_tenants uuid[], p_more_caps uuid[],
    OUT tenant_ids uuid[], OUT cap_ids uuid[]) LANGUAGE plpgsql AS $$
DECLARE legs uuid[]; leg_tenants uuid[];
BEGIN
    SELECT array_agg(w.cap_id), array_agg(w.tenant_id) INTO legs, leg_tenants FROM (
        SELECT g.tenant_id, leg AS cap_id FROM unnest(p_tenant_ids, p_hold_ids) AS t (tenant_id, hold_id)
        JOIN holds g ON g.hold_id = t.hold_id AND g.tenant_id IS NOT DISTINCT FROM t.tenant_id, unnest(g.leg_cap_ids) AS leg
        UNION SELECT * FROM unnest(p_more_tenants, p_more_caps)) w;
    FOR round IN 1 .. 100 LOOP
        SELECT n.cap_ids, n.tenant_ids INTO cap_ids, tenant_ids FROM newest_buckets(leg_tenants, legs) AS n;
        PERFORM 1 FROM (SELECT c.cap_id FROM (SELECT DISTINCT * FROM unnest(leg_tenants || tenant_ids, legs || cap_ids) AS u (tenant_id, cap_id)) w
            JOIN caps c ON c.tenant_id = w.tenant_id AND c.cap_id = w.cap_id ORDER BY c.cap_id FOR NO KEY UPDATE OF c) l;
        IF NOT EXISTS (SELECT 1 FROM unnest(tenant_ids, cap_ids) AS n (tenant_id, cap_id)
                JOIN caps c ON c.tenant_id = n.tenant_id AND c.cap_id = n.cap_id WHERE NOT c.newest) THEN
            RETURN;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'the caps of these holds do not come to rest' USING ERRCODE = 'serialization_failure';
END $$;

-- Appends transcript entries, each after its parent; false if there is no such parent. Written before, they are written no more (LAW 9).
CREATE FUNCTION write_entries(p_tenant_id uuid, p_run_id uuid, p_entries ledger_entry[]) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE place integer; e ledger_entry;
BEGIN
    FOREACH e IN ARRAY p_entries LOOP
        place := 1;
        IF e.parent_id IS NOT NULL THEN
            SELECT depth + 1 INTO place FROM transcript_entries
            WHERE tenant_id = p_tenant_id AND run_id = p_run_id AND entry_id = e.parent_id;
            IF NOT FOUND THEN RETURN false; END IF;
        END IF;
        INSERT INTO transcript_entries (tenant_id, run_id, entry_id, parent_id, depth, content)
        VALUES (p_tenant_id, p_run_id, e.entry_id, e.parent_id, place, e.content) ON CONFLICT DO NOTHING;
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
        c.ceiling, c.carried_reserved + c.reserved, c.carried_committed + c.committed, c.carried_debt + c.debt FROM caps c WHERE c.tenant_id = (p_scopes[1]).tenant_id AND c.cap_id = ANY(ids) ORDER BY 1;
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

-- Locks, in the one order, whatever ending a run may touch of caps: its own and those that its budget was taken from, of rolling
-- windows with the bucket that carries them.
CREATE FUNCTION lock_for_return(p_tenant_id uuid, p_run_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant_id]);
    PERFORM 1 FROM (
        SELECT c.cap_id FROM caps c WHERE c.tenant_id = p_tenant_id AND (
            (c.scope_kind = 'run' AND c.scope_id = p_run_id::text)
            OR c.cap_id IN (
                SELECT l.cap_id FROM runs ru JOIN holds b ON b.hold_id = ru.budget_hold_id AND b.tenant_id IS NOT DISTINCT FROM ru.tenant_id,
                    unnest(b.leg_cap_ids) AS leg JOIN caps k ON k.tenant_id = p_tenant_id AND k.cap_id = leg,
                    LATERAL (SELECT k.cap_id UNION SELECT f.cap_id FROM caps f WHERE k.rolling_hours IS NOT NULL AND f.newest
                        AND f.tenant_id = k.tenant_id AND f.scope_kind = k.scope_kind AND f.scope_id = k.scope_id AND f.unit = k.unit
                        AND f.window_kind = k.window_kind) AS l (cap_id)
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
        ARRAY[spent], 'run', 'the run has ended: its budget is settled at what it spent',
        ARRAY[ROW(new_id(), 'budget', 'budget.returned', jsonb_build_object('hold_id', budget.hold_id, 'spent_nano_usd', spent)::text)::ledger_event],
        '{}', false)::settle_member]);
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
