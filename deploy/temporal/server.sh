#!/bin/sh
# Starts Temporal's server from its image's own configuration, with the database's password from a file.
set -eu

POSTGRES_PWD=$(cat "$POSTGRES_PWD_FILE")
export POSTGRES_PWD

# listening everywhere, it has to be told under which address its own parts find each other
: "${TEMPORAL_BROADCAST_ADDRESS:=$(hostname -i | cut -d' ' -f1)}"
export TEMPORAL_BROADCAST_ADDRESS

exec temporal-server start
