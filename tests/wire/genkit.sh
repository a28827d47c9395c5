#!/bin/sh
# The conformance suite of the genuine Genkit client against the programs of BUILD: genkit.sh BUILD
# The suite is $SHARED/conformance/genkit (../shared). Prints `N passed, N failed` last. Besides the
# suite's own switches: CHOP=1, through a proxy that splits answers at random bytes and delays them;
# APIS=1, through a balancer, while one of two api processes is stopped and started every 3 s.
set -eu
cd "$(dirname "$0")/../.."
BUILD=${1:-build/san}
suite=${SHARED:-../shared}/conformance/genkit
none() { echo "genkit: not run: $1"; echo '0 passed, 0 failed'; exit 0; }
for program in node npm; do command -v $program >/dev/null || none "$program is missing"; done
[ -d "$suite" ] || none "$suite is missing"

tmp=$(mktemp -d)
served= others=
stop() {
    for p in $others; do kill "$p" 2>/dev/null || :; done
    [ -z "$served" ] || { kill "$served" && wait "$served"; } 2>/dev/null || :
    rm -rf "$tmp"
}
trap stop EXIT
trap 'exit 2' INT TERM
chmod 755 "$tmp"
cp -r "$suite/." "$tmp/suite"
chmod -R u+w "$tmp/suite"
cp tests/wire/genkit/*.test.mjs "$tmp/suite/test/"
mkdir -p build/npm
cache=$(cd build/npm && pwd)
(cd "$tmp/suite" && npm ci --cache "$cache" --prefer-offline --no-audit --no-fund >"$tmp/npm" 2>&1) ||
    { tail -3 "$tmp/npm"; none 'npm ci has failed'; }

ports=$(/usr/bin/python3 -c 'import socket
s = [socket.socket() for _ in "abcd"]
for x in s: x.bind(("127.0.0.1", 0))
print(*(x.getsockname()[1] for x in s))')
set -- $ports
port=$1 model=$2 front=$3 second=$4
[ -z "${APIS-}" ] || export NOCTURNE_DRAIN=20s
NOCTURNE_DATA=$tmp/data BUILD=$BUILD ASAN_OPTIONS=detect_leaks=1:exitcode=99 \
    tests/wire/serve.sh "$port" "$model" >"$tmp/served" 2>&1 &
served=$!
for _ in $(seq 600); do
    grep -q '^ready' "$tmp/served" && break
    kill -0 $served 2>/dev/null || break
    sleep 0.1
done
grep -q '^ready' "$tmp/served" || { cat "$tmp/served"; echo '0 passed, 1 failed'; exit 1; }

# The second api comes and goes; the first is the child of `nocturne dev`, which starts it again.
child() { ps -eo pid=,ppid=,comm= | awk -v up="$1" -v name="$2" '$2 == up && $3 == name { print $1 }'; }
come_and_go() {
    db=postgresql://nocturne@$(echo "$tmp/data/pg/run" | sed 's,/,%2F,g')/postgres
    while :; do
        NOCTURNE_DATABASE=$db "$BUILD/bin/nocturne-api" --listen "127.0.0.1:$second" --drain 20s &
        api=$!
        trap 'kill $api || :; exit' TERM
        sleep 3 & wait $!
        first=$(child "$(child "$served" nocturne)" nocturne-api)
        [ -z "$first" ] || kill "$first" || :
        while [ -n "$first" ] && kill -0 "$first" 2>/dev/null; do sleep 0.2; done
        sleep 3 & wait $!
        kill $api || :
        wait $api || :
    done
}
base=$port
if [ -n "${APIS-}" ]; then
    come_and_go >"$tmp/second" 2>&1 &
    others=$!
    tests/wire/genkit/chop.py "$front" "$port" "$second" >"$tmp/chop" 2>&1 &
    others="$others $!" base=$front
    sleep 1
elif [ -n "${CHOP-}" ]; then
    tests/wire/genkit/chop.py "$front" "$port" >"$tmp/chop" 2>&1 &
    others=$! base=$front
    sleep 0.5
fi
status=0
(cd "$tmp/suite" && BASE_URL=http://127.0.0.1:$base/genkit MODEL_PORT=$model STRICT=${STRICT-1} \
    BEYOND=${BEYOND-1} AGENT_DURABLE=assistantDurable \
    SERVE_PID=$served TOOLS_URL=http://127.0.0.1:$(cat "$tmp/data/tools.port") \
    FLOW_URL=http://127.0.0.1:$base/genkit/counter node run.mjs) >"$tmp/out" 2>&1 || status=$?
awk '/^✖ failing tests/ { exit } /^✖/ { on = 1 } /^✔/ { on = 0 } on' "$tmp/out"
sed -n '/^file  /,$p' "$tmp/out"
line=$(grep '^total' "$tmp/out")
bad=$(echo "$line" | awk '{ print $4 }')
[ "$status" = 0 ] || [ "$bad" != 0 ] || bad=1
for p in $others; do kill "$p" 2>/dev/null || :; done
[ -z "${APIS-}" ] || echo "apis started: $(cat "$tmp/served" "$tmp/second" | grep -c 'prog=nocturne-api.*ready\|prog=api.*ready')"
kill "$served"
wait "$served" || :
served=
if grep -E 'Sanitizer|runtime error:' "$tmp/served" "$tmp"/second 2>/dev/null; then bad=$((bad + 1)); fi
echo "$(echo "$line" | awk '{ print $3 }') passed, $bad failed"
[ "$bad" = 0 ]
