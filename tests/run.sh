#!/bin/sh
# Build under the sanitizers and run the tests: tests/run.sh [all|lint|unit|model|system|modes|fault|wire|counts] [NAME...]
# The last line is `N passed, N failed`. BUILD=build/san, counts: RELEASE=build; NAME... go to tests/system/run.py or tests/fault/run.py.
set -u
cd "$(dirname "$0")/.." || exit 2
what=${1:-all}
[ $# -eq 0 ] || shift
BUILD=${BUILD:-build/san}
export BUILD
export UBSAN_OPTIONS=print_stacktrace=1
passed=0 failed=0
tmp=$(mktemp -d) || exit 2
trap 'rm -rf "$tmp"' EXIT
trap 'exit 2' INT TERM
exec </dev/null

case $what in all | lint | unit | model | system | modes | fault | wire | counts) ;; *) sed -n '2,3s/^# //p' "$0"; exit 2 ;; esac
runs() { [ "$what" = all ] || [ "$what" = "$1" ]; }
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

if runs lint; then
    tests/lint.sh
    outcome lint $?
fi
if runs counts; then
    if make -s -j"$(nproc)" BUILD="${RELEASE:=build}" all fakes benches; then
        BUILD=$RELEASE tests/bench/counts | tee "$tmp/counts"
        total "$tmp/counts" tests/bench/counts
    else
        outcome 'release build' 1
    fi
fi
if [ "$what" = lint ] || [ "$what" = counts ]; then
    : # nothing of it needs the sanitizer build
elif ! make -s -j"$(nproc)" SAN=1 BUILD="$BUILD" all units fakes; then
    outcome build 1
else
    if runs unit; then
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
    fi
    if runs model; then
        make -s BUILD="$BUILD" "$BUILD/tests/model"
        tests/model/run.sh "$BUILD/tests/model" >"$tmp/model" 2>&1
        cat "$tmp/model"
        total "$tmp/model" tests/model
    fi
    if runs system; then
        tests/system/run.py "$@" | tee "$tmp/system"
        total "$tmp/system" tests/system
    fi
    if runs modes; then
        for mode in poll pgbouncer; do # of `all`, what tells most; `modes` runs everything
            case $what-$mode in
            all-poll) names='test_end_to_end test_turn_sessions test_rolling test_api.' ;;
            all-*) names='test_end_to_end test_turn_tools test_crash. test_api.' ;;
            *) names=$* ;;
            esac
            echo "mode $mode"
            # shellcheck disable=SC2086 # names of tests have no spaces
            NOCTURNE_TEST_MODE=$mode tests/system/run.py $names | tee "$tmp/$mode"
            total "$tmp/$mode" "tests/system in the mode $mode"
        done
    fi
    if runs fault; then
        tests/fault/test_check.py | tee "$tmp/check"
        total "$tmp/check" tests/fault/test_check.py
        tests/fault/run.py --quick "$@" | tee "$tmp/fault"
        total "$tmp/fault" tests/fault
    fi
    if runs wire; then
        for script in tests/wire/*.sh; do
            case $script in */serve.sh | */npm.sh) continue ;; esac # genkit.sh calls them
            echo "wire $script"
            "$script" "$BUILD" >"$tmp/wire" 2>&1
            status=$?
            cat "$tmp/wire"
            total "$tmp/wire" "$script"
            # it may fail before or after it has counted
            [ "$status" = 0 ] || grep -q ' passed, [1-9][0-9]* failed$' "$tmp/wire" || outcome "$script" 1
        done
    fi
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
