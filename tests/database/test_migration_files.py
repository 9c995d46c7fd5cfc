"""Every migration is of a kind that a live database survives; and what is not is noticed."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from holdfast.database.migrate import scripts_of, version_of
from holdfast.database.version import MIGRATIONS, newest_known

from .migration_lint import faults, faults_of_folder
from .synthetic import folder_with

STOPPING = {"0003"}
"""Migrations for which every process has to stop: each is a promise broken, and says why in its file."""


def test_no_migration_holds_a_live_database_up() -> None:
    assert faults_of_folder(MIGRATIONS) == []


def test_migrations_are_a_line_and_are_named_by_their_number() -> None:
    scripts = scripts_of(MIGRATIONS)
    revisions = [script.revision for script in scripts]
    assert all(re.fullmatch(r"\d{4}", each) for each in revisions)
    # programs compare them as texts; one that comes between others is put below those with a higher number, by their `down_revision`
    assert revisions == sorted(set(revisions))
    assert scripts[-1].revision == newest_known()
    for before, script in pairwise(scripts):
        assert script.down_revision == before.revision
        assert not hasattr(script.module, "downgrade"), "a schema never goes back"
        # programs of the version before work with it, unless it says otherwise: that is what a rolling upgrade needs
        assert version_of(script).oldest_program == getattr(script.module, "oldest_program", before.revision)
        stops = version_of(script).oldest_program == script.revision
        assert stops == (script.revision in STOPPING), "no upgrade may need every process to stop"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX x ON runs (created_at)",
        "CREATE UNIQUE INDEX x ON runs (created_at)",
        "DROP INDEX runs_open",
        "REINDEX TABLE runs",
        "ALTER TABLE runs ADD COLUMN x uuid DEFAULT gen_random_uuid()",
        "ALTER TABLE runs ADD COLUMN x timestamptz DEFAULT clock_timestamp()",
        "ALTER TABLE runs ADD COLUMN x bigserial",
        "ALTER TABLE runs ADD COLUMN x bigint GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE runs ADD COLUMN x integer NOT NULL",
        "ALTER TABLE runs ADD COLUMN x integer CHECK (x > 0)",
        "ALTER TABLE runs ADD COLUMN x uuid REFERENCES tenants",
        "ALTER TABLE runs ADD x integer UNIQUE",
        "ALTER TABLE runs ADD CONSTRAINT x CHECK (timeline_seq >= 0)",
        "ALTER TABLE runs ADD CHECK (timeline_seq >= 0)",
        "ALTER TABLE runs ADD CONSTRAINT x UNIQUE (created_at)",
        "ALTER TABLE runs ALTER COLUMN status TYPE varchar(20)",
        "ALTER TABLE runs ALTER status SET NOT NULL",
        "ALTER TABLE runs SET LOGGED",
        "ALTER TABLE runs DROP COLUMN status",
        "ALTER TABLE runs ADD COLUMN fine text, DROP COLUMN status",
        "ALTER TABLE runs RENAME COLUMN status TO state",
        "ALTER TABLE runs RENAME TO walks",
        "DROP TABLE runs",
        "DROP FUNCTION locate_run",
        "UPDATE runs SET status = 'paused'",
        "DELETE FROM runs",
        "TRUNCATE runs",
        "LOCK TABLE runs",
        "CLUSTER runs",
        "VACUUM FULL runs",
        "SET lock_timeout = 0",
        "DO $$ BEGIN EXECUTE 'DROP TABLE runs'; END $$",
        "ALTER TABLE runs ADD CONSTRAINT x CHECK (true) NOT VALID; ALTER TABLE runs VALIDATE CONSTRAINT x",
    ],
)
def test_what_would_hold_it_up_is_noticed(statement: str) -> None:
    assert faults(f"BEGIN;\n{statement};\nCOMMIT;", contracts=False)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE x (a uuid REFERENCES tenants); CREATE INDEX y ON x (a); ALTER TABLE x ADD CHECK (a IS NOT NULL)",
        "ALTER TABLE runs ADD COLUMN x jsonb NOT NULL DEFAULT '{}'",
        "ALTER TABLE runs ADD x text[]",
        "ALTER TABLE runs ADD COLUMN x timestamptz NOT NULL DEFAULT now(), ADD COLUMN y numeric(10, 2)",
        "ALTER TABLE runs ADD CONSTRAINT x CHECK (true) NOT VALID; COMMIT; ALTER TABLE runs VALIDATE CONSTRAINT x",
        "CREATE INDEX CONCURRENTLY x ON runs (created_at)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; DELETE FROM runs $$",
    ],
)
def test_what_does_not_is_allowed(statement: str) -> None:
    assert faults(f"BEGIN;\n{statement};\nCOMMIT;", contracts=False) == []


def test_what_old_programs_may_use_goes_only_with_a_word_on_who_still_works() -> None:
    assert faults("ALTER TABLE runs DROP COLUMN status", contracts=True) == []
    assert faults("ALTER TABLE runs ALTER COLUMN status TYPE text", contracts=True)


def test_a_bad_migration_in_the_folder_is_noticed() -> None:
    with folder_with('op.execute("CREATE INDEX x ON runs (created_at)")') as (folder, revision):
        [fault] = faults_of_folder(folder)
        assert re.match(f"{revision}: .*CREATE INDEX x", fault)
    with folder_with('online.create_index("x", "runs (created_at)")') as (folder, _):
        assert faults_of_folder(folder) == []
