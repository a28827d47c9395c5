#!/bin/sh
# Install the npm packages of the Genkit suite, those of its lock file, into build/npm: npm.sh
# `make deps` calls it. Nothing is done when they are there, or when there is no suite.
set -eu
cd "$(dirname "$0")/../.."
suite=${SHARED:-../shared}/conformance/genkit
[ -f "$suite/package-lock.json" ] || { echo "npm: there is no $suite"; exit 0; }
command -v npm >/dev/null || docker/deps.sh nodejs npm
wanted=$(cat "$suite/package.json" "$suite/package-lock.json" | sha256sum)
[ "$(cat build/npm/installed 2>/dev/null)" != "$wanted" ] || exit 0

mkdir -p build/npm
rm -rf build/npm/installed build/npm/node_modules
install -m 644 "$suite/package.json" "$suite/package-lock.json" build/npm
for pause in 2 10 0; do
    status=0
    (cd build/npm && npm ci --cache . --prefer-offline --no-audit --no-fund >ci.log 2>&1) || status=$?
    [ $status != 0 ] || break
    sleep $pause
done
[ $status = 0 ] || { tail -5 build/npm/ci.log; echo 'npm ci has failed'; exit 1; }
echo "$wanted" >build/npm/installed
