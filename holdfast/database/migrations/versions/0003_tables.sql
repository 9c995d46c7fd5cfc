-- The ledger's tables as its set-based functions use them. A hold carries its legs, the journal has one row a transition, in
-- partitions by month; caps have windows; stops and rollups are new. What was written before moves over; see the scripts beside this one.

-- Nobody of an older version may work from here on: what it would write meanwhile would be lost.
LOCK TABLE tenants, runs, caps, holds, hold_legs, journal IN ACCESS EXCLUSIVE MODE;
SET LOCAL statement_timeout = '1h';
-- the owner has no right to pass row-level security, so for the time of the move it is let through
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['tenants', 'runs', 'caps', 'holds', 'hold_legs', 'journal'] LOOP
        EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY', t);
    END LOOP;
END $$;

-- Holds -------------------------------------------------------------------------------------------------------------------

ALTER TABLE holds ADD COLUMN leg_cap_ids uuid[] NOT NULL DEFAULT '{}', ADD COLUMN leg_amounts bigint[] NOT NULL DEFAULT '{}';
UPDATE holds h SET leg_cap_ids = l.cap_ids, leg_amounts = l.amounts FROM (
    SELECT tenant_id, hold_id, array_agg(cap_id ORDER BY cap_id) AS cap_ids, array_agg(amount ORDER BY cap_id) AS amounts
    FROM hold_legs GROUP BY tenant_id, hold_id) l
WHERE h.tenant_id = l.tenant_id AND h.hold_id = l.hold_id;
ALTER TABLE holds ADD CONSTRAINT holds_legs_pair CHECK (cardinality(leg_cap_ids) = cardinality(leg_amounts) AND 0 <= ALL (leg_amounts));
DROP TABLE hold_legs;
CREATE VIEW hold_legs WITH (security_invoker = true) AS
    SELECT h.tenant_id, h.hold_id, l.cap_id, l.amount FROM holds h, unnest(h.leg_cap_ids, h.leg_amounts) AS l (cap_id, amount);

-- LAW 4, also for a faulty program: what is settled stays as it was settled
CREATE FUNCTION refuse_resettling() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'hold % is settled as %', OLD.hold_id, OLD.state
        USING ERRCODE = 'check_violation', CONSTRAINT = 'holds_settled_once', TABLE = 'holds';
END $$;
CREATE TRIGGER holds_settled_once BEFORE UPDATE ON holds FOR EACH ROW
WHEN (OLD.settled_at IS NOT NULL AND (NEW.state, NEW.settled_at, NEW.cost_nano_usd, NEW.leg_cap_ids, NEW.leg_amounts)
    IS DISTINCT FROM (OLD.state, OLD.settled_at, OLD.cost_nano_usd, OLD.leg_cap_ids, OLD.leg_amounts))
EXECUTE FUNCTION refuse_resettling();

-- Journal -----------------------------------------------------------------------------------------------------------------

ALTER TABLE journal RENAME TO journal_before;
ALTER TABLE journal_before RENAME CONSTRAINT journal_pkey TO journal_before_pkey;
DROP INDEX journal_cap, journal_reserve_once, journal_settle_once;

CREATE SEQUENCE journal_entry_id;
CREATE TABLE journal (
    tenant_id        uuid NOT NULL,
    entry_id         bigint NOT NULL DEFAULT nextval('journal_entry_id'),
    created_at       timestamptz NOT NULL DEFAULT now(),
    kind             text NOT NULL CHECK (kind IN ('limit', 'reserve', 'commit', 'void', 'expire')),
    hold_id          uuid,
    run_id           uuid,
    cap_ids          uuid[] NOT NULL,                   -- what follows is in the order of these
    reserved_deltas  bigint[] NOT NULL,
    committed_deltas bigint[] NOT NULL,
    debt_deltas      bigint[] NOT NULL,
    limit_amounts    bigint[] NOT NULL,                 -- the limits in force after this entry
    unlimited        boolean[] NOT NULL,
    cost_nano_usd    bigint,                            -- of a settlement: what it came to, also where no cap counts it
    tokens           bigint,
    calls            bigint,
    input_tokens     bigint,                            -- of the tokens: what went in; the rest came out
    cached_tokens    bigint,                            -- of what went in: what the provider read from its cache
    simulated        boolean,                           -- of a settlement: whether a simulated provider executed it
    day              date,                              -- of a settlement: in the tenant's time zone as it was then
    actor            text NOT NULL,
    reason           text NOT NULL,
    PRIMARY KEY (tenant_id, entry_id, created_at),
    CHECK (cardinality(cap_ids) = cardinality(reserved_deltas) AND cardinality(cap_ids) = cardinality(committed_deltas)
        AND cardinality(cap_ids) = cardinality(debt_deltas) AND cardinality(cap_ids) = cardinality(limit_amounts)
        AND cardinality(cap_ids) = cardinality(unlimited)),
    CHECK (kind = 'limit' OR hold_id IS NOT NULL)
) PARTITION BY RANGE (created_at);
CREATE INDEX journal_limits ON journal (tenant_id, (cap_ids[1]), entry_id) WHERE kind = 'limit';
CREATE TABLE journal_rest PARTITION OF journal DEFAULT;

-- What months that were taken away had added up to, cap by cap: balances stay provable without them
CREATE TABLE journal_sums (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    cap_id        uuid NOT NULL,
    through       timestamptz NOT NULL,                 -- the end of the newest month that is in the sums
    entries       bigint NOT NULL,
    reserved      bigint NOT NULL,
    committed     bigint NOT NULL,
    debt          bigint NOT NULL,
    last_entry_id bigint NOT NULL,
    limit_amount  bigint NOT NULL,                      -- as the newest of those entries left it
    unlimited     boolean NOT NULL,
    PRIMARY KEY (tenant_id, cap_id)
);

-- Which months those were, and what became of their entries: a file with this digest has them
CREATE TABLE journal_archives (
    tenant_id   uuid NOT NULL REFERENCES tenants,
    month       date NOT NULL,
    ends_at     timestamptz NOT NULL,
    entries     bigint NOT NULL,
    sha256      bytea NOT NULL CHECK (length(sha256) = 32),
    archived_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, month)
);

-- Months ahead; whoever writes into a month that nobody made writes into the rest, and loses nothing. Made late, a month takes its
-- entries out of the rest. Attached, not created in place: that would lock the whole journal, and so everybody, for a moment.
CREATE FUNCTION make_journal_partitions(p_from timestamptz, p_months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    first timestamptz := date_trunc('month', p_from, 'UTC');
    starts timestamptz; ends timestamptz; name text; attach text; made integer := 0;
BEGIN
    FOR month IN 0 .. p_months - 1 LOOP
        starts := ((first AT TIME ZONE 'UTC') + month * interval '1 month') AT TIME ZONE 'UTC';
        ends := ((first AT TIME ZONE 'UTC') + (month + 1) * interval '1 month') AT TIME ZONE 'UTC';
        name := 'journal_' || to_char(starts AT TIME ZONE 'UTC', 'YYYY_MM');
        CONTINUE WHEN to_regclass('public.' || name) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE journal INCLUDING ALL)', name);
        attach := format('ALTER TABLE journal ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, starts, ends);
        BEGIN
            EXECUTE attach;
        EXCEPTION WHEN check_violation THEN -- the rest has entries of this month
            LOCK TABLE journal_rest IN ACCESS EXCLUSIVE MODE;
            EXECUTE format('WITH moved AS (DELETE FROM journal_rest WHERE created_at >= %L AND created_at < %L RETURNING *)
                            INSERT INTO %I SELECT * FROM moved', starts, ends, name);
            EXECUTE attach;
        END;
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())', name);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Months of which there are entries in the rest
CREATE FUNCTION journal_strays() RETURNS TABLE (month timestamptz, entries bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS
$$ SELECT date_trunc('month', created_at, 'UTC'), count(*) FROM journal_rest GROUP BY 1 ORDER BY 1 $$;
SELECT make_journal_partitions(coalesce((SELECT min(created_at) FROM journal_before), now()),
    4 + 12 * (date_part('year', now())::integer - date_part('year', coalesce((SELECT min(created_at) FROM journal_before), now()))::integer)
    + date_part('month', now())::integer - date_part('month', coalesce((SELECT min(created_at) FROM journal_before), now()))::integer);

-- one row for what were as many as there were legs; the numbers of the first of them keep the order
INSERT INTO journal (tenant_id, entry_id, created_at, kind, hold_id, run_id, cap_ids, reserved_deltas, committed_deltas, debt_deltas,
                     limit_amounts, unlimited, cost_nano_usd, tokens, calls, actor, reason)
SELECT j.tenant_id, min(j.entry_id), min(j.created_at), min(j.kind), j.hold_id, (min(h.run_id::text))::uuid,
    array_agg(j.cap_id ORDER BY j.cap_id), array_agg(j.reserved_delta ORDER BY j.cap_id),
    array_agg(j.committed_delta ORDER BY j.cap_id), array_agg(j.debt_delta ORDER BY j.cap_id),
    array_agg(j.limit_amount ORDER BY j.cap_id), array_agg(j.unlimited ORDER BY j.cap_id),
    CASE WHEN min(j.kind) IN ('commit', 'void', 'expire') THEN coalesce(min(h.cost_nano_usd), 0) END,
    CASE WHEN min(j.kind) IN ('commit', 'void', 'expire') -- what no cap counted is not known any more
        THEN coalesce(max(j.committed_delta + j.debt_delta) FILTER (WHERE c.unit = 'tokens'), 0) END,
    CASE min(j.kind) WHEN 'commit' THEN CASE WHEN min(h.kind) = 'run.budget' THEN 0 ELSE 1 END WHEN 'void' THEN 0 WHEN 'expire' THEN 0 END,
    min(j.actor), min(j.reason)
FROM journal_before j JOIN caps c ON c.tenant_id = j.tenant_id AND c.cap_id = j.cap_id
LEFT JOIN holds h ON h.tenant_id = j.tenant_id AND h.hold_id = j.hold_id
GROUP BY j.tenant_id, j.hold_id, CASE WHEN j.hold_id IS NULL THEN j.entry_id END, CASE WHEN j.kind = 'reserve' THEN 0 ELSE 1 END
ORDER BY min(j.entry_id);
SELECT setval('journal_entry_id', greatest((SELECT coalesce(max(entry_id), 0) FROM journal_before), 1));
DROP TABLE journal_before;
-- a settlement has its row also where no cap counted it: the rollups equal the journal
INSERT INTO journal (tenant_id, created_at, kind, hold_id, run_id, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts,
                     unlimited, cost_nano_usd, tokens, calls, actor, reason)
SELECT tenant_id, settled_at, CASE state WHEN 'committed' THEN 'commit' WHEN 'voided' THEN 'void' ELSE 'expire' END, hold_id, run_id,
    '{}', '{}', '{}', '{}', '{}', '{}', coalesce(cost_nano_usd, 0), 0, CASE state WHEN 'committed' THEN 1 ELSE 0 END, settled_by,
    'moved from a journal that had no entry for what no cap counts'
FROM holds WHERE settled_at IS NOT NULL AND leg_cap_ids = '{}' ORDER BY settled_at, hold_id;

CREATE VIEW journal_legs WITH (security_invoker = true) AS
    SELECT j.tenant_id, j.entry_id, l.cap_id, j.hold_id, j.run_id, j.kind, l.reserved_delta, l.committed_delta, l.debt_delta,
        l.limit_amount, l.unlimited, j.actor, j.reason, j.created_at
    FROM journal j, unnest(j.cap_ids, j.reserved_deltas, j.committed_deltas, j.debt_deltas, j.limit_amounts, j.unlimited)
        AS l (cap_id, reserved_delta, committed_delta, debt_delta, limit_amount, unlimited);

-- Caps ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE caps ADD COLUMN newest boolean NOT NULL DEFAULT true, -- of the windows of one cap, the one in force or last in force
    ADD COLUMN thresholds smallint[] NOT NULL DEFAULT '{50,80,100}', -- percent; each is told once a window
    ADD COLUMN threshold_passed smallint NOT NULL DEFAULT 0;
ALTER TABLE caps DROP CONSTRAINT caps_scope_kind_check;
ALTER TABLE caps ADD CONSTRAINT caps_scope_kind_check
    CHECK (scope_kind IN ('tenant', 'project', 'user', 'run', 'role', 'user_project', 'user_role', 'project_role'));
ALTER TABLE caps ADD CONSTRAINT caps_thresholds_check CHECK (cardinality(thresholds) <= 10);
-- A unit never changes, so that it is looked at when it is written: a CHECK would do it again at every change of a balance.
CREATE FUNCTION refuse_unit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is no name of a unit', NEW.unit USING ERRCODE = 'check_violation', CONSTRAINT = 'caps_unit_check', TABLE = 'caps';
END $$;
ALTER TABLE caps DROP CONSTRAINT caps_unit_check;
CREATE TRIGGER caps_unit_check BEFORE INSERT OR UPDATE OF unit ON caps FOR EACH ROW
WHEN (NEW.unit !~ '^[a-z][a-z0-9_.-]{0,62}$') EXECUTE FUNCTION refuse_unit();
CREATE UNIQUE INDEX caps_newest ON caps (tenant_id, scope_kind, scope_id, unit, window_kind) WHERE newest;

-- A rolling window (`24h`) is kept in buckets, one row an hour, and counted conservatively: a bucket counts until it has wholly left, so
-- what counts changes with the hour and at no other moment. The newest bucket carries what the older ones that still count have.
ALTER TABLE caps ADD COLUMN rolling_hours smallint CHECK (rolling_hours BETWEEN 1 AND 744),
    ADD COLUMN carried_reserved bigint NOT NULL DEFAULT 0 CHECK (carried_reserved >= 0),
    ADD COLUMN carried_committed bigint NOT NULL DEFAULT 0 CHECK (carried_committed >= 0),
    ADD COLUMN carried_debt bigint NOT NULL DEFAULT 0 CHECK (carried_debt >= 0);
ALTER TABLE caps DROP CONSTRAINT caps_window_kind_check;
ALTER TABLE caps ADD CONSTRAINT caps_window_kind_check
    CHECK (CASE WHEN rolling_hours IS NULL THEN window_kind IN ('total', 'hour', 'day', 'month') ELSE window_kind = rolling_hours::text || 'h' END);
ALTER TABLE caps ADD CONSTRAINT caps_newest_carries
    CHECK ((newest AND rolling_hours IS NOT NULL) OR carried_reserved + carried_committed + carried_debt = 0);

-- LAW 3, with what is carried: not even a faulty program can overspend
ALTER TABLE caps DROP CONSTRAINT caps_check2;
ALTER TABLE caps ADD CONSTRAINT caps_within_ceiling
    CHECK (unlimited OR carried_reserved + carried_committed + reserved + committed <= ceiling);
DROP TRIGGER caps_no_overspend ON caps;
CREATE TRIGGER caps_no_overspend BEFORE UPDATE ON caps FOR EACH ROW
WHEN (NOT NEW.unlimited AND (
    (NEW.reserved > OLD.reserved AND NEW.carried_reserved + NEW.carried_committed + NEW.carried_debt
        + NEW.reserved + NEW.committed + NEW.debt > NEW.limit_amount)
    OR (NEW.carried_reserved + NEW.carried_committed + NEW.reserved + NEW.committed
            > OLD.carried_reserved + OLD.carried_committed + OLD.reserved + OLD.committed
        AND NEW.carried_reserved + NEW.carried_committed + NEW.reserved + NEW.committed > NEW.limit_amount)))
EXECUTE FUNCTION refuse_overspend();

CREATE INDEX caps_rolling ON caps (tenant_id) WHERE rolling_hours IS NOT NULL AND newest; -- a settlement asks whether there are any

-- What the buckets of a rolling cap have that are older than the one that begins then, and that still count in it
CREATE FUNCTION carried_over(p_cap caps, p_starts_at timestamptz, OUT reserved bigint, OUT committed bigint, OUT debt bigint)
LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(b.reserved), 0)::bigint, coalesce(sum(b.committed), 0)::bigint, coalesce(sum(b.debt), 0)::bigint FROM caps b
    WHERE b.tenant_id = p_cap.tenant_id AND b.scope_kind = p_cap.scope_kind AND b.scope_id = p_cap.scope_id AND b.unit = p_cap.unit
        AND b.window_kind = p_cap.window_kind AND b.ends_at > p_starts_at - make_interval(hours => p_cap.rolling_hours)
        -- no bucket is longer than an hour; said so that an index can tell
        AND b.starts_at < p_starts_at AND b.starts_at > p_starts_at - make_interval(hours => p_cap.rolling_hours + 1)
$$;

-- LAW 3, also for a program that rolls without carrying, or moves an older bucket and forgets the newest
CREATE FUNCTION require_carried() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE head caps%ROWTYPE; older record;
BEGIN
    SELECT * INTO head FROM caps c WHERE c.newest AND c.tenant_id = NEW.tenant_id AND c.scope_kind = NEW.scope_kind
        AND c.scope_id = NEW.scope_id AND c.unit = NEW.unit AND c.window_kind = NEW.window_kind;
    IF NOT FOUND THEN RETURN NULL; END IF; -- between two buckets; the next one is looked at when it is made
    SELECT * INTO older FROM carried_over(head, head.starts_at);
    IF (head.carried_reserved, head.carried_committed, head.carried_debt) IS DISTINCT FROM (older.reserved, older.committed, older.debt) THEN
        RAISE EXCEPTION 'cap % carries %, %, %; the older buckets have %, %, %', head.cap_id, head.carried_reserved, head.carried_committed,
            head.carried_debt, older.reserved, older.committed, older.debt
            USING ERRCODE = 'check_violation', CONSTRAINT = 'caps_carried', TABLE = 'caps';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER caps_carried_first AFTER INSERT ON caps FOR EACH ROW WHEN (NEW.rolling_hours IS NOT NULL) EXECUTE FUNCTION require_carried();
CREATE TRIGGER caps_carried AFTER UPDATE ON caps FOR EACH ROW
WHEN (NEW.rolling_hours IS NOT NULL AND (
    (NOT NEW.newest AND (NEW.reserved <> OLD.reserved OR NEW.committed <> OLD.committed OR NEW.debt <> OLD.debt))
    OR NEW.carried_reserved <> OLD.carried_reserved OR NEW.carried_committed <> OLD.carried_committed OR NEW.carried_debt <> OLD.carried_debt))
EXECUTE FUNCTION require_carried();

-- Decisions ----------------------------------------------------------------------------------------------------------------

-- runs' ids are unique by themselves; so this index serves a try's key whatever a planner knows of tenants
CREATE UNIQUE INDEX decisions_try ON decisions (run_id, step, try) WHERE superseded_at IS NULL AND step IS NOT NULL;
DROP INDEX decisions_key;
DROP INDEX decisions_newest; -- the primary key serves both directions

-- Runs and tenants are never deleted (no process may), and every writer of these rows has locked or changed its run's row before. To
-- look at the parent once more for each row costs a tenth of a reserve, and makes all decisions of all tenants share locks.
ALTER TABLE decisions DROP CONSTRAINT decisions_tenant_id_fkey;
ALTER TABLE holds DROP CONSTRAINT holds_tenant_id_run_id_fkey;
ALTER TABLE timeline_events DROP CONSTRAINT timeline_events_tenant_id_run_id_fkey;

-- To compress rows of two or three kilobytes takes a tenth of a reserve and saves little: it begins where a row would not fit a page.
ALTER TABLE decisions SET (toast_tuple_target = 8160);
ALTER TABLE holds SET (toast_tuple_target = 8160);

-- Emergency stops ----------------------------------------------------------------------------------------------------------

CREATE TABLE stops (
    tenant_id   uuid NOT NULL REFERENCES tenants,
    stop_id     uuid NOT NULL,
    scope_kind  text NOT NULL CHECK (scope_kind IN ('tenant', 'agent', 'role', 'tool')),
    scope_name  text NOT NULL,                          -- empty for the tenant
    reason      text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    actor       text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    lifted_at   timestamptz,
    lifted_by   text NOT NULL DEFAULT '',
    lift_reason text NOT NULL DEFAULT '' CHECK (length(lift_reason) <= 500),
    PRIMARY KEY (tenant_id, stop_id),
    CHECK ((scope_kind = 'tenant') = (scope_name = ''))
);
CREATE UNIQUE INDEX stops_active ON stops (tenant_id, scope_kind, scope_name) WHERE lifted_at IS NULL;

-- Rollups: written by what settles, in its transaction ----------------------------------------------------------------------

CREATE TABLE rollups (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    day           date NOT NULL,                        -- in the tenant's time zone, of the settlement
    run_id        uuid NOT NULL,
    kind          text NOT NULL,
    tool          text NOT NULL,
    model         text NOT NULL,
    project_id    uuid NOT NULL,
    user_id       uuid NOT NULL,
    agent         text NOT NULL,
    role          text NOT NULL,
    simulated     boolean NOT NULL DEFAULT false,       -- executed by a simulated provider: nobody sends a bill for it
    holds         bigint NOT NULL DEFAULT 0,
    calls         bigint NOT NULL DEFAULT 0,
    tokens        bigint NOT NULL DEFAULT 0,
    input_tokens  bigint NOT NULL DEFAULT 0,            -- of the tokens; the rest came out
    cached_tokens bigint NOT NULL DEFAULT 0,            -- of what went in
    cost_nano_usd bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, day, run_id, kind, tool, model, simulated)
);
CREATE INDEX rollups_run ON rollups (run_id);           -- what a run cost, however many days there are
UPDATE journal j SET day = (j.created_at AT TIME ZONE t.time_zone)::date, input_tokens = 0, cached_tokens = 0,
    simulated = coalesce((SELECT o.simulated FROM outcomes o WHERE o.tenant_id = j.tenant_id AND o.hold_id = j.hold_id), false)
FROM tenants t WHERE t.tenant_id = j.tenant_id AND j.kind IN ('commit', 'void', 'expire');
INSERT INTO rollups (tenant_id, day, run_id, kind, tool, model, simulated, project_id, user_id, agent, role, holds, calls, tokens, cost_nano_usd)
SELECT h.tenant_id, j.day, h.run_id, h.kind, h.tool, coalesce(h.estimate #>> '{prices_used,model}', ''), j.simulated, r.project_id, r.user_id,
    r.agent_name, r.role_name, count(*), sum(j.calls), sum(j.tokens), sum(j.cost_nano_usd)
FROM journal j JOIN holds h ON h.tenant_id = j.tenant_id AND h.hold_id = j.hold_id
JOIN runs r ON r.tenant_id = h.tenant_id AND r.run_id = h.run_id
WHERE j.kind = 'commit' AND h.kind <> 'run.budget'
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11;

-- Growth -------------------------------------------------------------------------------------------------------------------

-- Rows that every decision changes leave room on their page, so that the new version stands beside the old one and no index is
-- touched (HOT): caps' balances, runs' counters and rollups, a hold's state up to its settlement.
ALTER TABLE caps SET (fillfactor = 50);
ALTER TABLE runs SET (fillfactor = 70);
ALTER TABLE rollups SET (fillfactor = 70);
ALTER TABLE holds SET (fillfactor = 85);
-- Every settled hold leaves a dead entry in the index of open ones, which sweepers read; a fifth of all holds ever taken, as the default
-- has it, would be too many to wait for.
ALTER TABLE holds SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE runs SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
ALTER TABLE caps SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

-- Row-level security and rights ----------------------------------------------------------------------------------------------

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['tenants', 'runs', 'caps', 'holds'] LOOP
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['journal', 'journal_rest', 'journal_sums', 'journal_archives', 'stops', 'rollups'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant_only ON %I USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['caps', 'journal', 'journal_sums', 'decisions', 'timeline_events', 'transcript_entries', 'stops', 'rollups'] LOOP
        EXECUTE format('CREATE POLICY definer_all ON %I TO holdfast_definer USING (false) WITH CHECK (false)', t);
    END LOOP;
    -- who asks is looked up once a statement, and not once a row: so the question is a query of its own
    FOR t IN SELECT c.relname FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE p.polname = 'definer_all' LOOP
        EXECUTE format('ALTER POLICY definer_all ON %I USING ((SELECT current_user = ''holdfast_definer''))
                        WITH CHECK ((SELECT current_user = ''holdfast_definer''))', t);
    END LOOP;
END $$;

-- so that what is in the rest can be moved into its month; only the two functions above run as the owner
CREATE POLICY owner_all ON journal_rest TO CURRENT_USER USING (true) WITH CHECK (true);

-- The ledger is written by its functions and by nothing else: no process has a right on a balance, a hold or the journal.
REVOKE INSERT, UPDATE ON caps, holds FROM holdfast_api, holdfast_governor, holdfast_sweeper, holdfast_broker;
REVOKE UPDATE (limit_amount, unlimited, ceiling, reserved, committed, debt) ON caps FROM holdfast_api;
REVOKE UPDATE (state, cost_nano_usd, settled_at, settled_by) ON holds FROM holdfast_api;
REVOKE UPDATE (state, cost_nano_usd, unknown_at, settled_at, settled_by, superseded_at) ON holds FROM holdfast_governor, holdfast_sweeper;
REVOKE UPDATE (state, lease_hash, lease_expires_at) ON holds FROM holdfast_broker;
GRANT SELECT ON hold_legs, journal, journal_legs, journal_sums, journal_archives, stops, rollups
    TO holdfast_api, holdfast_governor, holdfast_sweeper, holdfast_auditor;
REVOKE UPDATE (superseded_at) ON decisions FROM holdfast_governor;
GRANT SELECT ON stops TO holdfast_broker;
GRANT UPDATE (time_zone) ON tenants TO holdfast_api;
GRANT INSERT, UPDATE (lifted_at, lifted_by, lift_reason) ON stops TO holdfast_api;
