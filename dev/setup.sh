#!/bin/sh
# Installs what the build, the tests and the demo need and this machine lacks. Looks before it asks apt, so a
# machine that has everything loses no time.
set -eu

PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
PGRX_VERSION=0.18.1
pg_bin=$(dirname "$PG_CONFIG")

packages=""
need() { # need PACKAGE if the test that follows fails
    package=$1
    shift
    "$@" >/dev/null 2>&1 || packages="$packages $package"
}
have() { command -v "$1"; }
have_libclang() {
    for file in /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so*; do
        [ -e "$file" ] && return 0
    done
    return 1
}
server_headers() { [ -e "$("$PG_CONFIG" --includedir-server)/postgres.h" ]; }

need gcc have gcc
need redis-server have redis-server
need redis-tools have redis-benchmark
need postgresql-15 test -x "$pg_bin/postgres"
need postgresql-server-dev-15 server_headers
need clang have clang
need libclang-dev have_libclang
need pkg-config have pkg-config
need libssl-dev pkg-config --exists openssl
need iso-codes test -e /usr/share/iso-codes/json/iso_639-3.json

# Debian starts a server as soon as its package is installed. The servers here are private ones, and those of
# the machine are nobody's business: this answer to invoke-rc.d keeps them down while apt runs.
policy=/usr/sbin/policy-rc.d
policy_is_ours=""
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
restore_policy() { [ -z "$policy_is_ours" ] || as_root rm -f "$policy"; }

if [ -n "$packages" ]; then
    echo "setup: installing$packages"
    trap restore_policy EXIT
    if [ ! -e "$policy" ]; then
        policy_is_ours=yes
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    as_root apt-get update -q
    case $packages in *postgresql-15*)
        if ! apt-cache show postgresql-15 >/dev/null 2>&1; then
            echo "setup: this system has no package postgresql-15; Debian 12 has it, and elsewhere the repository" \
                "of apt.postgresql.org does (postgresql-common brings a script that adds it)" >&2
            exit 1
        fi ;;
    esac
    # shellcheck disable=SC2086 # a list of package names
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
    restore_policy
    trap - EXIT
fi

if ! cargo pgrx --version 2>/dev/null | grep -q " $PGRX_VERSION\$"; then
    echo "setup: installing cargo-pgrx $PGRX_VERSION"
    cargo install cargo-pgrx --version "$PGRX_VERSION" --locked
fi
config="${PGRX_HOME:-$HOME/.pgrx}/config.toml"
if ! grep -qs '^pg15' "$config"; then
    echo "setup: telling cargo-pgrx of $PG_CONFIG"
    cargo pgrx init --no-run --pg15 "$PG_CONFIG"
fi
