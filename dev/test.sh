#!/bin/sh
# Runs every suite, all of them even if one fails, and ends with a line of counts. Exits non-zero on any failure.
set -u
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failures=0

run() { # run WHAT COMMAND…: shows the output, keeps it for the counts, notes a failure
    echo "== $1"
    shift
    { "$@" 2>&1; echo "exit status $?"; } | tee -a "$log"
    [ "$(tail -n 1 "$log")" = "exit status 0" ] || failures=$((failures + 1))
}

run "shared rules" cargo test --locked --no-fail-fast -p tandem-shared
run "Redis module, its own tests" cargo test --locked --no-fail-fast -p tandem-redis
run "both engines, against real servers" cargo test --locked --no-fail-fast -p tandem-tests

sh dev/summary.sh "$log" "$failures"
