"""The sequencer gives the facets of a batch with its numbers; the trigger computes those alone that it was not given.

One call of a function for each record had doubled what a number costs. What a numbered record is found by stays as it is.

Revision ID: 0029
Revises: 0028
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0029"
down_revision = "0028"

_STATEMENTS: Final = (
    # Both changes of triggers wait for writers that are under way, and hold up others for a moment: they look at no row.
    """
    CREATE OR REPLACE TRIGGER decisions_facets BEFORE UPDATE OF leaf_index ON decisions FOR EACH ROW
    WHEN (OLD.leaf_index IS NULL AND NEW.leaf_index IS NOT NULL AND NEW.facet_code IS NULL) EXECUTE FUNCTION keep_facets()
    """,
    """
    CREATE OR REPLACE FUNCTION refuse_refaceting() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'decision % has number % in the log and is found by what it was found by', OLD.decision_id, OLD.leaf_index
            USING ERRCODE = 'check_violation', CONSTRAINT = 'decisions_facets_stay', TABLE = 'decisions';
    END $$
    """,
    """
    CREATE OR REPLACE TRIGGER decisions_facets_stay
    BEFORE UPDATE OF facet_agent, facet_role, facet_tool, facet_rule, facet_code ON decisions FOR EACH ROW
    WHEN (OLD.leaf_index IS NOT NULL AND OLD.facet_code IS NOT NULL
        AND (NEW.facet_agent, NEW.facet_role, NEW.facet_tool, NEW.facet_rule, NEW.facet_code)
            IS DISTINCT FROM (OLD.facet_agent, OLD.facet_role, OLD.facet_tool, OLD.facet_rule, OLD.facet_code))
    EXECUTE FUNCTION refuse_refaceting()
    """,
    "REVOKE ALL ON FUNCTION refuse_refaceting FROM PUBLIC",
    "GRANT UPDATE (facet_agent, facet_role, facet_tool, facet_rule, facet_code) ON decisions TO holdfast_sweeper",
)


def upgrade() -> None:
    """Replaces the trigger; no row is read or written."""
    for statement in _STATEMENTS:
        op.execute(statement)
