"""An agent's vote is recorded with who its run is, at which step and gate it was given, as a person's is.

Subject is that of the decision that allowed the vote, byte for byte; why the agent voted so stands in that decision's action.
Records of votes that were given before stay as they are.

Revision ID: 0030
Revises: 0029
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0030"
down_revision = "0029"

_STATEMENT: Final = r"""
    CREATE OR REPLACE FUNCTION vote_by_hold(p_hold_id uuid, p_lease_token bytea)
    RETURNS TABLE (status text, state text, revision integer)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DECLARE h record; args jsonb; c record; part_a bytea; part_b bytea; decision uuid := new_id(); code text; said text; subject text;
    BEGIN
        SELECT o.tenant_id, o.run_id, o.action, o.decision_id, o.tool, r.agent_name, r.user_id INTO h FROM holds o
        JOIN runs r ON r.tenant_id = o.tenant_id AND r.run_id = o.run_id
        WHERE o.hold_id = p_hold_id AND o.state = 'executing' AND o.outward_at IS NOT NULL AND o.tool = 'approval.vote'
          AND o.lease_hash = sha256(p_lease_token) AND o.lease_expires_at > clock_timestamp();
        IF NOT FOUND THEN RETURN QUERY SELECT 'lease_lost', '', 0; RETURN; END IF;
        args := convert_from(h.action, 'UTF8')::jsonb -> 'args';
        SELECT * INTO c FROM cast_vote(h.tenant_id, (args ->> 'approval_id')::uuid, decode(args ->> 'binding', 'hex'), 'agent',
            h.agent_name, h.agent_name, h.user_id, '{}', h.run_id, 'run', args ->> 'verdict', args ->> 'reason', NULL, false, NULL,
            NULL, false);
        IF c.status = 'cast' THEN
            said := CASE args ->> 'verdict' WHEN 'approved' THEN 'allow' ELSE 'deny' END;
            code := CASE c.state WHEN 'pending' THEN 'approval.voted' ELSE 'approval.' || (args ->> 'verdict') END;
            -- json, unlike jsonb, keeps the bytes that were hashed
            SELECT (convert_from(d.part_a, 'UTF8')::json -> 'subject')::text INTO STRICT subject FROM decisions d
            WHERE d.tenant_id = h.tenant_id AND d.decision_id = h.decision_id;
            -- canonical bytes: keys in order, no spaces
            part_a := convert_to('{"facts":{"action_digest":"' || encode(sha256(c.action), 'hex') || '","agent":'
                || to_json(h.agent_name) || ',"binding":"' || encode(c.binding, 'hex') || '","decision_id":"' || h.decision_id
                || '","edited":' || (c.revision > 0)::text || ',"revision":' || c.revision || ',"rule":' || to_json(c.rule)
                || ',"run_id":"' || h.run_id || '","state":"' || c.state || '","step":' || c.step || ',"subject":' || subject
                || ',"verdict":"' || (args ->> 'verdict') || '","via":"run","voter":"agent"},"kind":"approval","v"\:1}', 'UTF8');
            part_b := convert_to('{"decision_id":"' || decision || '","hold_id"\:null,"legs":[],"reason_codes":["' || code
                || '"],"time_ms":' || floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
                || ',"v":' || '1,"verdict":"' || said || '"}', 'UTF8');
            INSERT INTO decisions (tenant_id, decision_id, run_id, kind, verdict, reason_codes, approval_id, reply, part_a, part_b,
                record_hash)
            VALUES (h.tenant_id, decision, c.run_id, 'approval', said, ARRAY[code], (args ->> 'approval_id')::uuid,
                jsonb_build_object('code', code, 'message', 'the agent ' || h.agent_name || ' has '
                    || (args ->> 'verdict') || ' step ' || c.step, 'rule_id', '', 'retryable', false, 'approval_expires_at', NULL),
                part_a, part_b, sha256('\x00'::bytea || sha256(part_a) || sha256(part_b)));
        END IF;
        RETURN QUERY SELECT c.status, c.state, c.revision;
    END $$
"""


def upgrade() -> None:
    """Replaces the function; its rights stay as they are."""
    op.execute(_STATEMENT)
