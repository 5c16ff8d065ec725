#!/usr/bin/env bash
# Does the loss matter on balanced data? Six seeds of eight losses, three epochs, each loss at its
# best learning rate in runs/sweep.sh: 70 minutes on 2 cores.
#   bash runs/balanced.sh [PATH/aclImdb_v1.tar.gz]
# Our runs are kept in results/losses/balanced.
set -euo pipefail
archive=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
source runs/venv.sh

if [ ! -f data/imdb/meta.json ]; then
    python prepare.py --source="${archive:-imdb}" --name=imdb
fi

half=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))
train() {  # FIRST_SEED: three seeds of each loss, on half of the cores
    while read -r loss rate; do
        python train.py "config/$loss.py" --learning_rate="$rate" --epochs=3 --eval_interval=49 \
            --seed="$1" --n_runs=3 --threads=$half --out_dir="out/losses/balanced/$loss"
    done < results/losses/best_rates.txt
}

# side by side: faster than one after the other on all of the cores
trap wait EXIT  # if one of the two fails, wait for the other
train 0 &
train 3
wait $!

python evaluate.py \
    out/losses/balanced/{ce,bce,smooth,focal,brier,square,square_k100,squentropy}
