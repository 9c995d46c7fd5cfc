-- What an approval consists of when more than one has to consent: votes, delegations, links, signers. All of it is appended to.

-- `revision` counts edits: a vote is for the revision that was shown. A request that was withdrawn is denied, with `withdrawn_at`.
ALTER TABLE approvals ADD COLUMN revision integer NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN escalated_at timestamptz;
ALTER TABLE approvals ADD COLUMN withdrawn_at timestamptz;
ALTER TABLE approvals ADD COLUMN decided_name text NOT NULL DEFAULT '';

-- The roles with which an approver got a token; null for tokens from before, which one role of a gate with one need allowed.
ALTER TABLE approval_tokens ADD COLUMN roles text[];

CREATE TABLE approval_votes (
    tenant_id   uuid NOT NULL,
    approval_id uuid NOT NULL,
    number      integer NOT NULL CHECK (number > 0),
    revision    integer NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('user', 'agent', 'signer')),
    voter       text NOT NULL,                          -- one vote each: a user's id, an agent's or a signer's name
    name        text NOT NULL,
    user_id     uuid,                                   -- of a user; of an agent, who started its run
    run_id      uuid,                                   -- of an agent: the run in which it voted
    roles       text[] NOT NULL,                        -- as whom, with what was delegated
    verdict     text NOT NULL CHECK (verdict IN ('approved', 'denied', 'withdrawn')),
    via         text NOT NULL CHECK (via IN ('api', 'token', 'link', 'run', 'signature')),
    reason      text NOT NULL,
    evidence    bytea CHECK (length(evidence) = 32),    -- sha256 of what was signed: it counts once
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, approval_id, number),
    FOREIGN KEY (tenant_id, approval_id) REFERENCES approvals,
    UNIQUE (tenant_id, approval_id, evidence)
);

CREATE TABLE approval_delegations (
    tenant_id    uuid NOT NULL,
    approval_id  uuid NOT NULL,
    number       integer NOT NULL CHECK (number > 0),
    from_user_id uuid NOT NULL,
    from_name    text NOT NULL,
    to_user_id   uuid,                                  -- null: taken back
    to_name      text NOT NULL,
    roles        text[] NOT NULL,                       -- what the one who delegates could have voted as
    reason       text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, approval_id, number),
    FOREIGN KEY (tenant_id, approval_id) REFERENCES approvals
);

CREATE TABLE approval_links (
    tenant_id   uuid NOT NULL,
    link_hash   bytea NOT NULL CHECK (length(link_hash) = 32), -- the link itself is stored nowhere
    approval_id uuid NOT NULL,
    user_id     uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz,
    PRIMARY KEY (tenant_id, link_hash),
    FOREIGN KEY (tenant_id, approval_id) REFERENCES approvals,
    FOREIGN KEY (tenant_id, user_id) REFERENCES users
);

CREATE TABLE signers (
    tenant_id   uuid NOT NULL REFERENCES tenants,
    signer_id   uuid NOT NULL,
    name        text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    public_key  bytea NOT NULL CHECK (length(public_key) = 32),
    description text NOT NULL CHECK (length(description) <= 200),
    actor       text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz,
    PRIMARY KEY (tenant_id, signer_id)
);
CREATE UNIQUE INDEX signers_in_force ON signers (tenant_id, name) WHERE revoked_at IS NULL;

ALTER TABLE approval_votes ENABLE ROW LEVEL SECURITY;
ALTER TABLE approval_votes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON approval_votes USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY definer_all ON approval_votes TO holdfast_definer USING (current_user = 'holdfast_definer')
    WITH CHECK (current_user = 'holdfast_definer');
ALTER TABLE approval_delegations ENABLE ROW LEVEL SECURITY;
ALTER TABLE approval_delegations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON approval_delegations USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY definer_all ON approval_delegations TO holdfast_definer USING (current_user = 'holdfast_definer')
    WITH CHECK (current_user = 'holdfast_definer');
ALTER TABLE approval_links ENABLE ROW LEVEL SECURITY;
ALTER TABLE approval_links FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON approval_links USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY definer_all ON approval_links TO holdfast_definer USING (current_user = 'holdfast_definer')
    WITH CHECK (current_user = 'holdfast_definer');
ALTER TABLE signers ENABLE ROW LEVEL SECURITY;
ALTER TABLE signers FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON signers USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());

GRANT SELECT ON approval_votes, approval_delegations TO holdfast_api, holdfast_governor, holdfast_sweeper, holdfast_auditor, holdfast_definer;
GRANT INSERT ON approval_votes, approval_delegations TO holdfast_definer;
GRANT SELECT, INSERT, UPDATE (used_at) ON approval_links TO holdfast_api;
GRANT SELECT ON approval_links TO holdfast_definer;
GRANT SELECT, INSERT, UPDATE (revoked_at) ON signers TO holdfast_api;
GRANT SELECT ON signers TO holdfast_auditor;
GRANT UPDATE (verdict, decided_by, decided_name, decided_at, comment, edited_action, binding, revision, signalled_at, escalated_at, withdrawn_at)
    ON approvals TO holdfast_definer;

-- Who approves has to be told, too, when a request has changed, is handed on, or nobody has answered.
CREATE OR REPLACE TRIGGER queue_webhooks AFTER INSERT ON timeline_events FOR EACH ROW
    WHEN (NEW.type IN ('approval.requested', 'approval.decided', 'approval.edited', 'approval.delegated', 'approval.escalated', 'hold.unknown',
        'hold.resolved', 'cap.threshold', 'run.waiting', 'run.ended'))
    EXECUTE FUNCTION queue_webhooks();
