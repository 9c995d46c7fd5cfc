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
            -- nine decimals, of which four stay whatever they are
            || regexp_replace(lpad((abs(p_amount) % 1000000000)::text, 9, '0'), '^([0-9]{4}[0-9]*?)0*$', '\1') END
$$;

-- Windows of caps ----------------------------------------------------------------------------------------------------------

-- Hours are sixty minutes; days and months are as long as the calendar of the zone says, over daylight-saving changes too. Where
-- clocks go back over midnight, that midnight comes twice: the second one ends the day, and what is between them is of the day before.
-- Of a rolling window these are the bounds of its bucket, an hour of UTC whatever the zone.
CREATE FUNCTION window_start(p_kind text, p_at timestamptz, p_zone text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p_kind = 'total' THEN '-infinity' WHEN p_kind ~ '^[0-9]' THEN date_trunc('hour', p_at, 'UTC')
        WHEN date_trunc(p_kind, p_at, p_zone) <= p_at THEN date_trunc(p_kind, p_at, p_zone)
        ELSE (date_trunc(p_kind, p_at AT TIME ZONE p_zone) - ('1 ' || p_kind)::interval) AT TIME ZONE p_zone END
$$;

CREATE FUNCTION window_end(p_kind text, p_at timestamptz, p_zone text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p_kind = 'total' THEN 'infinity' WHEN p_kind ~ '^[0-9]' THEN date_trunc('hour', p_at, 'UTC') + interval '1 hour'
        WHEN p_kind = 'hour' THEN date_trunc('hour', p_at, p_zone) + interval '1 hour'
        WHEN date_trunc(p_kind, p_at, p_zone) > p_at THEN date_trunc(p_kind, p_at, p_zone)
        ELSE (date_trunc(p_kind, p_at AT TIME ZONE p_zone) + ('1 ' || p_kind)::interval) AT TIME ZONE p_zone END
$$;

-- The highest of the thresholds that is reached, or 0
CREATE FUNCTION reached_threshold(p_thresholds smallint[], p_unlimited boolean, p_limit bigint, p_used bigint) RETURNS smallint
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(max(t), 0)::smallint FROM unnest(p_thresholds) AS t
    WHERE NOT p_unlimited AND p_limit > 0 AND p_used::numeric * 100 >= p_limit::numeric * t
$$;

-- The next window of a cap whose newest has ended: the same limit, nothing used but what a rolling one carries. The caller has locked
-- that newest, so no older bucket moves meanwhile.
CREATE FUNCTION roll_window(p_tenant_id uuid, p_cap_id uuid, p_at timestamptz) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE made uuid := new_id(); zone text; old caps%ROWTYPE; begins timestamptz; carried record;
BEGIN
    UPDATE caps SET newest = false, carried_reserved = 0, carried_committed = 0, carried_debt = 0,
        ceiling = greatest(limit_amount, least(ceiling, reserved + committed))
    WHERE tenant_id = p_tenant_id AND cap_id = p_cap_id AND newest RETURNING * INTO STRICT old;
    SELECT time_zone INTO STRICT zone FROM tenants WHERE tenant_id = p_tenant_id;
    -- no instant belongs to two windows, also when the tenant has moved to another zone
    begins := greatest(window_start(old.window_kind, p_at, zone), old.ends_at);
    IF old.rolling_hours IS NULL THEN
        SELECT 0::bigint AS reserved, 0::bigint AS committed, 0::bigint AS debt INTO carried;
    ELSE
        SELECT * INTO carried FROM carried_over(old, begins);
    END IF;
    INSERT INTO caps (tenant_id, cap_id, scope_kind, scope_id, unit, window_kind, rolling_hours, starts_at, ends_at, unlimited, limit_amount,
        ceiling, carried_reserved, carried_committed, carried_debt, thresholds, threshold_passed)
    VALUES (p_tenant_id, made, old.scope_kind, old.scope_id, old.unit, old.window_kind, old.rolling_hours,
        begins, window_end(old.window_kind, p_at, zone), old.unlimited, old.limit_amount,
        greatest(old.limit_amount, carried.reserved + carried.committed), carried.reserved, carried.committed, carried.debt, old.thresholds,
        -- of a rolling window, what is still reached was told already
        least(old.threshold_passed, reached_threshold(old.thresholds, old.unlimited, old.limit_amount, carried.committed + carried.debt)));
    INSERT INTO journal (tenant_id, kind, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts, unlimited, actor, reason)
    VALUES (p_tenant_id, 'limit', ARRAY[made], '{0}', '{0}', '{0}', ARRAY[old.limit_amount], ARRAY[old.unlimited], 'ledger',
        'a new window has begun');
    RETURN made;
END $$;

CREATE TYPE ledger_scope AS (tenant_id uuid, kind text, scope_id text);
-- What a member tells the timeline, and what it appends to the transcript. Rows, not a column each: a client takes longer to look at four
-- arrays of one element than to write all that is in them.
CREATE TYPE ledger_event AS (event_id uuid, channel text, type text, data text);
CREATE TYPE ledger_entry AS (parent_id bytea, entry_id bytea, content bytea);

-- What stands in a decision record between a leg's amount and what is reserved; only a rolling window has something carried
CREATE FUNCTION leg_head(p_cap_id uuid, p_rolling_hours smallint, p_carried bigint, p_committed bigint, p_debt bigint, p_unlimited boolean, p_limit bigint)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT '","cap_id":"' || p_cap_id || CASE WHEN p_rolling_hours IS NULL THEN '' ELSE '","carried":"' || p_carried END
        || '","committed":"' || p_committed || '","debt":"' || p_debt || '","limit":'
        || CASE WHEN p_unlimited THEN 'null' ELSE '"' || p_limit || '"' END || ',"reserved":"'
$$;

-- Of caps that are named, those that are rolling: the newest buckets of their windows
CREATE FUNCTION newest_buckets(p_tenant_ids uuid[], p_cap_ids uuid[], OUT cap_ids uuid[], OUT tenant_ids uuid[]) LANGUAGE sql STABLE AS $$
    SELECT array_agg(f.cap_id), array_agg(f.tenant_id)
    FROM unnest(p_tenant_ids, p_cap_ids) AS n (tenant_id, cap_id)
    JOIN caps b ON b.tenant_id = n.tenant_id AND b.cap_id = n.cap_id AND b.rolling_hours IS NOT NULL, LATERAL (
        SELECT k.cap_id, k.tenant_id FROM caps k WHERE k.newest AND k.tenant_id = b.tenant_id AND k.scope_kind = b.scope_kind
            AND k.scope_id = b.scope_id AND k.unit = b.unit AND k.window_kind = b.window_kind OFFSET 0) f
$$;

-- Where, among caps that are locked, the newest bucket stands that carries one of them; its own place if none does
CREATE FUNCTION carriers_of(p_tenant_ids uuid[], p_cap_ids uuid[]) RETURNS integer[] LANGUAGE sql STABLE AS $$
    WITH locked AS (
        SELECT l.place::integer, c.* FROM unnest(p_tenant_ids, p_cap_ids) WITH ORDINALITY AS l (tenant_id, cap_id, place)
        JOIN caps c ON c.tenant_id = l.tenant_id AND c.cap_id = l.cap_id)
    SELECT array_agg(coalesce(k.place, b.place) ORDER BY b.place) FROM locked b
    LEFT JOIN locked k ON k.newest AND k.tenant_id = b.tenant_id AND k.scope_kind = b.scope_kind AND k.scope_id = b.scope_id
        AND k.unit = b.unit AND k.window_kind = b.window_kind AND b.ends_at > k.starts_at - make_interval(hours => k.rolling_hours)
$$;

-- Locks the caps in force on any of the scopes, in any of the units, and caps that are named besides; sorted by id. Returns them as
-- arrays, by the scope's place (0: named only) and then by id; first and last say where each scope's caps stand in them. Heads and
-- tails are what stands in a decision record between a leg's amount and what is reserved, and after that. Who names a bucket of a rolling
-- window gets the newest as well, which carries what the named one has; carriers are these newest ones' places (of a bucket that counts
-- no more, and of any other cap, its own place), or null where no rolling cap is named.
CREATE FUNCTION lock_caps(p_scopes ledger_scope[], p_units text[], p_named uuid[], p_named_tenants uuid[],
    OUT cap_ids uuid[], OUT tenant_ids uuid[], OUT unit_places integer[], OUT kinds text[], OUT limits bigint[], OUT unlimited boolean[],
    OUT ceilings bigint[], OUT reserved bigint[], OUT committed bigint[], OUT debts bigint[], OUT windows text[],
    OUT heads text[], OUT tails text[], OUT first integer[], OUT last integer[],
    OUT carried_reserved bigint[], OUT carried_committed bigint[], OUT carried_debts bigint[], OUT carriers integer[])
LANGUAGE plpgsql AS $$
DECLARE
    in_force boolean; ords integer[]; ends timestamptz[]; ended_at timestamptz; o integer; rounds integer := 0;
    newest uuid[]; newest_tenants uuid[];
BEGIN
    LOOP
        rounds := rounds + 1;
        IF rounds > 100 THEN -- each round waits for somebody who made a window or a cap; so many there are not
            RAISE EXCEPTION 'the caps of these scopes do not come to rest' USING ERRCODE = 'serialization_failure';
        END IF;
        IF cardinality(p_named) > 0 THEN
            SELECT f.cap_ids, f.tenant_ids INTO newest, newest_tenants FROM newest_buckets(p_named_tenants, p_named) AS f;
        END IF;
        SELECT coalesce(bool_and(f.newest OR NOT f.needed), true), min(f.ends_at) FILTER (WHERE f.ord > 0),
            array_agg(f.ord), array_agg(f.cap_id),
            array_agg(f.tenant_id), array_agg(array_position(p_units, f.unit)),
            array_agg(f.scope_kind), array_agg(f.limit_amount),
            array_agg(f.unlimited), array_agg(f.ceiling),
            array_agg(f.reserved), array_agg(f.committed),
            array_agg(f.debt), array_agg(f.window_kind),
            array_agg(leg_head(f.cap_id, f.rolling_hours, f.carried_reserved + f.carried_committed + f.carried_debt, f.committed, f.debt,
                f.unlimited, f.limit_amount)),
            array_agg('","scope":[' || to_json(f.scope_kind) || ',' || to_json(f.scope_id) || '],"unit":' || to_json(f.unit) || CASE
                WHEN f.window_kind = 'total' THEN '}' ELSE ',"window":["' || f.window_kind || '",'
                    || floor(extract(epoch FROM f.starts_at) * 1000)::bigint || ','
                    || floor(extract(epoch FROM f.ends_at) * 1000)::bigint || ']}' END),
            array_agg(f.ends_at), array_agg(f.carried_reserved),
            array_agg(f.carried_committed), array_agg(f.carried_debt)
        INTO in_force, ended_at, ords, cap_ids, tenant_ids, unit_places, kinds, limits, unlimited, ceilings, reserved, committed, debts,
            windows, heads, tails, ends, carried_reserved, carried_committed, carried_debts
        FROM (SELECT * FROM (
            SELECT w.ord, w.needed, c.* FROM (
                SELECT u.tenant_id, u.cap_id, max(u.ord)::integer AS ord, bool_or(u.needed) AS needed FROM (
                    SELECT c.tenant_id, c.cap_id, s.ord, true AS needed FROM unnest(p_scopes) WITH ORDINALITY AS s (tenant_id, kind, scope_id, ord), LATERAL (
                        SELECT k.* FROM caps k
                        WHERE k.newest AND k.tenant_id = s.tenant_id AND k.scope_kind = s.kind AND k.scope_id = s.scope_id OFFSET 0) c
                    WHERE c.unit = ANY(p_units)
                    UNION ALL SELECT n.tenant_id, n.cap_id, 0, false FROM unnest(p_named_tenants, p_named) AS n (tenant_id, cap_id)
                    UNION ALL SELECT n.tenant_id, n.cap_id, 0, true FROM unnest(newest_tenants, newest) AS n (tenant_id, cap_id)) u
                GROUP BY 1, 2) w
            JOIN caps c ON c.tenant_id = w.tenant_id AND c.cap_id = w.cap_id ORDER BY c.cap_id FOR NO KEY UPDATE OF c) l
            ORDER BY l.ord, l.cap_id) f;
        CONTINUE WHEN NOT in_force; -- somebody has begun a new window meanwhile
        CONTINUE WHEN ( -- somebody has made a cap meanwhile
            SELECT count(*) FROM unnest(p_scopes) AS s, LATERAL (
                SELECT k.unit FROM caps k
                WHERE k.newest AND k.tenant_id = s.tenant_id AND k.scope_kind = s.kind AND k.scope_id = s.scope_id OFFSET 0) c
            WHERE c.unit = ANY(p_units)) <> coalesce(cardinality(ords) - cardinality(array_positions(ords, 0)), 0);
        EXIT WHEN coalesce(ended_at > clock_timestamp(), true);
        FOR i IN 1 .. cardinality(ords) LOOP
            IF ords[i] > 0 AND ends[i] <= clock_timestamp() THEN
                PERFORM roll_window(tenant_ids[i], cap_ids[i], clock_timestamp());
            END IF;
        END LOOP;
    END LOOP;
    first := array_fill(1, ARRAY[coalesce(cardinality(p_scopes), 0)]);
    last := array_fill(0, ARRAY[coalesce(cardinality(p_scopes), 0)]);
    FOR i IN 1 .. coalesce(cardinality(ords), 0) LOOP
        o := ords[i];
        CONTINUE WHEN o = 0;
        IF last[o] = 0 THEN first[o] := i; END IF;
        last[o] := i;
    END LOOP;
    carriers := CASE WHEN cardinality(newest) > 0 THEN carriers_of(tenant_ids, cap_ids) END;
END $$;

-- What a member does to its caps, one element a cap. One of these a member, for a slice of an array of all legs would copy all of it.
CREATE TYPE ledger_legs AS (
    cap_ids uuid[], reserved bigint[], committed bigint[], debts bigint[], limits bigint[], unlimited boolean[]
);

-- Limits -------------------------------------------------------------------------------------------------------------------

-- Sets a cap's limit, and makes the cap if need be. Raised, it pays off debt first; lowered, it stops new holds and never running ones:
-- then the ceiling is what is used already, and shrinks as holds settle. Of a rolling window, all buckets that count have the one limit.
CREATE FUNCTION set_limit(p_tenant_id uuid, p_kind text, p_scope_id text, p_unit text, p_window text, p_limit bigint, p_unlimited boolean,
    p_thresholds smallint[], p_actor text, p_reason text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    cap caps%ROWTYPE; zone text; room bigint; ids uuid[]; paid bigint[]; paid_older bigint; at timestamptz := clock_timestamp();
    hours smallint := CASE WHEN p_window ~ '^[0-9]' THEN rtrim(p_window, 'h')::smallint END;
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant_id]);
    IF NOT EXISTS (SELECT 1 FROM caps c WHERE c.newest AND c.tenant_id = p_tenant_id AND c.scope_kind = p_kind AND c.scope_id = p_scope_id
            AND c.unit = p_unit AND c.window_kind = p_window) THEN
        SELECT time_zone INTO STRICT zone FROM tenants WHERE tenant_id = p_tenant_id;
        INSERT INTO caps (tenant_id, cap_id, scope_kind, scope_id, unit, window_kind, rolling_hours, starts_at, ends_at, unlimited,
            limit_amount, ceiling)
        VALUES (p_tenant_id, new_id(), p_kind, p_scope_id, p_unit, p_window, hours, window_start(p_window, at, zone),
            window_end(p_window, at, zone), false, 0, 0)
        ON CONFLICT DO NOTHING; -- whichever of its unique indexes sees first that somebody else makes it
    END IF;
    LOOP
        PERFORM 1 FROM (SELECT c.cap_id FROM caps c WHERE c.tenant_id = p_tenant_id AND c.scope_kind = p_kind AND c.scope_id = p_scope_id
            AND c.unit = p_unit AND c.window_kind = p_window AND (c.newest OR c.starts_at > at - make_interval(hours => hours + 2))
            ORDER BY c.cap_id FOR NO KEY UPDATE) l;
        SELECT * INTO cap FROM caps c WHERE c.newest AND c.tenant_id = p_tenant_id AND c.scope_kind = p_kind AND c.scope_id = p_scope_id
            AND c.unit = p_unit AND c.window_kind = p_window FOR NO KEY UPDATE;
        CONTINUE WHEN NOT FOUND; -- somebody has begun a new window meanwhile
        EXIT WHEN cap.ends_at > clock_timestamp();
        PERFORM roll_window(p_tenant_id, cap.cap_id, clock_timestamp());
    END LOOP;
    room := greatest(p_limit - cap.carried_reserved - cap.carried_committed - cap.reserved - cap.committed, 0);
    -- the oldest debt that counts is paid off first
    SELECT array_agg(b.cap_id ORDER BY b.newest DESC, b.starts_at), array_agg(b.paid ORDER BY b.newest DESC, b.starts_at),
        coalesce(sum(b.paid) FILTER (WHERE NOT b.newest), 0)
    INTO ids, paid, paid_older FROM (
        SELECT c.cap_id, c.newest, c.starts_at, CASE WHEN p_unlimited THEN c.debt
            ELSE least(c.debt, greatest(room - (sum(c.debt) OVER (ORDER BY c.starts_at) - c.debt), 0))::bigint END AS paid
        FROM caps c WHERE c.tenant_id = p_tenant_id AND c.scope_kind = p_kind AND c.scope_id = p_scope_id AND c.unit = p_unit
            AND c.window_kind = p_window AND (c.newest OR c.ends_at > cap.starts_at - make_interval(hours => hours))) b;
    UPDATE caps c SET limit_amount = p_limit, unlimited = p_unlimited, committed = c.committed + w.paid, debt = c.debt - w.paid,
        carried_committed = c.carried_committed + w.carried, carried_debt = c.carried_debt - w.carried,
        ceiling = greatest(p_limit, c.carried_reserved + c.carried_committed + w.carried + c.reserved + c.committed + w.paid),
        thresholds = coalesce(p_thresholds, c.thresholds),
        -- what is not reached any more is told again when it is; what a lower limit has reached is told with what is used next
        threshold_passed = least(c.threshold_passed, reached_threshold(coalesce(p_thresholds, c.thresholds), p_unlimited, p_limit,
            c.carried_committed + c.carried_debt + c.committed + c.debt))
    FROM (SELECT u.cap_id, u.paid, CASE u.cap_id WHEN cap.cap_id THEN paid_older ELSE 0 END AS carried FROM unnest(ids, paid) AS u (cap_id, paid)) w
    WHERE c.tenant_id = p_tenant_id AND c.cap_id = w.cap_id;
    INSERT INTO journal (tenant_id, kind, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts, unlimited, actor, reason)
    VALUES (p_tenant_id, 'limit', ids, array_fill(0::bigint, ARRAY[cardinality(ids)]), paid,
        ARRAY(SELECT -x FROM unnest(paid) WITH ORDINALITY AS p (x, place) ORDER BY place), array_fill(p_limit, ARRAY[cardinality(ids)]),
        array_fill(p_unlimited, ARRAY[cardinality(ids)]), p_actor, p_reason);
    RETURN cap.cap_id;
END $$;
