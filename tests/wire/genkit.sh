#!/bin/sh
# The conformance suite of the genuine Genkit client against the programs of BUILD: genkit.sh BUILD
# The suite is $SHARED/conformance/genkit (../shared). Prints `N passed, N failed` last. Besides the
# suite's own switches: CHOP=1, through a proxy that splits answers at random bytes and delays them;
# APIS=term, through a TCP balancer, while one of two api processes is stopped and started every 3 s;
# APIS=kill, through an HTTP balancer, while one of two is killed (-9) and started at any moment.
set -eu
cd "$(dirname "$0")/../.."
BUILD=${1:-build/san}
suite=${SHARED:-../shared}/conformance/genkit
if [ ! -d "$suite" ]; then # the project alone, without the shared folder
    echo "genkit: not run: $suite is missing"
    echo '0 passed, 0 failed'
    exit 0
fi
tests/wire/npm.sh || { echo '0 passed, 1 failed'; exit 1; }

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
ln -s "$(pwd)/build/npm/node_modules" "$tmp/suite/node_modules"

ports=$(/usr/bin/python3 -c 'import socket
s = [socket.socket() for _ in "abcde"]
for x in s: x.bind(("127.0.0.1", 0))
print(*(x.getsockname()[1] for x in s))')
set -- $ports
port=$1 model=$2 front=$3 second=$4 third=$5
case ${APIS-} in
term) export NOCTURNE_DRAIN=20s ;;
kill | '') ;;
*) echo "APIS=$APIS?"; exit 2 ;;
esac
NOCTURNE_DATA=$tmp/data BUILD=$BUILD ASAN_OPTIONS=detect_leaks=1:exitcode=99 \
    tests/wire/serve.sh "$port" "$model" >"$tmp/served" 2>&1 &
served=$!
for _ in $(seq 600); do
    grep -q '^ready' "$tmp/served" && break
    kill -0 $served 2>/dev/null || break
    sleep 0.1
done
grep -q '^ready' "$tmp/served" || { cat "$tmp/served"; echo '0 passed, 1 failed'; exit 1; }

# More apis than that of `nocturne dev`.
db=postgresql://nocturne@$(echo "$tmp/data/pg/run" | sed 's,/,%2F,g')/postgres
api() { # api PORT [SETTING...]
    at=$1
    shift
    NOCTURNE_DATABASE=$db exec "$BUILD/bin/nocturne-api" --listen "127.0.0.1:$at" "$@"
}
pause() { sleep "$(awk -v seed="$(od -An -N3 -tu4 /dev/urandom)" 'BEGIN { srand(seed); print 0.5 + 3 * rand() }')" & wait $!; }
die_and_rise() {
    api "$second" & a=$!
    api "$third" & b=$!
    trap 'kill $a $b || :; wait $a $b || :; exit' TERM
    while :; do
        pause
        kill -9 $a; wait $a || :
        api "$second" & a=$!
        pause
        kill -9 $b; wait $b || :
        api "$third" & b=$!
    done
}
# The second api comes and goes; the first is the child of `nocturne dev`, which starts it again.
child() { ps -eo pid=,ppid=,comm= | awk -v up="$1" -v name="$2" '$2 == up && $3 == name { print $1 }'; }
come_and_go() {
    while :; do
        api "$second" --drain 20s &
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
base=$port second_url= serve_pid=$served
if [ "${APIS-}" = kill ]; then
    die_and_rise >"$tmp/second" 2>&1 &
    others=$!
    tests/wire/genkit/balance.py "$front" "$second" "$third" >"$tmp/balance" 2>&1 &
    others="$others $!" base=$front serve_pid=
    sleep 1
elif [ -n "${APIS-}" ]; then
    come_and_go >"$tmp/second" 2>&1 &
    others=$!
    tests/wire/genkit/chop.py "$front" "$port" "$second" >"$tmp/chop" 2>&1 &
    others="$others $!" base=$front
    sleep 1
else
    api "$second" >"$tmp/second" 2>&1 &
    others=$! second_url=http://127.0.0.1:$second/genkit
    if [ -n "${CHOP-}" ]; then
        tests/wire/genkit/chop.py "$front" "$port" >"$tmp/chop" 2>&1 &
        others="$others $!" base=$front
    fi
    sleep 0.5
fi
status=0
(cd "$tmp/suite" && BASE_URL=http://127.0.0.1:$base/genkit MODEL_PORT=$model STRICT=${STRICT-1} \
    BEYOND=${BEYOND-1} AGENT_DURABLE=assistantDurable \
    SERVE_PID=$serve_pid SECOND_URL=$second_url TOOLS_URL=http://127.0.0.1:$(cat "$tmp/data/tools.port") \
    FLOW_URL=http://127.0.0.1:$base/genkit/counter node run.mjs) >"$tmp/out" 2>&1 || status=$?
# Each file says its failures once more behind `failing tests`.
awk '/^✔/ { on = again = 0 } /^✖/ { on = 1 } /^✖ failing tests/ { again = 1 } on && !again' "$tmp/out"
grep '^# .* ms$' "$tmp/out" || :
sed -n '/^file  /,$p' "$tmp/out"
line=$(grep '^total' "$tmp/out")
bad=$(echo "$line" | awk '{ print $4 }')
[ "$status" = 0 ] || [ "$bad" != 0 ] || bad=1
for p in $others; do kill "$p" 2>/dev/null || :; done
wait $others || :
[ -z "${APIS-}" ] || echo "apis started: $(cat "$tmp/served" "$tmp/second" | grep -c 'prog=nocturne-api.*ready\|prog=api.*ready')"
[ ! -e "$tmp/balance" ] || tail -1 "$tmp/balance"
kill "$served"
wait "$served" || :
served=
if grep -E 'Sanitizer|runtime error:' "$tmp/served" "$tmp"/second 2>/dev/null; then bad=$((bad + 1)); fi
echo "$(echo "$line" | awk '{ print $3 }') passed, $bad failed"
[ "$bad" = 0 ]
