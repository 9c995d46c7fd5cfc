-- Webhooks: who is told of what happens, and what is still to be told. A row is queued by the transaction in which it happens.

CREATE TABLE webhooks (
    tenant_id       uuid NOT NULL REFERENCES tenants,
    webhook_id      uuid NOT NULL,
    url             text NOT NULL CHECK (length(url) <= 2048),
    events          text[] NOT NULL CHECK (cardinality(events) BETWEEN 1 AND 20),
    description     text NOT NULL CHECK (length(description) <= 200),
    actor           text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    public_key      bytea CHECK (length(public_key) = 32),  -- of whoever signs; null until a sender has seen the webhook
    disabled_at     timestamptz,
    disabled_reason text NOT NULL DEFAULT '',
    removed_at      timestamptz,
    PRIMARY KEY (tenant_id, webhook_id)
);

CREATE TABLE webhook_deliveries (
    tenant_id   uuid NOT NULL,
    delivery_id uuid NOT NULL,
    webhook_id  uuid NOT NULL,
    type        text NOT NULL,
    run_id      uuid,                                       -- null for a test
    seq         bigint,
    created_at  timestamptz NOT NULL DEFAULT now(),
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'given_up')),
    attempts    integer NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT now(),
    status      integer,                                    -- HTTP status of the last answer
    error       text NOT NULL DEFAULT '' CHECK (length(error) <= 300),
    ended_at    timestamptz,
    PRIMARY KEY (tenant_id, delivery_id),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks,
    FOREIGN KEY (tenant_id, run_id, seq) REFERENCES timeline_events,
    CHECK ((state = 'waiting') = (ended_at IS NULL))
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (due_at) WHERE state = 'waiting';
CREATE INDEX webhook_deliveries_of ON webhook_deliveries (tenant_id, webhook_id, delivery_id DESC);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['webhooks', 'webhook_deliveries'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant_only ON %I USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())', t);
        EXECUTE format('CREATE POLICY definer_all ON %I TO holdfast_definer USING (current_user = ''holdfast_definer'')
                        WITH CHECK (current_user = ''holdfast_definer'')', t);
    END LOOP;
END $$;
GRANT SELECT ON webhooks, webhook_deliveries TO holdfast_api, holdfast_sweeper, holdfast_auditor, holdfast_definer;
GRANT INSERT, UPDATE (disabled_at, disabled_reason, removed_at) ON webhooks TO holdfast_api;
GRANT INSERT, UPDATE (state, attempts, due_at, ended_at) ON webhook_deliveries TO holdfast_api;
GRANT UPDATE (public_key, disabled_at, disabled_reason) ON webhooks TO holdfast_sweeper;
GRANT UPDATE (state, due_at, status, error, ended_at) ON webhook_deliveries TO holdfast_sweeper;
GRANT INSERT, UPDATE (attempts, due_at) ON webhook_deliveries TO holdfast_definer;

-- The condition of the trigger below is looked at for every event, this only where somebody may want to be told.
CREATE FUNCTION queue_webhooks() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO webhook_deliveries (tenant_id, delivery_id, webhook_id, type, run_id, seq)
    SELECT NEW.tenant_id, new_id(), w.webhook_id, NEW.type, NEW.run_id, NEW.seq
    FROM webhooks w WHERE w.tenant_id = NEW.tenant_id AND NEW.type = ANY (w.events) AND w.removed_at IS NULL AND w.disabled_at IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER queue_webhooks AFTER INSERT ON timeline_events FOR EACH ROW
    WHEN (NEW.type IN ('approval.requested', 'approval.decided', 'hold.unknown', 'hold.resolved', 'cap.threshold', 'run.waiting', 'run.ended'))
    EXECUTE FUNCTION queue_webhooks();

-- Takes what is due, a few of each webhook, so that a slow receiver does not hold up the others. What is taken is due again after
-- the delay of its attempt, unless its result is written before: a sender that dies forgets nothing.
CREATE FUNCTION due_deliveries(p_count integer, p_each integer, p_busy uuid[], p_delays_ms bigint[])
RETURNS TABLE (tenant_id uuid, delivery_id uuid, webhook_id uuid, type text, run_id uuid, seq bigint, attempts integer, url text)
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH due AS (
        SELECT d.tenant_id, d.delivery_id, row_number() OVER (PARTITION BY d.tenant_id, d.webhook_id ORDER BY d.due_at, d.delivery_id) AS place
        FROM webhook_deliveries d JOIN webhooks w ON w.tenant_id = d.tenant_id AND w.webhook_id = d.webhook_id
        WHERE d.state = 'waiting' AND d.due_at <= clock_timestamp() AND w.disabled_at IS NULL AND w.removed_at IS NULL
          AND d.webhook_id <> ALL (p_busy)
    ), taken AS (
        SELECT d.tenant_id, d.delivery_id FROM webhook_deliveries d JOIN due USING (tenant_id, delivery_id)
        WHERE due.place <= p_each AND d.state = 'waiting' AND d.due_at <= clock_timestamp()
        ORDER BY d.due_at LIMIT p_count FOR NO KEY UPDATE OF d SKIP LOCKED
    )
    UPDATE webhook_deliveries d SET attempts = d.attempts + 1,
        due_at = clock_timestamp() + make_interval(secs => p_delays_ms[least(d.attempts + 1, cardinality(p_delays_ms))] / 1000.0)
    FROM taken, webhooks w
    WHERE d.tenant_id = taken.tenant_id AND d.delivery_id = taken.delivery_id AND w.tenant_id = d.tenant_id AND w.webhook_id = d.webhook_id
    RETURNING d.tenant_id, d.delivery_id, d.webhook_id, d.type, d.run_id, d.seq, d.attempts, w.url
$$;

-- Webhooks whose receiver cannot know yet whose signature to expect, or is told another key than the one that signs.
CREATE FUNCTION unsigned_webhooks(p_public_key bytea) RETURNS TABLE (tenant_id uuid, webhook_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT w.tenant_id, w.webhook_id FROM webhooks w
    WHERE w.removed_at IS NULL AND w.public_key IS DISTINCT FROM p_public_key LIMIT 100
$$;

REVOKE ALL ON FUNCTION queue_webhooks, due_deliveries, unsigned_webhooks FROM PUBLIC;
GRANT EXECUTE ON FUNCTION due_deliveries, unsigned_webhooks TO holdfast_sweeper;
GRANT CREATE ON SCHEMA public TO holdfast_definer;
ALTER FUNCTION queue_webhooks OWNER TO holdfast_definer;
ALTER FUNCTION due_deliveries OWNER TO holdfast_definer;
ALTER FUNCTION unsigned_webhooks OWNER TO holdfast_definer;
REVOKE CREATE ON SCHEMA public FROM holdfast_definer;
