#!/bin/sh
# The two implementations of the scripted model must answer alike: tests/fake/modelsim.c and
# conformance/genkit/modelsim.mjs. Usage: tests/wire/modelsim.sh [BUILD]; SHARED=../shared.
set -eu
cd "$(dirname "$0")/../.."
build=${1:-build/san}
mjs=${SHARED:-../shared}/conformance/genkit/modelsim.mjs

skip() {
    echo "skipped: $1"
    echo "0 passed, 0 failed"
    exit 0
}
command -v node >/dev/null || skip "there is no node on the PATH"
[ -f "$mjs" ] || skip "there is no $mjs"
mjs=$(realpath "$mjs") # behind a link it does not know itself, and does not start
[ -x "$build/tests/fake/modelsim" ] || make -s SAN=1 BUILD="$build" "$build/tests/fake/modelsim"
exec /usr/bin/python3 tests/wire/modelsim_compare.py "$build/tests/fake/modelsim" "$mjs"
