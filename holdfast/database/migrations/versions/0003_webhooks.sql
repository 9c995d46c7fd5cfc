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
    body        bytea,                                      -- what is sent, the same at every attempt
    signed_s    bigint,                                     -- when the next attempt was signed; null until it is
    signature   bytea CHECK (length(signature) = 64),
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
GRANT UPDATE (public_key) ON webhooks TO holdfast_sweeper;
GRANT UPDATE (body, signed_s, signature) ON webhook_deliveries TO holdfast_sweeper;
GRANT INSERT, UPDATE (state, attempts, due_at, status, error, signed_s, ended_at) ON webhook_deliveries TO holdfast_definer;
GRANT UPDATE (disabled_at, disabled_reason) ON webhooks TO holdfast_definer;

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

-- What is due and not signed, or was signed too long ago for a receiver to believe it. Who signs sends nothing, and who sends has no key.
CREATE FUNCTION unsigned_deliveries(p_count integer, p_fresh_s bigint)
RETURNS TABLE (tenant_id uuid, delivery_id uuid, type text, run_id uuid, seq bigint, body bytea, now_s bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT d.tenant_id, d.delivery_id, d.type, d.run_id, d.seq, d.body, floor(extract(epoch FROM clock_timestamp()))::bigint
    FROM webhook_deliveries d JOIN webhooks w ON w.tenant_id = d.tenant_id AND w.webhook_id = d.webhook_id
    WHERE d.state = 'waiting' AND d.due_at <= clock_timestamp() AND w.disabled_at IS NULL AND w.removed_at IS NULL
      AND (d.signed_s IS NULL OR d.signed_s < extract(epoch FROM clock_timestamp()) - p_fresh_s)
    ORDER BY d.due_at LIMIT p_count
$$;

-- Webhooks whose receiver cannot know yet whose signature to expect, or is told another key than the one that signs.
CREATE FUNCTION unsigned_webhooks(p_public_key bytea) RETURNS TABLE (tenant_id uuid, webhook_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT w.tenant_id, w.webhook_id FROM webhooks w
    WHERE w.removed_at IS NULL AND w.public_key IS DISTINCT FROM p_public_key LIMIT 100
$$;

-- Takes what is due and signed, a few of each webhook, so that a slow receiver does not hold up the others. What is taken is due
-- again after the delay of its attempt, unless its end is written before: a sender that dies forgets nothing.
CREATE FUNCTION take_deliveries(p_count integer, p_each integer, p_busy uuid[], p_delays_ms bigint[], p_fresh_s bigint)
RETURNS TABLE (delivery_id uuid, webhook_id uuid, type text, attempts integer, url text, body bytea, signed_s bigint, signature bytea)
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH due AS (
        SELECT d.tenant_id, d.delivery_id, w.url, row_number() OVER (PARTITION BY d.tenant_id, d.webhook_id ORDER BY d.due_at, d.delivery_id) AS place
        FROM webhook_deliveries d JOIN webhooks w ON w.tenant_id = d.tenant_id AND w.webhook_id = d.webhook_id
        WHERE d.state = 'waiting' AND d.due_at <= clock_timestamp() AND w.disabled_at IS NULL AND w.removed_at IS NULL
          AND d.webhook_id <> ALL (p_busy) AND d.signed_s >= extract(epoch FROM clock_timestamp()) - p_fresh_s
    ), taken AS (
        SELECT d.tenant_id, d.delivery_id, due.url, d.signed_s FROM webhook_deliveries d JOIN due USING (tenant_id, delivery_id)
        -- asked again of the row as it is when it is locked: who was first has put `due_at` off
        WHERE due.place <= p_each AND d.state = 'waiting' AND d.due_at <= clock_timestamp() AND d.signed_s IS NOT NULL
        ORDER BY d.due_at LIMIT p_count FOR NO KEY UPDATE OF d SKIP LOCKED
    )
    UPDATE webhook_deliveries d SET attempts = d.attempts + 1, signed_s = NULL,
        due_at = clock_timestamp() + make_interval(secs => p_delays_ms[least(d.attempts + 1, cardinality(p_delays_ms))] / 1000.0)
    FROM taken WHERE d.tenant_id = taken.tenant_id AND d.delivery_id = taken.delivery_id
    RETURNING d.delivery_id, d.webhook_id, d.type, d.attempts, taken.url, d.body, taken.signed_s, d.signature
$$;

-- Writes what came of an attempt, if no later one was begun meanwhile. A receiver that has taken anything since this delivery was
-- queued is not gone; it only does not take this one.
CREATE FUNCTION end_attempt(p_delivery_id uuid, p_attempts integer, p_status integer, p_error text, p_state text, p_gone boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE d webhook_deliveries;
BEGIN
    UPDATE webhook_deliveries SET state = p_state, status = p_status, error = left(p_error, 300),
        ended_at = CASE WHEN p_state <> 'waiting' THEN clock_timestamp() END
    WHERE delivery_id = p_delivery_id AND attempts = p_attempts AND state = 'waiting' RETURNING * INTO d;
    IF NOT FOUND OR p_state <> 'given_up' THEN RETURN false; END IF;
    UPDATE webhooks w SET disabled_at = clock_timestamp(), disabled_reason = CASE WHEN p_gone THEN 'the receiver answered 410: it is gone'
            ELSE 'nothing was taken any more: ' || left(p_error, 300) END
    WHERE w.tenant_id = d.tenant_id AND w.webhook_id = d.webhook_id AND w.disabled_at IS NULL AND (p_gone OR NOT EXISTS (
        SELECT 1 FROM webhook_deliveries o WHERE o.tenant_id = d.tenant_id AND o.webhook_id = d.webhook_id AND o.state = 'delivered'
          AND o.ended_at > d.created_at));
    RETURN FOUND;
END $$;

REVOKE ALL ON FUNCTION queue_webhooks, unsigned_deliveries, unsigned_webhooks, take_deliveries, end_attempt FROM PUBLIC;
GRANT EXECUTE ON FUNCTION unsigned_deliveries, unsigned_webhooks TO holdfast_sweeper;
GRANT EXECUTE ON FUNCTION take_deliveries, end_attempt TO holdfast_executor;
GRANT CREATE ON SCHEMA public TO holdfast_definer;
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['queue_webhooks', 'unsigned_deliveries', 'unsigned_webhooks', 'take_deliveries', 'end_attempt'] LOOP
        EXECUTE format('ALTER FUNCTION %I OWNER TO holdfast_definer', name);
    END LOOP;
END $$;
REVOKE CREATE ON SCHEMA public FROM holdfast_definer;
