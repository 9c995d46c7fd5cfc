-- The transparency log. What is in it stays as it is: no process may delete from it, and what would fork it is refused here, not by the
-- discipline of the sequencer.

CREATE TABLE logs (
    tenant_id  uuid PRIMARY KEY REFERENCES tenants,
    origin     text NOT NULL CHECK (length(origin) BETWEEN 1 AND 300 AND origin !~ '[[:space:]+]'),
    size       bigint NOT NULL DEFAULT 0 CHECK (size >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Tiles of C2SP's tlog-tiles as far as they are filled; level -1 has the entries, SHA-256(A) || SHA-256(B) of each record, which stay
-- when a record's payload is deleted.
CREATE TABLE log_tiles (
    tenant_id uuid NOT NULL REFERENCES logs,
    level     smallint NOT NULL CHECK (level BETWEEN -1 AND 7),
    index     bigint NOT NULL CHECK (index >= 0),
    data      bytea NOT NULL,
    PRIMARY KEY (tenant_id, level, index),
    CHECK (length(data) > 0 AND length(data) % (CASE level WHEN -1 THEN 64 ELSE 32 END) = 0
        AND length(data) <= 256 * (CASE level WHEN -1 THEN 64 ELSE 32 END))
);

CREATE TABLE log_checkpoints (
    tenant_id  uuid NOT NULL REFERENCES logs,
    size       bigint NOT NULL CHECK (size > 0),
    root       bytea NOT NULL CHECK (length(root) = 32),
    note       text NOT NULL CHECK (length(note) BETWEEN 1 AND 10000),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, size)                       -- two roots of one size are a fork
);

CREATE TABLE log_keys (
    tenant_id    uuid NOT NULL REFERENCES logs,
    public_key   bytea NOT NULL CHECK (length(public_key) = 32),
    first_size   bigint NOT NULL CHECK (first_size > 0),    -- size of the first checkpoint that it has signed
    added_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    retired_size bigint CHECK (retired_size >= 0),          -- no larger checkpoint is signed by it
    retired_at   timestamptz,
    PRIMARY KEY (tenant_id, public_key),
    CHECK ((retired_size IS NULL) = (retired_at IS NULL))
);

CREATE TABLE log_witnesses (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    vkey       text NOT NULL CHECK (length(vkey) BETWEEN 1 AND 400),
    added_by   text NOT NULL,
    added_at   timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz,
    PRIMARY KEY (tenant_id, vkey)
);

CREATE TABLE log_cosignatures (
    tenant_id  uuid NOT NULL,
    size       bigint NOT NULL,
    vkey       text NOT NULL,
    line       text NOT NULL CHECK (length(line) BETWEEN 1 AND 1000),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, size, vkey),
    FOREIGN KEY (tenant_id, size) REFERENCES log_checkpoints,
    FOREIGN KEY (tenant_id, vkey) REFERENCES log_witnesses
);

-- Every decision is numbered once, so its row is written twice.
ALTER TABLE decisions SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- What the store refuses -----------------------------------------------------------------------------------------------------

CREATE FUNCTION refuse_renumbering() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'decision % has number % in the log and keeps it', OLD.decision_id, OLD.leaf_index
        USING ERRCODE = 'check_violation', CONSTRAINT = 'decisions_numbered_once', TABLE = 'decisions';
END $$;
CREATE TRIGGER decisions_numbered_once BEFORE UPDATE OF leaf_index ON decisions FOR EACH ROW
    WHEN (OLD.leaf_index IS NOT NULL AND NEW.leaf_index IS DISTINCT FROM OLD.leaf_index) EXECUTE FUNCTION refuse_renumbering();

CREATE FUNCTION refuse_rollback() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log of tenant % has % records and cannot go back to %', OLD.tenant_id, OLD.size, NEW.size
        USING ERRCODE = 'check_violation', CONSTRAINT = 'logs_only_grow', TABLE = 'logs';
END $$;
CREATE TRIGGER logs_only_grow BEFORE UPDATE ON logs FOR EACH ROW
    WHEN (NEW.size < OLD.size OR NEW.origin <> OLD.origin OR NEW.tenant_id <> OLD.tenant_id) EXECUTE FUNCTION refuse_rollback();

CREATE FUNCTION refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'tile %/% only grows', OLD.level, OLD.index
        USING ERRCODE = 'check_violation', CONSTRAINT = 'log_tiles_only_grow', TABLE = 'log_tiles';
END $$;
CREATE TRIGGER log_tiles_only_grow BEFORE UPDATE ON log_tiles FOR EACH ROW
    WHEN (substr(NEW.data, 1, length(OLD.data)) <> OLD.data OR NEW.level <> OLD.level OR NEW.index <> OLD.index
          OR NEW.tenant_id <> OLD.tenant_id) EXECUTE FUNCTION refuse_rewriting();

-- A checkpoint is of the log as it is, larger than every one before, and over records that have each number up to its size once.
CREATE FUNCTION refuse_fork() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE log_size bigint; before bigint; numbered bigint;
BEGIN
    SELECT l.size INTO log_size FROM logs l WHERE l.tenant_id = NEW.tenant_id FOR UPDATE; -- one checkpoint after the other
    SELECT coalesce(max(c.size), 0) INTO before FROM log_checkpoints c WHERE c.tenant_id = NEW.tenant_id;
    IF log_size IS DISTINCT FROM NEW.size OR NEW.size <= before THEN
        RAISE EXCEPTION 'a checkpoint of % records does not follow one of %; the log has %', NEW.size, before, log_size
            USING ERRCODE = 'check_violation', CONSTRAINT = 'log_checkpoints_only_grow', TABLE = 'log_checkpoints';
    END IF;
    SELECT count(*) INTO numbered FROM decisions d
    WHERE d.tenant_id = NEW.tenant_id AND d.leaf_index >= before AND d.leaf_index < NEW.size;
    IF numbered <> NEW.size - before THEN
        RAISE EXCEPTION 'of the numbers % up to %, % are given to records', before, NEW.size, numbered
            USING ERRCODE = 'check_violation', CONSTRAINT = 'log_checkpoints_have_no_gap', TABLE = 'log_checkpoints';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER log_checkpoints_only_grow BEFORE INSERT ON log_checkpoints FOR EACH ROW EXECUTE FUNCTION refuse_fork();

-- Whose log has something to do: from tenant to tenant by the index, however many records wait.
CREATE FUNCTION due_logs() RETURNS TABLE (tenant_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH RECURSIVE due AS (
        (SELECT d.tenant_id FROM decisions d WHERE d.leaf_index IS NULL ORDER BY d.tenant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT d.tenant_id FROM decisions d WHERE d.leaf_index IS NULL AND d.tenant_id > due.tenant_id
                ORDER BY d.tenant_id LIMIT 1)
        FROM due WHERE due.tenant_id IS NOT NULL
    )
    SELECT due.tenant_id FROM due WHERE due.tenant_id IS NOT NULL
$$;

-- Row-level security and rights ----------------------------------------------------------------------------------------------

ALTER TABLE logs ENABLE ROW LEVEL SECURITY;
ALTER TABLE logs FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON logs USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
ALTER TABLE log_tiles ENABLE ROW LEVEL SECURITY;
ALTER TABLE log_tiles FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON log_tiles USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
ALTER TABLE log_checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE log_checkpoints FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON log_checkpoints USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
ALTER TABLE log_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE log_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON log_keys USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
ALTER TABLE log_witnesses ENABLE ROW LEVEL SECURITY;
ALTER TABLE log_witnesses FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON log_witnesses USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
ALTER TABLE log_cosignatures ENABLE ROW LEVEL SECURITY;
ALTER TABLE log_cosignatures FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON log_cosignatures USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
GRANT SELECT ON logs, log_tiles, log_checkpoints, log_keys, log_witnesses, log_cosignatures TO holdfast_api, holdfast_sweeper, holdfast_auditor;
GRANT INSERT, UPDATE (size) ON logs TO holdfast_sweeper;
GRANT INSERT, UPDATE (data) ON log_tiles TO holdfast_sweeper;
GRANT INSERT ON log_checkpoints TO holdfast_sweeper;
GRANT INSERT, UPDATE (retired_size, retired_at) ON log_keys TO holdfast_sweeper;
GRANT INSERT, UPDATE (removed_at) ON log_witnesses TO holdfast_api;
GRANT INSERT ON log_cosignatures TO holdfast_api;

REVOKE ALL ON FUNCTION due_logs, refuse_renumbering, refuse_rollback, refuse_rewriting, refuse_fork FROM PUBLIC;
GRANT EXECUTE ON FUNCTION due_logs TO holdfast_sweeper;
GRANT CREATE ON SCHEMA public TO holdfast_definer;
ALTER FUNCTION due_logs OWNER TO holdfast_definer;
REVOKE CREATE ON SCHEMA public FROM holdfast_definer;
