#!/usr/bin/env bash
# Does the loss matter on the usual trunk, with 6 and with 77 classes? Six losses at three rates,
# three seeds each, then three more of each loss at the rate that is best on val: over an hour on
# 2 cores. There are no results of ours yet.
#   bash runs/losses2.sh trec banking77       data sets of prepare.py with one label a text
set -euo pipefail
cd "$(dirname "$0")/.."
source runs/venv.sh

half=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))
train() {  # SET LOSS TIMES SEED: one run, both rates so many times the usual ones
    head=(--head="$2")
    if [ "$2" = smooth ]; then
        head=(--head=ce --label_smoothing=0.1)
    fi
    python train.py --dataset="$1" "${head[@]}" --seed="$4" --threads=$half \
        --learning_rate="$(python -c "print(f'{5e-3 * $3:g}')")" \
        --ngram_rate="$(python -c "print(f'{50 * $3:g}')")" --out_dir="out/losses2/$1/$2/$3"
}

losses() {  # SET: all of its runs, then its table
    for seed in 0 1 2; do
        for loss in ce bce smooth focal brier squentropy; do
            for times in 0.3 1 3; do
                train "$1" $loss $times $seed
            done
        done
    done
    python runs/losses2.py "out/losses2/$1" --best | while read -r loss times; do
        for seed in 3 4 5; do
            train "$1" "$loss" "$times" $seed < /dev/null
        done
    done
    python runs/losses2.py "out/losses2/$1"
}

# side by side: faster than one after the other on all of the cores
trap wait EXIT  # should one fail, the others are not left behind
for set in "$@"; do
    losses "$set" &
done
for job in $(jobs -p); do
    wait "$job"
done
