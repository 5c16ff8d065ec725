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

export GLIBC_TUNABLES=glibc.malloc.hugetlb=1  # memory in huge pages, where glibc can: a tenth faster
half=$(python -c 'import os; print(max(1, (os.cpu_count() or 1) // 2))')
train() {  # head seed: one run, and from it what is small into results/paper
    [ -f "results/paper/$1/seed$2/result.json" ] && return
    python train.py "config/$1.py" --seed="$2" --threads="$half"
    mkdir -p "results/paper/$1/seed$2"
    for file in config.json log.jsonl preds.npz result.json; do
        cp "out/$1/seed$2/$file" "results/paper/$1/seed$2/$file"
    done
}
for seed in 0 1 2 3 4; do  # the two heads side by side, each on half of the cores: faster than one after the other
    train bce $seed & bce=$!
    train ce $seed & ce=$!
    wait $bce
    wait $ce
done
python evaluate.py results/paper/bce results/paper/ce
