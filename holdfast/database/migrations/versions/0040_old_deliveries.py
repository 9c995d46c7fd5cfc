"""What became of a webhook's deliveries is kept for so many days, and not for ever.

Revision ID: 0040
Revises: 0039
"""

from __future__ import annotations

from alembic import op

from holdfast.database.online import create_index

revision = "0040"
down_revision = "0039"

_STATEMENTS = (
    "GRANT DELETE ON webhook_deliveries TO holdfast_definer",
    # Ended ones by their end. Those of a webhook that was removed wait for nobody any more.
    """
    CREATE FUNCTION forget_deliveries(p_days integer, p_count integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
        WITH old AS (
            (SELECT tenant_id, delivery_id FROM webhook_deliveries
             WHERE ended_at < clock_timestamp() - make_interval(days => p_days) ORDER BY ended_at LIMIT p_count)
            UNION
            (SELECT d.tenant_id, d.delivery_id FROM webhooks w
             JOIN webhook_deliveries d ON d.tenant_id = w.tenant_id AND d.webhook_id = w.webhook_id
             WHERE w.removed_at < clock_timestamp() - make_interval(days => p_days) LIMIT p_count)
        ), gone AS (
            DELETE FROM webhook_deliveries d USING old WHERE d.tenant_id = old.tenant_id AND d.delivery_id = old.delivery_id RETURNING 1
        )
        SELECT count(*) FROM gone
    $$
    """,
    "REVOKE ALL ON FUNCTION forget_deliveries FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION forget_deliveries TO holdfast_sweeper",
    "GRANT CREATE ON SCHEMA public TO holdfast_definer",
    "ALTER FUNCTION forget_deliveries OWNER TO holdfast_definer",
    "REVOKE CREATE ON SCHEMA public FROM holdfast_definer",
)


def upgrade() -> None:
    """Adds the right to delete and the function that uses it, and builds the indexes that it goes by while webhooks are sent."""
    for statement in _STATEMENTS:
        op.execute(statement)
    create_index("webhook_deliveries_ended", "webhook_deliveries (ended_at) WHERE ended_at IS NOT NULL")
    create_index("webhooks_removed", "webhooks (tenant_id, webhook_id) WHERE removed_at IS NOT NULL")
