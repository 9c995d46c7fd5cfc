-- What of the decision log may be personal, for how long it is kept, and who says that it must not go.
--
-- A record has salted hashes of personal values, and the values under a key that is made from the salt. The salt of a run stands here,
-- apart. Part A of a record may be deleted as a whole; its SHA-256, part B and the record's hash stay, so every proof does.

CREATE TABLE run_salts (
    tenant_id uuid NOT NULL,
    run_id    uuid NOT NULL,
    salt      bytea NOT NULL CHECK (length(salt) = 32),
    PRIMARY KEY (tenant_id, run_id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs
);

CREATE TABLE retention_settings (
    tenant_id   uuid PRIMARY KEY REFERENCES tenants,
    days        integer CHECK (days BETWEEN 1 AND 36500), -- null: for ever
    set_by      text NOT NULL,
    set_at      timestamptz NOT NULL DEFAULT now(),
    from_at     timestamptz NOT NULL DEFAULT '-infinity', -- what is older was deleted or is kept on purpose; where the next pass begins
    before      timestamptz,                              -- of the pass that is under way: what is older goes
    at          timestamptz NOT NULL DEFAULT '-infinity', -- how far it has come
    at_id       uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    kept_from   timestamptz,                              -- the oldest that it has left
    pass_records bigint NOT NULL DEFAULT 0,
    pass_kept   bigint NOT NULL DEFAULT 0,
    records     bigint NOT NULL DEFAULT 0,                -- deleted in all passes
    kept        bigint NOT NULL DEFAULT 0,                -- that the last pass had to leave: of runs that are open or on legal hold
    through     timestamptz,                              -- what is older than this the last pass has looked at
    finished_at timestamptz
);

CREATE TABLE legal_holds (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    legal_hold_id uuid NOT NULL,
    run_id        uuid,                                   -- null: on the whole tenant
    reason        text NOT NULL,
    placed_by     text NOT NULL,
    placed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    lifted_at     timestamptz,
    lifted_by     text NOT NULL DEFAULT '',
    lift_reason   text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, legal_hold_id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs
);

CREATE TABLE erasures (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    erasure_id uuid NOT NULL,
    user_id    uuid,                                      -- of this user's runs
    run_id     uuid,                                      -- of this run; neither: of the whole tenant
    reason     text NOT NULL,
    asked_by   text NOT NULL,
    asked_at   timestamptz NOT NULL DEFAULT clock_timestamp(), -- runs that were admitted later are not in it
    after      uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000', -- how far it has come
    runs       bigint NOT NULL DEFAULT 0,                 -- of which it has erased something
    records    bigint NOT NULL DEFAULT 0,
    held       bigint NOT NULL DEFAULT 0,                 -- runs that it left because of a legal hold
    open       bigint NOT NULL DEFAULT 0,                 -- runs that it left because they had not ended
    ended_at   timestamptz,
    PRIMARY KEY (tenant_id, erasure_id)
);

ALTER TABLE decisions ADD COLUMN part_a_sha256 bytea;      -- once part A was deleted
ALTER TABLE decisions ALTER COLUMN part_a DROP NOT NULL;
ALTER TABLE decisions ADD CONSTRAINT decisions_part_a CHECK ((part_a IS NULL) = (part_a_sha256 IS NOT NULL)) NOT VALID;
ALTER TABLE approvals ADD COLUMN action_digest bytea;      -- once personal values of the action were erased
ALTER TABLE approvals ADD COLUMN edited_digest bytea;

-- What was decided stays as it was decided; that personal values of it were erased does not change it.
CREATE OR REPLACE TRIGGER approvals_decided_once BEFORE UPDATE ON approvals FOR EACH ROW
    WHEN (OLD.verdict IS NOT NULL AND (NEW.verdict, NEW.binding, CASE WHEN NEW.action_digest IS NULL THEN NEW.edited_action END, NEW.revision,
            NEW.approver_role, NEW.decided_at)
        IS DISTINCT FROM (OLD.verdict, OLD.binding, CASE WHEN NEW.action_digest IS NULL THEN OLD.edited_action END, OLD.revision,
            OLD.approver_role, OLD.decided_at))
    EXECUTE FUNCTION refuse_redeciding();

-- INVARIANT: a record is never rewritten. Its part A may go as a whole once the log has it, and leaves its hash.
CREATE FUNCTION refuse_rewriting_record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what was evaluated in decision % is deleted as a whole or not at all', OLD.decision_id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'decisions_never_rewritten', TABLE = 'decisions';
END $$;
CREATE TRIGGER decisions_never_rewritten BEFORE UPDATE OF part_a, part_a_sha256 ON decisions FOR EACH ROW
    WHEN (NEW.part_a IS NOT NULL OR OLD.leaf_index IS NULL OR NEW.part_a_sha256 IS DISTINCT FROM coalesce(OLD.part_a_sha256, sha256(OLD.part_a)))
    EXECUTE FUNCTION refuse_rewriting_record();

-- Salts ------------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION new_salt() RETURNS bytea LANGUAGE sql VOLATILE AS
$$ SELECT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) $$;

CREATE FUNCTION salt_run() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO run_salts (tenant_id, run_id, salt) VALUES (NEW.tenant_id, NEW.run_id, new_salt());
    RETURN NULL;
END $$;
CREATE TRIGGER runs_salted AFTER INSERT ON runs FOR EACH ROW EXECUTE FUNCTION salt_run();

-- runs that were admitted before and still go on
CREATE OR REPLACE PROCEDURE fill_run_salts() LANGUAGE plpgsql AS $$
DECLARE tenants uuid[]; tenant uuid;
BEGIN
    SELECT array_agg(t.tenant_id) INTO tenants FROM list_tenants() t;
    FOREACH tenant IN ARRAY coalesce(tenants, '{}') LOOP
        PERFORM set_config('holdfast.tenant_id', tenant::text, true);
        INSERT INTO run_salts (tenant_id, run_id, salt) SELECT r.tenant_id, r.run_id, new_salt() FROM runs r
        WHERE r.tenant_id = tenant AND r.ended_at IS NULL ON CONFLICT DO NOTHING;
        COMMIT;
    END LOOP;
END $$;

-- Legal holds --------------------------------------------------------------------------------------------------------------------

-- INVARIANT: whoever places or lifts a legal hold and whoever takes something has this lock until the transaction ends. So once a hold
-- is committed nothing is taken any more, and what was taken before it is committed, too.
CREATE FUNCTION lock_retention(p_tenant uuid) RETURNS void LANGUAGE sql AS
$$ SELECT pg_advisory_xact_lock(hashtextextended(p_tenant::text || ' retention', 1)) $$;

CREATE FUNCTION on_legal_hold(p_tenant uuid, p_run uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM legal_holds l WHERE l.tenant_id = p_tenant AND l.lifted_at IS NULL AND (l.run_id IS NULL OR l.run_id = p_run))
$$;

-- Taking ---------------------------------------------------------------------------------------------------------------------------

-- Whether a run is over: it has ended, and its holds are settled.
CREATE FUNCTION run_is_over(p_tenant uuid, p_run uuid, p_before timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM runs r WHERE r.tenant_id = p_tenant AND r.run_id = p_run AND r.ended_at < p_before)
        AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.tenant_id = p_tenant AND h.run_id = p_run AND h.settled_at IS NULL)
$$;

-- Deletes a run's salt, and with it what is personal in its records; then the clear texts that stand beside them. Returns of how many
-- records, null if there was nothing to delete any more. The caller has the lock.
CREATE FUNCTION erase_run(p_tenant uuid, p_run uuid) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE erased bigint; sealed constant text := '"v":2}';
BEGIN
    DELETE FROM run_salts s WHERE s.tenant_id = p_tenant AND s.run_id = p_run;
    IF NOT FOUND THEN RETURN NULL; END IF;
    UPDATE decisions d SET reply = d.reply || '{"message": ""}'
    WHERE d.tenant_id = p_tenant AND d.run_id = p_run AND d.step IS NOT NULL AND convert_from(right_bytes(d.part_a, 6), 'UTF8') = sealed;
    GET DIAGNOSTICS erased = ROW_COUNT;
    UPDATE holds h SET action = convert_to((convert_from(d.part_a, 'UTF8')::json -> 'action')::text, 'UTF8') FROM decisions d
    WHERE h.tenant_id = p_tenant AND h.run_id = p_run AND d.tenant_id = p_tenant AND d.decision_id = h.decision_id
        AND convert_from(right_bytes(d.part_a, 6), 'UTF8') = sealed AND convert_from(h.action, 'UTF8')::json ->> 'salt' IS NOT NULL;
    UPDATE approvals a SET action_digest = sha256(a.action), edited_digest = sha256(a.edited_action),
        action = bare_action(a.action), edited_action = bare_action(a.edited_action)
    WHERE a.tenant_id = p_tenant AND a.run_id = p_run AND a.action_digest IS NULL AND convert_from(a.action, 'UTF8')::json ->> 'salt' IS NOT NULL;
    RETURN erased;
END $$;

CREATE FUNCTION right_bytes(p_value bytea, p_count integer) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT substr(p_value, greatest(length(p_value) - p_count + 1, 1)) $$;

-- An action without its arguments
CREATE FUNCTION bare_action(p_action bytea) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT convert_to('{"args":{},"kind":' || (convert_from(p_action, 'UTF8')::json -> 'kind')::text
        || coalesce(',"tool":' || (convert_from(p_action, 'UTF8')::json -> 'tool')::text, '') || '}', 'UTF8')
$$;

-- Takes part A away from records that have their number; what is left proves that they are in the log. The caller has the lock.
CREATE FUNCTION delete_parts(p_tenant uuid, p_run uuid, p_decisions uuid[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE deleted bigint;
BEGIN
    UPDATE decisions d SET part_a_sha256 = sha256(d.part_a), part_a = NULL, reply = d.reply || '{"message": ""}'
    WHERE d.tenant_id = p_tenant AND d.leaf_index IS NOT NULL AND d.part_a IS NOT NULL
        AND CASE WHEN p_run IS NULL THEN d.decision_id = ANY (p_decisions) ELSE d.run_id = p_run END;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

-- Goes on with an erasure: so many runs in one transaction.
CREATE FUNCTION erase_batch(p_tenant uuid, p_erasure uuid, p_count integer) RETURNS SETOF erasures
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE e erasures; r record; seen integer := 0; erased bigint;
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant]);
    PERFORM lock_retention(p_tenant);
    SELECT x.* INTO e FROM erasures x WHERE x.tenant_id = p_tenant AND x.erasure_id = p_erasure AND x.ended_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    FOR r IN SELECT u.run_id, on_legal_hold(p_tenant, u.run_id) AS held, run_is_over(p_tenant, u.run_id, 'infinity') AS over FROM runs u
        WHERE u.tenant_id = p_tenant AND u.run_id > e.after AND u.created_at <= e.asked_at
            AND (e.run_id IS NULL OR u.run_id = e.run_id) AND (e.user_id IS NULL OR u.user_id = e.user_id)
        ORDER BY u.run_id LIMIT p_count
    LOOP
        seen := seen + 1;
        e.after := r.run_id;
        IF r.held THEN
            e.held := e.held + 1;
        ELSIF NOT r.over THEN
            e.open := e.open + 1;
        ELSE
            erased := erase_run(p_tenant, r.run_id);
            e.runs := e.runs + CASE WHEN erased IS NULL THEN 0 ELSE 1 END;
            e.records := e.records + coalesce(erased, 0);
        END IF;
    END LOOP;
    IF seen < p_count THEN e.ended_at := clock_timestamp(); END IF;
    UPDATE erasures x SET after = e.after, runs = e.runs, records = e.records, held = e.held, open = e.open, ended_at = e.ended_at
    WHERE x.tenant_id = p_tenant AND x.erasure_id = p_erasure;
    RETURN NEXT e;
END $$;

-- Goes on with the pass over a tenant's records that are older than it keeps them, or begins one: so many records in one transaction,
-- and with one record of a run all of that run, so that what is left of it can still be checked as a whole.
CREATE FUNCTION retention_batch(p_tenant uuid, p_count integer) RETURNS SETOF retention_settings
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE s retention_settings; r record; seen integer := 0; alone uuid[] := '{}'; looked uuid; went boolean := false;
BEGIN
    PERFORM require_tenants(ARRAY[p_tenant]);
    PERFORM lock_retention(p_tenant);
    SELECT x.* INTO s FROM retention_settings x WHERE x.tenant_id = p_tenant FOR UPDATE;
    IF NOT FOUND OR s.days IS NULL THEN RETURN; END IF;
    IF s.before IS NULL THEN
        s.before := now() - make_interval(days => s.days);
        s.at := s.from_at; s.at_id := '00000000-0000-0000-0000-000000000000'; s.kept_from := NULL; s.pass_records := 0; s.pass_kept := 0;
    END IF;
    FOR r IN SELECT d.decision_id, d.run_id, d.created_at, d.part_a IS NULL AS is_gone FROM decisions d
        WHERE d.tenant_id = p_tenant AND d.leaf_index IS NOT NULL AND (d.created_at, d.decision_id) > (s.at, s.at_id) AND d.created_at < s.before
        ORDER BY d.created_at, d.decision_id LIMIT p_count
    LOOP
        seen := seen + 1;
        s.at := r.created_at; s.at_id := r.decision_id;
        IF r.run_id IS NULL THEN
            CONTINUE WHEN r.is_gone;
            IF on_legal_hold(p_tenant, NULL) THEN
                s.pass_kept := s.pass_kept + 1; s.kept_from := least(s.kept_from, r.created_at);
            ELSE
                alone := alone || r.decision_id;
            END IF;
            CONTINUE;
        END IF;
        IF looked IS DISTINCT FROM r.run_id THEN
            looked := r.run_id;
            went := NOT on_legal_hold(p_tenant, r.run_id) AND run_is_over(p_tenant, r.run_id, s.before)
                AND NOT EXISTS (SELECT 1 FROM decisions d WHERE d.tenant_id = p_tenant AND d.run_id = r.run_id AND d.leaf_index IS NULL);
            IF went THEN
                PERFORM erase_run(p_tenant, r.run_id);
                s.pass_records := s.pass_records + delete_parts(p_tenant, r.run_id, NULL);
            END IF;
        END IF;
        IF NOT went AND NOT r.is_gone THEN
            s.pass_kept := s.pass_kept + 1; s.kept_from := least(s.kept_from, r.created_at);
        END IF;
    END LOOP;
    s.pass_records := s.pass_records + delete_parts(p_tenant, NULL, alone);
    IF seen < p_count THEN
        -- what had no number yet is looked at again, too
        s.from_at := least(s.before, least(s.kept_from, (SELECT min(d.created_at) FROM decisions d
            WHERE d.tenant_id = p_tenant AND d.leaf_index IS NULL)) - interval '1 microsecond');
        s.through := s.before; s.before := NULL; s.finished_at := clock_timestamp();
        s.records := s.records + s.pass_records; s.kept := s.pass_kept;
    END IF;
    UPDATE retention_settings x SET from_at = s.from_at, before = s.before, at = s.at, at_id = s.at_id, kept_from = s.kept_from,
        pass_records = s.pass_records, pass_kept = s.pass_kept, records = s.records, kept = s.kept, through = s.through, finished_at = s.finished_at
    WHERE x.tenant_id = p_tenant;
    RETURN NEXT s;
END $$;

-- What the sweeper has to go on with, of all tenants
CREATE FUNCTION due_erasures(p_count integer) RETURNS TABLE (tenant_id uuid, erasure_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS
$$ SELECT e.tenant_id, e.erasure_id FROM erasures e WHERE e.ended_at IS NULL ORDER BY e.asked_at, e.erasure_id LIMIT p_count $$;

CREATE FUNCTION due_retention(p_count integer, p_every_s double precision) RETURNS TABLE (tenant_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT s.tenant_id FROM retention_settings s
    WHERE s.days IS NOT NULL AND (s.before IS NOT NULL OR s.finished_at IS NULL OR s.finished_at < now() - make_interval(secs => p_every_s))
    ORDER BY s.finished_at NULLS FIRST LIMIT p_count
$$;

-- Row-level security and rights ----------------------------------------------------------------------------------------------

ALTER TABLE run_salts ENABLE ROW LEVEL SECURITY;
ALTER TABLE run_salts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON run_salts USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY definer_all ON run_salts TO holdfast_definer USING (current_user = 'holdfast_definer') WITH CHECK (current_user = 'holdfast_definer');
ALTER TABLE retention_settings ENABLE ROW LEVEL SECURITY;
ALTER TABLE retention_settings FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON retention_settings USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY definer_all ON retention_settings TO holdfast_definer USING (current_user = 'holdfast_definer')
    WITH CHECK (current_user = 'holdfast_definer');
ALTER TABLE legal_holds ENABLE ROW LEVEL SECURITY;
ALTER TABLE legal_holds FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON legal_holds USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY definer_all ON legal_holds TO holdfast_definer USING (current_user = 'holdfast_definer') WITH CHECK (current_user = 'holdfast_definer');
ALTER TABLE erasures ENABLE ROW LEVEL SECURITY;
ALTER TABLE erasures FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON erasures USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY definer_all ON erasures TO holdfast_definer USING (current_user = 'holdfast_definer') WITH CHECK (current_user = 'holdfast_definer');

GRANT SELECT ON run_salts TO holdfast_api, holdfast_governor;
GRANT SELECT, INSERT, DELETE ON run_salts TO holdfast_definer;
GRANT SELECT ON retention_settings, legal_holds, erasures TO holdfast_api, holdfast_sweeper, holdfast_auditor, holdfast_definer;
GRANT INSERT (tenant_id, days, set_by), UPDATE (days, set_by, set_at, from_at, before, finished_at) ON retention_settings TO holdfast_api;
GRANT INSERT (tenant_id, legal_hold_id, run_id, reason, placed_by), UPDATE (lifted_at, lifted_by, lift_reason) ON legal_holds TO holdfast_api;
GRANT INSERT (tenant_id, erasure_id, user_id, run_id, reason, asked_by) ON erasures TO holdfast_api;
GRANT UPDATE ON retention_settings, erasures TO holdfast_definer;
GRANT UPDATE (reply, part_a, part_a_sha256) ON decisions TO holdfast_definer;
GRANT UPDATE (action) ON holds TO holdfast_definer;
GRANT UPDATE (action, edited_action, action_digest, edited_digest) ON approvals TO holdfast_definer;

REVOKE ALL ON FUNCTION refuse_rewriting_record, new_salt, salt_run, lock_retention, on_legal_hold, run_is_over, erase_run, right_bytes, bare_action, delete_parts,
    erase_batch, retention_batch, due_erasures, due_retention FROM PUBLIC;
REVOKE ALL ON PROCEDURE fill_run_salts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lock_retention, on_legal_hold TO holdfast_api;
GRANT EXECUTE ON FUNCTION erase_batch, retention_batch, due_erasures, due_retention TO holdfast_sweeper;
GRANT EXECUTE ON FUNCTION new_salt, lock_retention, on_legal_hold, run_is_over, erase_run, right_bytes, bare_action, delete_parts TO holdfast_definer;
GRANT CREATE ON SCHEMA public TO holdfast_definer;
ALTER FUNCTION salt_run OWNER TO holdfast_definer;
ALTER FUNCTION erase_batch OWNER TO holdfast_definer;
ALTER FUNCTION retention_batch OWNER TO holdfast_definer;
ALTER FUNCTION due_erasures OWNER TO holdfast_definer;
ALTER FUNCTION due_retention OWNER TO holdfast_definer;
REVOKE CREATE ON SCHEMA public FROM holdfast_definer;
