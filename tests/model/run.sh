#!/bin/sh
# The model holds, finds what was planted, and speaks of the statements that there are:
# tests/model/run.sh PROGRAM. The last line is `N passed, N failed`.
set -u
cd "$(dirname "$0")/../.." || exit 2
model=$1
tmp=$(mktemp -d) || exit 2
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
outcome() { # outcome NAME STATUS
    if [ "$2" = 0 ]; then
        echo "PASS $1"
        passed=$((passed + 1))
    else
        echo "FAIL $1"
        failed=$((failed + 1))
    fi
}
# All writes of events, steps, calls and artifacts have one fence: the same words.
fence() {
    sed -n -e '/^with me as/,/^)/p' -e '/^where exists (select 1 from me)/,/= u.epoch$/p' \
        "sql/queries/$1.sql"
}
fenced='turn_append turn_step turn_call_claim turn_call_settle turn_artifact'

"$model" statements | sort >"$tmp/model"
{
    for file in sql/queries/turn_*.sql sql/queries/worker_*.sql sql/queries/lease_*.sql \
        sql/queries/due_*.sql; do
        basename "$file" .sql
    done
    echo task_submit
    echo task_abort
    echo task_retry
} >"$tmp/all"
# turn_load_bare: turn_load of less. turn_artifact: its fence is all there is to it. worker_session, worker_watch: what they tell
# worker_vanish, which the model lets happen whenever the worker is silent.
grep -vxE 'turn_load_bare|turn_artifact|worker_session|worker_watch' "$tmp/all" | sort >"$tmp/sql"
diff "$tmp/model" "$tmp/sql" >"$tmp/diff"
status=$?
[ "$status" = 0 ] || sed -n -e 's/^</only the model has/p' -e 's/^>/the model lacks/p' "$tmp/diff"
outcome 'model.every statement of turns, workers and leases is a transition, and no other' "$status"
fence turn_append >"$tmp/fence"
grep -c . "$tmp/fence" | grep -qx 6
outcome 'model.the fence is found' $?
for name in $fenced; do
    fence "$name" | diff "$tmp/fence" -
    outcome "model.$name has the fence of the model" $?
done
"$model" test >"$tmp/run"
cat "$tmp/run"
last=$(tail -1 "$tmp/run")
case $last in
*' passed, '*' failed')
    passed=$((passed + ${last%% *}))
    last=${last#* passed, }
    failed=$((failed + ${last%% *}))
    ;;
*) outcome 'model: it ended without a result' 1 ;;
esac
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
