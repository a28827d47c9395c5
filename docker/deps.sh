#!/bin/sh
# Install the Debian packages that building, running and testing need and that are missing, and
# those that are named: deps.sh [PACKAGE...]
set -eu

packages='gcc make pkg-config libc6-dev libuv1-dev libpq-dev libcurl4-openssl-dev libcjson-dev
libssl-dev node-llhttp libwslay-dev libcmocka-dev postgresql-15 pgbouncer python3 curl clang clang-format
clang-tidy libclang-rt-14-dev procps iproute2 valgrind faketime'" $*"

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo 'This is not a Debian system. Install what these packages offer (PostgreSQL 15 or newer):' >&2
    echo "$packages" >&2
    exit 1
fi
missing=
for p in $packages; do
    [ "$(dpkg-query -W -f '${Status}' "$p" 2>/dev/null)" = 'install ok installed' ] ||
        missing="$missing $p"
done
[ -z "$missing" ] && exit 0
echo "installing:$missing"
if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null 2>&1; then
    sudo=sudo
else
    echo "Become root and run: apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
# The packaged PostgreSQL must not start a cluster of its own: tests and `nocturne dev` make theirs.
export DEBIAN_FRONTEND=noninteractive
$sudo mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] ||
    echo 'create_main_cluster = false' | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends $missing
