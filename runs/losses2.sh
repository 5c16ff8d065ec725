#!/usr/bin/env bash
# Does the loss matter with the default model? Trains six losses at three learning rates, three
# seeds each, then three more seeds of each loss at its best rate: on 2 cores, an hour for two data
# sets.
#   bash runs/losses2.sh trec banking77       data sets made by prepare.py
# Our runs are kept in results/losses2.
set -euo pipefail
cd "$(dirname "$0")/.."
source runs/venv.sh

half=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))
ngram_rate() {  # SET LOSS RATE: proportional to it; 50 at 0.005, the default for short texts
    local ratio=10_000
    # the gradient of squares does not vanish on texts that are fitted, so SGD is stable at a tenth
    # of the rate only; with 77 classes, the gradient of each is smaller
    if [[ $2 == squ* && $1 != banking77 ]]; then
        ratio=1_000
    fi
    python -c "print($ratio * $3)"
}

train() {  # SET LOSS RATE SETTING ...: on half of the cores
    local head=(--head="$2")
    if [ "$2" = smooth ]; then
        head=(--head=ce --label_smoothing=0.1)
    fi
    python train.py --dataset="$1" "${head[@]}" --learning_rate="$3" \
        --ngram_rate="$(ngram_rate "$1" "$2" "$3")" --threads=$half "${@:4}"
}

losses() {  # SET: all runs on it, then their tables
    local folder=out/losses2/$1
    local losses=(ce bce smooth focal square squentropy)
    if [ "$1" = goemotions ]; then  # with several labels per text, ce is bce
        losses=(bce focal square squentropy)
    fi
    for loss in "${losses[@]}"; do
        for rate in 0.0015 0.005 0.015; do
            train "$1" $loss $rate --n_runs=3 --out_dir="$folder/sweep/$loss/$rate"
        done
    done
    python -m results.losses.sweep "$folder"
    while read -r loss rate; do
        mkdir -p "$folder/$loss"
        cp -rn "$folder/sweep/$loss/$rate"/seed* "$folder/$loss"
        train "$1" "$loss" "$rate" --n_runs=6 --out_dir="$folder/$loss" < /dev/null
    done < "$folder/best_rates.txt"
    python evaluate.py "${losses[@]/#/$folder/}"

    # is it the loss, or the n-grams' rate? Train the first loss at the rates of squentropy, unless
    # it has been trained at these
    local control=$folder/control lower ngram_rate
    rate=$(sed -n 's/^squentropy //p' "$folder/best_rates.txt")
    lower=$(ngram_rate "$1" squentropy "$rate")
    if [ "$lower" != "$(ngram_rate "$1" "${losses[0]}" "$rate")" ]; then
        train "$1" "${losses[0]}" "$rate" --ngram_rate="$lower" --n_runs=3 \
            --out_dir="$control/${losses[0]}"
        python evaluate.py "$control/${losses[0]}" "$folder/squentropy" --out_dir="$control"
    fi

    # or the tuning, since squares had other n-grams' rates to choose from? Train the first loss at
    # three of them, chosen on val by seeds that are not reported
    local tuned=$folder/tuned
    for ngram_rate in 5 15 50; do
        train "$1" "${losses[0]}" 0.005 --ngram_rate=$ngram_rate --seed=10 --n_runs=2 \
            --out_dir="$tuned/sweep/${losses[0]}/$ngram_rate"
    done
    python -m results.losses.sweep "$tuned"
    ngram_rate=$(sed -n "s/^${losses[0]} //p" "$tuned/best_rates.txt")
    train "$1" "${losses[0]}" 0.005 --ngram_rate="$ngram_rate" --n_runs=6 \
        --out_dir="$tuned/${losses[0]}"
    python evaluate.py "$tuned/${losses[0]}" "$folder/squentropy" --out_dir="$tuned"
}

# side by side: faster than one after the other on all of the cores
trap wait EXIT  # if one fails, wait for the others
for set in "$@"; do
    losses "$set" &
done
for job in $(jobs -p); do
    wait "$job"
done
