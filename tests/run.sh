#!/bin/sh
# Build under the sanitizers and run the tests: tests/run.sh [all|lint|unit|model|system|modes|fault|wire|counts] [NAME...]
# The last line is `N passed, N failed`. BUILD=build/san, counts: RELEASE=build; NAME... go to tests/system/run.py or tests/fault/run.py.
# `all` is this script once for each part. What only computes (counts, model) goes on beside what
# mostly waits (system), at the lowest priority; parts that measure (fault) have the machine alone.
set -u
cd "$(dirname "$0")/.." || exit 2
what=${1:-all}
[ $# -eq 0 ] || shift
BUILD=${BUILD:-build/san}
export BUILD
export UBSAN_OPTIONS=print_stacktrace=1
passed=0 failed=0 beside="" group=""
tmp=$(mktemp -d) || exit 2
trap 'rm -rf "$tmp"' EXIT
trap 'for group in $beside; do kill -- "-$group"; done; exit 2' INT TERM
exec </dev/null

outcome() { # outcome NAME STATUS: one test
    if [ "$2" = 0 ]; then
        echo "PASS $1"
        passed=$((passed + 1))
    else
        echo "FAIL $1"
        failed=$((failed + 1))
    fi
}
total() { # total FILE NAME: add up its last line; without one, something broke
    set -- "$(tail -1 "$1")" "$2"
    case $1 in
    [0-9]*' passed, '[0-9]*' failed')
        passed=$((passed + ${1%% *}))
        set -- "${1#* passed, }"
        failed=$((failed + ${1%% *}))
        ;;
    *) outcome "$2: it ended without a result" 1 ;;
    esac
}

# ---- the parts ----

part_lint() {
    tests/lint.sh
    outcome lint $?
}
part_counts() {
    if make -s -j"$(nproc)" BUILD="${RELEASE:=build}" all fakes benches; then
        BUILD=$RELEASE tests/bench/counts | tee "$tmp/counts"
        total "$tmp/counts" tests/bench/counts
    else
        outcome 'release build' 1
    fi
}
part_unit() {
    for source in tests/unit/test_*.c; do
        name=$(basename "$source" .c)
        ASAN_OPTIONS=detect_leaks=1 "$BUILD/tests/unit/$name" >"$tmp/unit" 2>&1
        status=$?
        good=$(sed -n 's/^\[  PASSED  ] \([0-9]*\) test(s)\..*/\1/p' "$tmp/unit" | head -1)
        bad=$(sed -n 's/^ *\[  FAILED  ] \([0-9]*\) test(s).*/\1/p' "$tmp/unit" | head -1)
        # a crash or a leak has no count of its own
        [ "$status" = 0 ] || [ "${bad:-0}" -gt 0 ] || bad=1
        [ "${good:-0}" -gt 0 ] || [ "${bad:-0}" -gt 0 ] || bad=1
        passed=$((passed + ${good:-0}))
        failed=$((failed + ${bad:-0}))
        echo "unit $name: ${good:-0} passed, ${bad:-0} failed"
        [ "${bad:-0}" = 0 ] || grep -v '^\[ *\(RUN\|OK\)' "$tmp/unit"
    done
}
part_model() {
    make -s BUILD="$BUILD" "$BUILD/tests/model"
    tests/model/run.sh "$BUILD/tests/model" >"$tmp/model" 2>&1
    cat "$tmp/model"
    total "$tmp/model" tests/model
}
part_system() {
    tests/system/run.py "$@" | tee "$tmp/system"
    total "$tmp/system" tests/system
}
part_modes() { # both at once, each with a PostgreSQL of its own; `--quick`: what tells most
    for mode in poll pgbouncer; do
        case ${1-}-$mode in
        --quick-poll) names='test_end_to_end test_turn_sessions test_rolling test_api.' ;;
        --quick-*) names='test_end_to_end test_turn_tools test_crash. test_api.' ;;
        *) names=$* ;;
        esac
        # shellcheck disable=SC2086 # names of tests have no spaces
        NOCTURNE_TEST_MODE=$mode JOBS=2 setsid tests/system/run.py $names >"$tmp/$mode" 2>&1 &
        beside="$beside $!"
    done
    wait
    for mode in poll pgbouncer; do
        echo "mode $mode"
        cat "$tmp/$mode"
        total "$tmp/$mode" "tests/system in the mode $mode"
    done
}
part_fault() {
    tests/fault/test_check.py | tee "$tmp/check"
    total "$tmp/check" tests/fault/test_check.py
    tests/fault/run.py --quick "$@" | tee "$tmp/fault"
    total "$tmp/fault" tests/fault
}
part_wire() { # all at once
    set --
    for script in tests/wire/*.sh; do
        case $script in */serve.sh | */npm.sh) continue ;; esac # genkit.sh calls them
        setsid "$script" "$BUILD" >"$tmp/$(basename "$script")" 2>&1 &
        beside="$beside $!"
        set -- "$@" "$script" "$!"
    done
    while [ $# -gt 0 ]; do
        wait "$2"
        status=$?
        out=$tmp/$(basename "$1")
        echo "wire $1"
        cat "$out"
        total "$out" "$1"
        # it may fail before or after it has counted
        [ "$status" = 0 ] || grep -q ' passed, [1-9][0-9]* failed$' "$out" || outcome "$1" 1
        shift 2
    done
    beside=
}

# ---- all of them, each a process of its own ----

tally() { # tally PART: it has ended
    total "$tmp/$1" "tests/run.sh $1"
    printf '%-6s %6s s   %s\n' "$1" "$(sed -n 's/^took \([0-9]*\) s$/\1/p' "$tmp/$1" | tail -1)" \
        "$(tail -1 "$tmp/$1")" >>"$tmp/table"
}
foreground() { # foreground PART [ARGUMENT...]
    echo "== $1"
    tests/run.sh "$@" | tee "$tmp/$1"
    tally "$1"
}
background() { # background PART: at the lowest priority; shown by ended()
    setsid nice -n 19 tests/run.sh "$1" >"$tmp/$1" 2>&1 &
    beside="$beside $!"
}
ended() { # ended PART...: all in the background
    wait
    beside=
    for part in "$@"; do
        echo "== $part"
        cat "$tmp/$part"
        tally "$part"
    done
}
part_all() {
    foreground lint
    foreground unit
    background model
    background counts
    foreground system "$@"
    ended model counts
    foreground modes --quick
    foreground wire
    foreground fault
    echo '== all'
    cat "$tmp/table"
}

began=$(date +%s)
case $what in
lint | counts) part_"$what" ;; # nothing of it needs the sanitizer build
all | unit | model | system | modes | fault | wire)
    if make -s -j"$(nproc)" SAN=1 BUILD="$BUILD" all units fakes; then
        part_"$what" "$@"
    else
        outcome build 1
    fi
    ;;
*) sed -n '2,5s/^# //p' "$0"; exit 2 ;;
esac
echo "took $(($(date +%s) - began)) s"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
