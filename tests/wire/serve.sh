#!/bin/sh
# A complete Nocturne in the foreground for the suites of other clients: serve.sh PORT MODEL_PORT
# Agents of tests/wire/agents under http://127.0.0.1:PORT/genkit/, their model at MODEL_PORT.
# Data in $NOCTURNE_DATA (build/wire-data), which survives a restart. Programs of $BUILD (build).
# Prints `ready http://127.0.0.1:PORT` when all is up; SIGTERM and Ctrl-C stop everything.
set -eu
cd "$(dirname "$0")/../.."
[ $# -ge 2 ] || { sed -n '2,5s/^# //p' "$0"; exit 2; }
port=$1 model=$2
BUILD=${BUILD:-build}
data=${NOCTURNE_DATA:-build/wire-data}
unset NOCTURNE_DATA
mkdir -p "$data/agents"
chmod 755 "$data"
rm -f "$data/agents"/*.json "$data/tools.port"

tests/wire/agents/tools/server.py >"$data/tools.port" &
tools=$!
trap 'kill $tools $dev 2>/dev/null; wait $dev 2>/dev/null; exit 0' INT TERM
dev=
while [ ! -s "$data/tools.port" ]; do
    kill -0 $tools # it has failed: so do we
    sleep 0.05
done
for f in tests/wire/agents/*.json; do
    sed "s/127\.0\.0\.1:9099/127.0.0.1:$model/; s/127\.0\.0\.1:9098/127.0.0.1:$(cat "$data/tools.port")/" \
        "$f" >"$data/agents/$(basename "$f")"
done
"$BUILD/bin/nocturne" dev --data "$data/pg" --listen "127.0.0.1:$port" --agents "$data/agents" &
dev=$!
status=0
wait $dev || status=$?
kill $tools 2>/dev/null || :
exit $status
