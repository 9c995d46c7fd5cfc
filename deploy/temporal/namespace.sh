#!/bin/sh
# Makes the namespace of all runs, or sets how long an existing one keeps what has ended. Temporal may still be starting.
set -eu

tries=60
until temporal operator cluster health --address "$TEMPORAL_ADDRESS" >/dev/null 2>&1; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ]; then
        echo "error: Temporal at $TEMPORAL_ADDRESS does not answer" >&2
        exit 1
    fi
    sleep 1
done

if temporal operator namespace describe --address "$TEMPORAL_ADDRESS" --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1; then
    verb=update
else
    verb=create
fi
temporal operator namespace "$verb" --address "$TEMPORAL_ADDRESS" --namespace "$TEMPORAL_NAMESPACE" \
    --retention "$TEMPORAL_RETENTION"
