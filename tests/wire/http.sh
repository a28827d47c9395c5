#!/bin/sh
# The HTTP and WebSocket server against hostile peers: conformance/http/traps.py (about 50 s), the
# fuzzer (FUZZ_SECONDS, default 20; FUZZ_SEED) and test_httpd.py, all against the probe of BUILD.
# Usage: tests/wire/http.sh [BUILD]; SHARED=../shared. SLOW=1 adds the checks that take a minute.
set -u
cd "$(dirname "$0")/../.." || exit 2
build=${1:-build/san}
suite=${SHARED:-../shared}/conformance/http
probe=$build/tests/fake/httpd_probe
python=/usr/bin/python3
passed=0 failed=0

[ -x "$probe" ] || make -s SAN=1 BUILD="$build" "$probe" || exit 2
tmp=$(mktemp -d) || exit 2
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null; fi; rm -rf "$tmp"' EXIT
trap 'exit 2' INT TERM

# Freed memory waits in a quarantine of 256 MB by default, which checks of memory would take for
# growth. Leaks are looked for whenever a probe ends.
export ASAN_OPTIONS=quarantine_size_mb=1:malloc_context_size=5:detect_leaks=1
export UBSAN_OPTIONS=print_stacktrace=1

free_port() {
    $python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
outcome() { # outcome NAME STATUS: one more check
    if [ "$2" = 0 ]; then
        echo "PASS $1"
        passed=$((passed + 1))
    else
        echo "FAIL $1"
        failed=$((failed + 1))
    fi
}
quiet() { # quiet FILE: nothing on stderr, above all no report of a sanitizer
    [ ! -s "$1" ] || { head -60 "$1"; return 1; }
}
count() { # count FILE: add up its last line, "N passed, N failed"
    set -- $(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$1" | tail -1)
    passed=$((passed + ${1:-0}))
    failed=$((failed + ${2:-1}))
}

if [ -f "$suite/traps.py" ]; then
    # its last line is "NAME: N checks, N pass, N fail"
    ERR=$tmp/traps.err $python "$suite/traps.py" "$probe" "$(free_port)" | tee "$tmp/traps.out"
    sed -n '$s/.* \([0-9]*\) pass, \([0-9]*\) fail$/\1 passed, \2 failed/p' "$tmp/traps.out" >"$tmp/traps"
    count "$tmp/traps"
    quiet "$tmp/traps.err"
    outcome 'traps: no report of a sanitizer' $?

    port=$(free_port)
    $probe "$port" 2>"$tmp/fuzz.err" &
    server=$!
    $python -c "
import socket, sys, time
for _ in range(500):
    try: socket.create_connection(('127.0.0.1', $port), 1); sys.exit()
    except OSError: time.sleep(.02)
sys.exit(1)"
    $python "$suite/fuzz.py" "$port" "${FUZZ_SECONDS:-20}" "${FUZZ_SEED:-1}"
    outcome "fuzz: the probe answers after ${FUZZ_SECONDS:-20} s" $?
    kill -TERM "$server"
    wait "$server"
    outcome 'fuzz: the probe ends with status 0' $?
    server=
    quiet "$tmp/fuzz.err"
    outcome 'fuzz: no report of a sanitizer' $?
else
    echo "skipped: there is no $suite"
fi

$python tests/wire/test_httpd.py "$probe" >"$tmp/own" 2>"$tmp/own.err"
cat "$tmp/own"
count "$tmp/own"
grep -v '^httpd_probe: ' "$tmp/own.err" >"$tmp/own.rest"
quiet "$tmp/own.rest"
outcome 'own checks: no report of a sanitizer' $?

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
