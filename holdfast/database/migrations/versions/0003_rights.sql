-- Who may call the ledger's functions, and with whose rights they run.

GRANT SELECT, INSERT ON caps, holds, journal, decisions, approvals, rollups TO holdfast_definer;
GRANT UPDATE (newest, unlimited, limit_amount, ceiling, reserved, committed, debt, thresholds, threshold_passed,
    carried_reserved, carried_committed, carried_debt) ON caps TO holdfast_definer;
GRANT UPDATE (state, cost_nano_usd, lease_hash, lease_expires_at, outward_at, unknown_at, settled_at, settled_by, superseded_at) ON holds
    TO holdfast_definer;
GRANT UPDATE (superseded_at) ON decisions TO holdfast_definer; -- a record is never rewritten
GRANT UPDATE (consumed_by, expires_at) ON approvals TO holdfast_definer;
GRANT UPDATE (holds, calls, tokens, input_tokens, cached_tokens, cost_nano_usd) ON rollups TO holdfast_definer;
GRANT UPDATE (history_version, timeline_seq, status, simulated, budget_hold_id) ON runs TO holdfast_definer;
GRANT SELECT, INSERT ON timeline_events, transcript_entries TO holdfast_definer;
GRANT SELECT ON stops TO holdfast_definer;
GRANT USAGE ON SEQUENCE journal_entry_id TO holdfast_definer;
DO $$
DECLARE f regprocedure;
BEGIN
    FOR f IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.proname IN (
        'require_tenants', 'new_id', 'amount_text', 'window_start', 'window_end', 'roll_window', 'lock_caps', 'ledger_reserve', 'take_approval',
        'supersede_decisions', 'may_settle', 'ledger_settle', 'write_entries', 'lock_for_budget', 'take_budget', 'lock_for_return', 'return_budget',
        'due_returns', 'set_limit', 'active_stop', 'ledger_redeem', 'begin_outward_all', 'store_outcome_all', 'make_journal_partitions', 'journal_strays', 'refuse_resettling', 'refuse_unit',
        'carried_over', 'carriers_of', 'leg_head', 'lock_carriers', 'newest_buckets', 'reached_threshold', 'require_carried') LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO holdfast_definer', f);
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION ledger_reserve TO holdfast_governor;
GRANT EXECUTE ON FUNCTION ledger_settle, lock_for_return, return_budget TO holdfast_governor, holdfast_sweeper, holdfast_api;
GRANT EXECUTE ON FUNCTION lock_for_budget, take_budget, set_limit, window_start, window_end, reached_threshold TO holdfast_api;
GRANT EXECUTE ON FUNCTION due_returns TO holdfast_sweeper;
GRANT EXECUTE ON FUNCTION ledger_redeem TO holdfast_broker;
GRANT EXECUTE ON FUNCTION begin_outward_all, store_outcome_all TO holdfast_executor;
GRANT EXECUTE ON FUNCTION make_journal_partitions, journal_strays TO holdfast_sweeper;

GRANT CREATE ON SCHEMA public TO holdfast_definer;
DO $$
DECLARE f regprocedure;
BEGIN
    FOR f IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.proname IN (
        'ledger_reserve', 'ledger_settle', 'lock_for_budget', 'take_budget', 'lock_for_return', 'return_budget', 'due_returns', 'set_limit',
        'ledger_redeem', 'begin_outward', 'begin_outward_all', 'store_outcome_all') LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO holdfast_definer', f);
    END LOOP;
END $$;
REVOKE CREATE ON SCHEMA public FROM holdfast_definer;
