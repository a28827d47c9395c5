#!/usr/bin/env bash
# make demo: one detached turn before your eyes, and one aborted while it streams.
#
# Everything is real: `nocturne dev` with a PostgreSQL of its own in a temporary folder, tools that
# are processes, a model over HTTP. The model is the scripted one of tests/fake, unless
# OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL name another. Each act is checked; the exit
# status is 0 only when all of it happened. BUILD=build names another build.
set -u
cd "$(dirname "$0")/.." || exit 2
bin=$PWD/${BUILD:-build}/bin
case ${BUILD:-} in /*) bin=$BUILD/bin ;; esac
nocturne=$bin/nocturne
modelsim=${bin%/bin}/tests/fake/modelsim
dev='' sim='' watcher='' bad=0 began=$SECONDS
tmp=$(mktemp -d /tmp/nocturne-demo.XXXXXX) || exit 2
chmod 755 "$tmp" # the user postgres must be able to come in, when root runs this

cleanup() {
    trap - EXIT INT TERM HUP
    [ -n "$watcher" ] && kill -KILL "$watcher" 2>/dev/null
    [ -n "$dev" ] && kill -TERM "$dev" 2>/dev/null && wait "$dev" 2>/dev/null
    [ -n "$sim" ] && kill -TERM "$sim" 2>/dev/null && wait "$sim" 2>/dev/null
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then b=$'\e[1m' g=$'\e[32m' r=$'\e[31m' d=$'\e[2m' n=$'\e[0m'
else b='' g='' r='' d='' n=''; fi
act() { printf '\n%s== %s%s\n' "$b" "$*" "$n"; }
say() { printf '%s\n' "$*"; }
cmd() { printf '%s$ nocturne %s%s\n' "$d" "$*" "$n"; }
indent() { fold -s -w 92 | sed 's/^/   /'; }
ok() { printf '%s   ok: %s%s\n' "$g" "$*" "$n"; }
fail() {
    printf '%s   FAILED: %s%s\n' "$r" "$*" "$n"
    bad=1
}
check() { # check WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then ok "$what"; else fail "$what"; fi
}
die() {
    fail "$*"
    [ -s "$tmp/dev.err" ] && tail -20 "$tmp/dev.err"
    exit 1
}
# expr of a JSON document on stdin, with `d` for the document
json() { /usr/bin/env python3 -c "import json,sys; d=json.load(sys.stdin); print($1)" 2>/dev/null; }
show() { "$nocturne" show "$1" --json | json "$2"; }
until_true() { # until_true SECONDS COMMAND...: poll a condition
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.05
    done
}
events_after() { [ "$(show "$1" "d['last_seq']")" -gt "$2" ]; } # events_after TASK SEQ

# ---- the stage ----

act 'Starting: PostgreSQL, migrations, scheduler, worker, api'
if [ -n "${OPENAI_BASE_URL:-}" ] && [ -n "${OPENAI_API_KEY:-}" ] && [ -n "${OPENAI_MODEL:-}" ]; then
    model_url=$OPENAI_BASE_URL model_name=$OPENAI_MODEL
    question='Which texts of the library speak of the lighthouse, and what do they say about its keeper? Look into all of them, and answer in about 150 words.'
    long='Do not use any tool. Write a story of at least 3000 words about a night in the lighthouse.'
    say "The model is $model_name at $model_url."
else
    "$modelsim" --port 0 >"$tmp/sim.out" 2>"$tmp/sim.err" &
    sim=$!
    until_true 10 grep -q listening "$tmp/sim.out" || die 'the scripted model does not start'
    model_url=$(sed -n 's/.*listening on \(http[^ ]*\).*/\1/p' "$tmp/sim.out") model_name=sim-1
    question='call list_files {"path":"."} then call read_file {"path":"lighthouse.txt"} and call read_file {"path":"letters/1953-10-15.txt"} then slow 40ms The light at Skerry Point was first lit on 3 October 1871, and three keepers lived there until it was made automatic in 1988. The last head keeper was Agnes Moray, who served for nineteen years and kept the log in green ink (lighthouse.txt). The letter of 15 October 1953 shows a Moray at work: the keepers counted redwings around the lamp until four in the morning, wrote down eleven hundred and thirty, turned the gallery lamps off so that the birds would not strike the glass, and asked for tea and green ink with the next ferry (letters/1953-10-15.txt). The other texts name the lighthouse only in passing.'
    long='stream 3000 tokens 20ms'
    say "The model is the scripted one at $model_url: it calls the tools and streams its answer word by word."
    say '(Set OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL to see another.)'
fi
mkdir "$tmp/agents"
MODEL_URL=$model_url MODEL_NAME=$model_name /usr/bin/env python3 - "$tmp/agents/librarian.json" <<'PY' || die 'the agent cannot be written'
import json, os, sys
with open("examples/agents/librarian.json") as f:
    agent = json.load(f)
agent["model"]["base_url"] = os.environ["MODEL_URL"]
agent["model"]["name"] = os.environ["MODEL_NAME"]
with open(sys.argv[1], "w") as f:
    json.dump(agent, f)
PY
cmd 'dev --agents examples/agents'
"$nocturne" dev --data "$tmp/data" --listen 127.0.0.1:0 --agents "$tmp/agents" \
    >"$tmp/dev.out" 2>"$tmp/dev.err" &
dev=$!
is_up() { grep -q '^ready ' "$tmp/dev.out" || ! kill -0 "$dev" 2>/dev/null; }
until_true 90 is_up
NOCTURNE_URL=$(sed -n 's/^ready //p' "$tmp/dev.out")
[ -n "$NOCTURNE_URL" ] || die 'nocturne dev does not come up'
export NOCTURNE_URL
say "ready $NOCTURNE_URL"
psql=$(ls -d /usr/lib/postgresql/*/bin/psql 2>/dev/null | tail -1)
psql=${psql:-psql}
sql() { "$psql" -X -q -At "$(cat "$tmp/data/database")" -c "$1"; }

# ---- act 1 ----

act 'Act 1: a turn is submitted; the answer is an id, at once'
cmd 'submit librarian "..."'
from=$(date +%s%N)
task=$("$nocturne" submit librarian "$question") || die 'submit'
took=$((($(date +%s%N) - from) / 1000000))
say "$task"
check "submit returned the id after $took ms and went away" test "$took" -lt 5000

act 'Act 2: a client watches for a moment, and leaves with Ctrl-C'
cmd "tail $task"
: >"$tmp/watch.out"
"$nocturne" tail "$task" >"$tmp/watch.out" 2>"$tmp/watch.err" &
watcher=$!
is_read() { [ "$(wc -c <"$tmp/watch.out")" -gt 60 ] || ! kill -0 "$watcher" 2>/dev/null; }
until_true 90 is_read || die 'no text came from the model'
kill -INT "$watcher"
wait "$watcher"
left=$?
watcher=''
cat "$tmp/watch.err" "$tmp/watch.out" | indent
check 'the client detached (exit status 130) and said how to come back' \
    test "$left" = 130 -a -n "$(grep -- '--after' "$tmp/watch.err")"
seen=$(show "$task" "d['last_seq']")
status=$(show "$task" "d['status']")
until_true 60 events_after "$task" "$seen"
check "nobody watches, and the turn goes on: it was $status at event $seen, now there are $(show "$task" "d['last_seq']")" \
    events_after "$task" "$seen"

act 'Act 3: another client replays the turn from its start and follows it to its end'
cmd "tail $task"
"$nocturne" tail "$task" 2>&1 | tee "$tmp/tail.txt" | indent
check 'tail ended with the turn, exit status 0' test "${PIPESTATUS[0]}" = 0
check 'the tools ran as processes and their results are in the stream' \
    grep -q '^<- read_file' "$tmp/tail.txt"
"$nocturne" tail "$task" --json >"$tmp/all.json"
middle=$(($(wc -l <"$tmp/all.json") / 2))
"$nocturne" tail "$task" --json --after "$middle" >"$tmp/rest.json"
dense() { /usr/bin/env python3 -c 'import json,sys; s=[json.loads(l)["seq"] for l in open(sys.argv[1])]; sys.exit(s != list(range(1, len(s) + 1)))' "$1"; }
check "$(wc -l <"$tmp/all.json") events, numbered without a gap" dense "$tmp/all.json"
check "from event $middle on, exactly the rest comes again" \
    cmp -s "$tmp/rest.json" <(tail -n +$((middle + 1)) "$tmp/all.json")

act 'Act 4: what is left of it'
cmd "show $task"
"$nocturne" show "$task" | grep -v '^input' | indent
check 'status completed' test "$(show "$task" "d['status']")" = completed
check 'it has an output' test -n "$(show "$task" "d['output']['text']")"
check 'it has its usage in tokens' test "$(show "$task" "d['usage']['output_tokens']")" -gt 0
check 'it took one attempt' test "$(show "$task" "len(d['attempts'])")" = 1
rows=$(sql "select (select count(*) from nocturne.chunk where task_id = '$task'),
    (select count(*) from nocturne.step where task_id = '$task'),
    (select count(*) from nocturne.snapshot where task_id = '$task'),
    (select count(*) from nocturne.done where task_id = '$task')")
IFS='|' read -r chunks steps snapshots finals <<<"$rows"
say "   in PostgreSQL: $chunks chunks of events, $steps steps, $snapshots snapshot, $finals final output"
check 'chunks, a snapshot and a final output are in the database' \
    test "${chunks:-0}" -gt 0 -a "${steps:-0}" -gt 0 -a "${snapshots:-0}" = 1 -a "${finals:-0}" = 1

# ---- act 5 ----

act 'Act 5: a long turn is aborted while it streams'
cmd 'submit librarian "..." --follow'
: >"$tmp/long.out"
"$nocturne" submit librarian "$long" --follow >"$tmp/long.out" 2>"$tmp/long.err" &
watcher=$!
is_flowing() { [ "$(wc -c <"$tmp/long.out")" -gt 300 ] || ! kill -0 "$watcher" 2>/dev/null; }
until_true 90 is_flowing || die 'the long turn does not stream'
task=$(sed -n 's/^task //p' "$tmp/long.err")
say "   it has streamed $(wc -c <"$tmp/long.out") bytes: $(head -c 60 "$tmp/long.out")..."
cmd "abort $task --reason 'seen enough'"
"$nocturne" abort "$task" --reason 'seen enough' 2>&1 | sed 's/^/   /'
wait "$watcher"
left=$?
watcher=''
cmd "show $task"
"$nocturne" show "$task" | cut -c 1-90 | indent
latency=$(show "$task" "round(d['abort']['latency_ms'])")
check 'the client that followed saw the end (exit status 5: aborted)' test "$left" = 5
check 'status aborted, with the reason' test \
    "$(show "$task" "d['status'] + ' ' + d['abort']['reason']")" = 'aborted seen enough'
check 'what had come is kept' test -n "$(show "$task" "d['output']['text']")"
check "from the request to the proof: ${latency:-?} ms" test "${latency:-9999}" -lt 2500
if [ -n "$sim" ]; then
    is_closed() {
        [ "$(curl -s "${model_url%/v1}/__sim/requests" |
            json "[r['status'] for r in (d['requests'] if isinstance(d, dict) else d)][-1]")" = client-closed ]
    }
    check 'the model saw its connection closed: nothing is paid for any longer' until_true 5 is_closed
fi

# ---- the end ----

act 'Ctrl-C: everything is drained and stopped, PostgreSQL last'
kill -INT "$dev"
wait "$dev"
left=$?
dev=''
check 'exit status 0' test "$left" = 0
left=$(pgrep -f "$tmp/data" | wc -l)
check 'no process is left' test "$left" = 0

printf '\n'
if [ "$bad" = 0 ]; then say "${b}All of it happened, in $((SECONDS - began)) s.$n"; else say "${r}Not all of it happened.$n"; fi
exit "$bad"
