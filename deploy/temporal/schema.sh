#!/bin/sh
# Brings the schemas of Temporal's two databases up to date. Run again it changes nothing. The databases themselves are made with
# the other roles (python -m holdfast.database.roles), so that this step needs no superuser.
set -eu

SQL_PASSWORD=$(cat "$SQL_PASSWORD_FILE")
export SQL_PASSWORD

bring_up_to_date() { # database, schema
    echo "bringing the schema of $1 up to date"
    temporal-sql-tool --db "$1" setup-schema --version 0.0
    temporal-sql-tool --db "$1" update-schema --schema-name "postgresql/v12/$2"
}

bring_up_to_date temporal temporal
bring_up_to_date temporal_visibility visibility
