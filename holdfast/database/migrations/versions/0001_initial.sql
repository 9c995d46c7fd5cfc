-- Every table is tenant-scoped, with row-level security forced also on its owner (LAW 5). A transaction sees the rows of the
-- tenant that `holdfast.tenant_id` names and no others; without it, none. What must look across tenants (which tenant is
-- this key, this run, this hold of?) is a SECURITY DEFINER function of `holdfast_definer`, narrow and listed at the end.

CREATE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT nullif(current_setting('holdfast.tenant_id', true), '')::uuid $$;

-- Tenancy ---------------------------------------------------------------------------------------------------------------

CREATE TABLE tenants (
    tenant_id  uuid PRIMARY KEY,
    slug       text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    time_zone  text NOT NULL DEFAULT 'UTC',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE projects (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    project_id uuid NOT NULL,
    slug       text NOT NULL CHECK (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, project_id),
    UNIQUE (tenant_id, slug)
);

CREATE TABLE users (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    user_id    uuid NOT NULL,
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id),
    UNIQUE (tenant_id, name)
);

CREATE TABLE api_keys (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    key_id     uuid NOT NULL,
    user_id    uuid NOT NULL,
    project_id uuid NOT NULL,
    prefix     text NOT NULL,
    key_hash   bytea NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    roles      text[] NOT NULL CHECK (cardinality(roles) > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    PRIMARY KEY (tenant_id, key_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users,
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects
);

-- What runs, and what its role may do: every version is kept, a run is pinned to one -------------------------------------

CREATE TABLE roles (
    tenant_id   uuid NOT NULL REFERENCES tenants,
    name        text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    version     integer NOT NULL CHECK (version > 0),
    rules       jsonb NOT NULL,
    policy_hash bytea NOT NULL CHECK (length(policy_hash) = 32),
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name, version)
);

CREATE TABLE agents (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    name       text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    version    integer NOT NULL CHECK (version > 0),
    definition jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name, version)
);

CREATE TABLE runs (
    tenant_id        uuid NOT NULL REFERENCES tenants,
    run_id           uuid NOT NULL UNIQUE,
    project_id       uuid NOT NULL,
    user_id          uuid NOT NULL,
    agent_name       text NOT NULL,
    agent_version    integer NOT NULL,
    role_name        text NOT NULL,
    role_version     integer NOT NULL,
    parent_run_id    uuid,
    budget_hold_id   uuid,
    status           text NOT NULL DEFAULT 'pending'
                     CHECK (status IN ('pending', 'running', 'waiting', 'paused', 'succeeded', 'failed', 'cancelled', 'timed_out', 'terminated')),
    status_code      text NOT NULL DEFAULT '',
    status_message   text NOT NULL DEFAULT '',
    simulated        boolean NOT NULL DEFAULT false,
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,                       -- outbox: NULL until Temporal has accepted the workflow
    cancel_requested_at timestamptz,                    -- outbox, with cancel_signalled_at
    cancel_signalled_at timestamptz,
    deadline_at      timestamptz NOT NULL,
    ended_at         timestamptz,
    history_version  bigint NOT NULL DEFAULT 0,         -- bumped by whatever a decision may have read
    timeline_seq     bigint NOT NULL DEFAULT 0,         -- number of the newest timeline event: gapless
    history_digest   bytea,                             -- sha256 of the closed workflow's history
    PRIMARY KEY (tenant_id, run_id),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects,
    FOREIGN KEY (tenant_id, user_id) REFERENCES users,
    FOREIGN KEY (tenant_id, agent_name, agent_version) REFERENCES agents,
    FOREIGN KEY (tenant_id, role_name, role_version) REFERENCES roles
);
CREATE INDEX runs_newest ON runs (tenant_id, created_at DESC, run_id DESC);
CREATE INDEX runs_unstarted ON runs (created_at) WHERE started_at IS NULL AND ended_at IS NULL;
CREATE INDEX runs_open ON runs (created_at) WHERE ended_at IS NULL;
CREATE INDEX runs_undigested ON runs (ended_at) WHERE ended_at IS NOT NULL AND history_digest IS NULL;

CREATE TABLE run_inputs (
    tenant_id    uuid NOT NULL,
    run_id       uuid NOT NULL,
    seq          integer NOT NULL CHECK (seq > 0),
    mode         text NOT NULL CHECK (mode IN ('start', 'followup', 'steer', 'pause', 'resume')),
    content      text NOT NULL,
    user_id      uuid NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    signalled_at timestamptz,                           -- outbox
    PRIMARY KEY (tenant_id, run_id, seq),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs
);
CREATE INDEX run_inputs_unsignalled ON run_inputs (created_at) WHERE signalled_at IS NULL;

CREATE TABLE transcript_entries (
    tenant_id  uuid NOT NULL,
    run_id     uuid NOT NULL,
    entry_id   bytea NOT NULL CHECK (length(entry_id) = 32), -- sha256(parent_id || content): a hash chain
    parent_id  bytea CHECK (length(parent_id) = 32),
    depth      integer NOT NULL CHECK (depth > 0),
    content    bytea NOT NULL,                               -- canonical JSON
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, run_id, entry_id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs
);

CREATE TABLE timeline_events (
    tenant_id  uuid NOT NULL,
    run_id     uuid NOT NULL,
    seq        bigint NOT NULL CHECK (seq > 0),
    event_id   uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    channel    text NOT NULL,
    type       text NOT NULL,
    data       jsonb NOT NULL,
    PRIMARY KEY (tenant_id, run_id, seq),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs
);

-- Ledger: amounts are integers in the cap's unit; money in nano-dollars ---------------------------------------------------

CREATE TABLE caps (
    tenant_id   uuid NOT NULL REFERENCES tenants,
    cap_id      uuid NOT NULL,
    scope_kind  text NOT NULL CHECK (scope_kind IN ('tenant', 'project', 'user', 'run', 'role', 'user_project')),
    scope_id    text NOT NULL,
    unit        text NOT NULL CHECK (unit ~ '^[a-z][a-z0-9_.-]{0,62}$'),
    window_kind text NOT NULL DEFAULT 'total' CHECK (window_kind IN ('total', 'hour', 'day', 'month')),
    starts_at   timestamptz NOT NULL DEFAULT '-infinity',
    ends_at     timestamptz NOT NULL DEFAULT 'infinity',
    unlimited   boolean NOT NULL DEFAULT false,
    limit_amount bigint NOT NULL CHECK (limit_amount >= 0),
    ceiling     bigint NOT NULL,
    reserved    bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    committed   bigint NOT NULL DEFAULT 0 CHECK (committed >= 0),
    debt        bigint NOT NULL DEFAULT 0 CHECK (debt >= 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, cap_id),
    UNIQUE (tenant_id, scope_kind, scope_id, unit, window_kind, starts_at),
    CHECK (starts_at < ends_at),
    CHECK (ceiling >= limit_amount),
    -- LAW 3: not even a faulty program can overspend
    CHECK (unlimited OR reserved + committed <= ceiling)
);

-- The other half of LAW 3, which looks at the change: what is taken anew fits under the limit itself, not only under a
-- ceiling that a lowered limit left higher, and with the debt counted. (Paying off a debt moves it to committed.)
CREATE FUNCTION refuse_overspend() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'cap % would exceed its limit of %', NEW.cap_id, NEW.limit_amount
        USING ERRCODE = 'check_violation', CONSTRAINT = 'caps_no_overspend', TABLE = 'caps';
END $$;
CREATE TRIGGER caps_no_overspend BEFORE UPDATE ON caps FOR EACH ROW
WHEN (NOT NEW.unlimited AND (
    (NEW.reserved > OLD.reserved AND NEW.reserved + NEW.committed + NEW.debt > NEW.limit_amount)
    OR (NEW.reserved + NEW.committed > OLD.reserved + OLD.committed AND NEW.reserved + NEW.committed > NEW.limit_amount)))
EXECUTE FUNCTION refuse_overspend();

CREATE TABLE holds (
    tenant_id        uuid NOT NULL,
    hold_id          uuid NOT NULL UNIQUE,
    run_id           uuid NOT NULL,
    step             integer NOT NULL CHECK (step >= 0),
    try              integer NOT NULL CHECK (try >= 0),
    kind             text NOT NULL,
    tool             text NOT NULL DEFAULT '',
    idempotent       boolean NOT NULL,                  -- whether the action may be tried again when its outcome is unknown
    digest           bytea NOT NULL CHECK (length(digest) = 32),
    action           bytea NOT NULL,                    -- canonical JSON of exactly what may execute
    decision_id      uuid NOT NULL,
    state            text NOT NULL DEFAULT 'held'
                     CHECK (state IN ('held', 'executing', 'executed', 'committed', 'voided', 'expired', 'unknown')),
    max_cost_nano_usd bigint NOT NULL CHECK (max_cost_nano_usd >= 0),
    cost_nano_usd    bigint CHECK (cost_nano_usd >= 0),
    estimate         jsonb NOT NULL,                    -- prices and bounds the cost is settled with
    lease_ms         bigint NOT NULL CHECK (lease_ms > 0),
    created_at       timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz NOT NULL,
    lease_hash       bytea,                             -- sha256 of the fencing token of the one who redeemed
    lease_expires_at timestamptz,
    outward_at       timestamptz,                       -- set right before the request leaves; NULL = nothing went outside
    unknown_at       timestamptz,
    settled_at       timestamptz,
    settled_by       text NOT NULL DEFAULT '',
    superseded_at    timestamptz,
    PRIMARY KEY (tenant_id, hold_id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs,
    CHECK ((state IN ('committed', 'voided', 'expired')) = (settled_at IS NOT NULL)),
    CHECK (superseded_at IS NULL OR state IN ('voided', 'expired'))
);
CREATE UNIQUE INDEX holds_key ON holds (tenant_id, run_id, step, try) WHERE superseded_at IS NULL;
CREATE INDEX holds_open ON holds (expires_at) WHERE settled_at IS NULL;

CREATE TABLE hold_legs (
    tenant_id uuid NOT NULL,
    hold_id   uuid NOT NULL,
    cap_id    uuid NOT NULL,
    amount    bigint NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (tenant_id, hold_id, cap_id),
    FOREIGN KEY (tenant_id, hold_id) REFERENCES holds,
    FOREIGN KEY (tenant_id, cap_id) REFERENCES caps
);

CREATE TABLE journal (
    tenant_id       uuid NOT NULL,
    entry_id        bigint GENERATED ALWAYS AS IDENTITY,
    cap_id          uuid NOT NULL,
    hold_id         uuid,
    kind            text NOT NULL CHECK (kind IN ('limit', 'reserve', 'commit', 'void', 'expire', 'debt_paid')),
    reserved_delta  bigint NOT NULL DEFAULT 0,
    committed_delta bigint NOT NULL DEFAULT 0,
    debt_delta      bigint NOT NULL DEFAULT 0,
    limit_amount    bigint NOT NULL,                    -- the limit in force after this entry
    unlimited       boolean NOT NULL,
    actor           text NOT NULL,
    reason          text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, entry_id),
    FOREIGN KEY (tenant_id, cap_id) REFERENCES caps
);
CREATE INDEX journal_cap ON journal (tenant_id, cap_id, entry_id);
-- each hold is reserved once and settled once on each of its caps (LAW 4)
CREATE UNIQUE INDEX journal_reserve_once ON journal (tenant_id, hold_id, cap_id) WHERE kind = 'reserve';
CREATE UNIQUE INDEX journal_settle_once ON journal (tenant_id, hold_id, cap_id) WHERE kind IN ('commit', 'void', 'expire');

CREATE TABLE outcomes (
    tenant_id       uuid NOT NULL,
    hold_id         uuid NOT NULL,
    run_id          uuid NOT NULL,
    ok              boolean NOT NULL,
    error_code      text NOT NULL DEFAULT '',
    retryable       boolean NOT NULL DEFAULT false,
    retry_after_ms  bigint,
    cost_class      text NOT NULL CHECK (cost_class IN ('known', 'nothing', 'partial', 'unknown')),
    provider_request_id text NOT NULL DEFAULT '',
    simulated       boolean NOT NULL DEFAULT false,
    result          bytea NOT NULL,                     -- JSON: usage and what came back
    stored_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, hold_id),
    FOREIGN KEY (tenant_id, hold_id) REFERENCES holds
);

-- Decisions and approvals ------------------------------------------------------------------------------------------------

CREATE TABLE decisions (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    decision_id   uuid NOT NULL,
    run_id        uuid,
    step          integer,
    try           integer,
    kind          text NOT NULL,
    digest        bytea CHECK (length(digest) = 32),
    verdict       text NOT NULL CHECK (verdict IN ('allow', 'deny', 'needs_approval')),
    reason_codes  text[] NOT NULL,
    hold_id       uuid,
    approval_id   uuid,
    reply         jsonb NOT NULL,                       -- what the caller was told: the same key gets the same answer
    part_a        bytea NOT NULL,                       -- canonical bytes from Python: action, facts, trace, policy hash
    part_b        bytea NOT NULL,                       -- canonical bytes: verdict, legs, balances
    record_hash   bytea NOT NULL CHECK (length(record_hash) = 32),
    leaf_index    bigint,                               -- numbered later by the log's sequencer
    created_at    timestamptz NOT NULL DEFAULT now(),
    superseded_at timestamptz,
    PRIMARY KEY (tenant_id, decision_id)
);
CREATE UNIQUE INDEX decisions_key ON decisions (tenant_id, run_id, step, try) WHERE superseded_at IS NULL AND step IS NOT NULL;
CREATE INDEX decisions_newest ON decisions (tenant_id, decision_id DESC);
CREATE INDEX decisions_unnumbered ON decisions (tenant_id, decision_id) WHERE leaf_index IS NULL;

CREATE TABLE approvals (
    tenant_id        uuid NOT NULL,
    approval_id      uuid NOT NULL UNIQUE,
    run_id           uuid NOT NULL,
    step             integer NOT NULL,
    binding          bytea NOT NULL CHECK (length(binding) = 32), -- sha256 over policy hash, action digest, approver role, expiry
    action           bytea NOT NULL,                    -- canonical JSON shown to the approver
    edited_action    bytea,                             -- canonical JSON, if the approver edited the arguments
    rule             text NOT NULL,
    approver_role    text NOT NULL,
    max_cost_nano_usd bigint NOT NULL,
    requester_id     uuid NOT NULL,                     -- the requester cannot approve
    created_at       timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz NOT NULL,
    verdict          text CHECK (verdict IN ('approved', 'denied')),
    decided_by       uuid,
    decided_at       timestamptz,
    comment          text NOT NULL DEFAULT '',
    signalled_at     timestamptz,                       -- outbox
    consumed_by      uuid,                              -- the decision that used it: single use
    PRIMARY KEY (tenant_id, approval_id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs,
    CHECK ((verdict IS NULL) = (decided_at IS NULL))
);
CREATE INDEX approvals_unsignalled ON approvals (decided_at) WHERE decided_at IS NOT NULL AND signalled_at IS NULL;
CREATE INDEX approvals_pending ON approvals (tenant_id, approval_id) WHERE verdict IS NULL;

CREATE TABLE approval_tokens (
    tenant_id   uuid NOT NULL,
    token_hash  bytea NOT NULL CHECK (length(token_hash) = 32),
    approval_id uuid NOT NULL,
    user_id     uuid NOT NULL,
    verdict     text NOT NULL CHECK (verdict IN ('approved', 'denied')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz,
    PRIMARY KEY (tenant_id, token_hash),
    FOREIGN KEY (tenant_id, approval_id) REFERENCES approvals
);

CREATE TABLE vault_entries (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    name       text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,126}$'),
    nonce      bytea NOT NULL CHECK (length(nonce) = 12),
    ciphertext bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name)
);

CREATE TABLE idempotency_keys (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    operation  text NOT NULL,
    key        text NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    digest     bytea NOT NULL CHECK (length(digest) = 32),
    status     integer NOT NULL,
    body       jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, operation, key)
);
