#!/usr/bin/env bash
# The paper's Table 1 on IMDB, from a bare machine: 5 + 5 runs of 10 epochs, the table and the figures.
#   bash runs/paper.sh                          IMDB from the hub
#   bash runs/paper.sh PATH/aclImdb_v1.tar.gz   IMDB from its archive
# A run that results/paper holds already is done; given again, the script goes on where it stopped.
set -euo pipefail
archive=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
source runs/venv.sh

[ -f data/imdb/meta.json ] || python prepare.py ${archive:+--source="$archive"} --name=imdb

for seed in 0 1 2 3 4; do
    echo paper/bce bce $seed
    echo paper/ce ce $seed
done | runs
python evaluate.py results/paper/bce results/paper/ce
