#!/usr/bin/env bash
# Copy the finished runs of a folder into results/, without their weights:
#   bash runs/keep.sh out/bce results/paper/bce
set -euo pipefail
if [ $# -ne 2 ]; then
    echo 'usage: bash runs/keep.sh out/bce results/paper/bce' >&2
    exit 2
fi

kept=0
for run in "$1"/seed*; do
    if [ ! -f "$run/result.json" ]; then
        echo "$run is not finished; it is left out" >&2
        continue
    fi
    to=$2/$(basename "$run")
    mkdir -p "$to"
    rm -f "$to/result.json"
    # result.json comes last, because it says that the run is complete
    for file in config.json log.jsonl preds.npz result.json; do
        cp "$run/$file" "$to/$file"
    done
    kept=$((kept + 1))
done
echo "runs of $1 kept in $2: $kept"
[ $kept -gt 0 ]
