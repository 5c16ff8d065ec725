#!/usr/bin/env bash
# What the choice of a long review's 512 tokens is worth on IMDB: its head, its tail, or half of each; 12 minutes:
#   bash runs/truncate.sh [PATH/aclImdb_v1.tar.gz]
set -euo pipefail
archive=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
source runs/venv.sh

[ -f data/imdb/meta.json ] || python prepare.py ${archive:+--source="$archive"} --name=imdb
for seed in 0 1 2; do
    for which in head tail both; do
        echo truncate/$which ce $seed --truncate=$which --epochs=3
    done
done | runs
python evaluate.py results/truncate/{head,tail,both} --ref=head
