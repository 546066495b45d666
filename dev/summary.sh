#!/bin/sh
# summary.sh LOG FAILED_RUNS: adds up the `test result:` lines of cargo test. The last line is the count; a run
# that failed without saying so in a count (it did not build, it crashed) counts as one failure.
set -eu
awk -v runs="$2" '
    /^test result:/ {
        for (i = 1; i < NF; i++) {
            if ($(i + 1) == "passed;") passed += $i
            if ($(i + 1) == "failed;") failed += $i
        }
    }
    END {
        if (runs > failed) failed = runs
        printf "%d passed, %d failed\n", passed, failed
        exit failed > 0
    }
' "$1"
