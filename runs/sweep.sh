#!/usr/bin/env bash
# Which learning rate for which loss? Eight losses at five rates, one seed each, three epochs, on
# imdb_dev, which is cut out of the training side of IMDB: 35 minutes on 2 cores.
#   bash runs/sweep.sh [PATH/aclImdb_v1.tar.gz]
# The runs of ours are in results/losses/sweep, what they show in results/losses/sweep.md; again
# from the kept runs: python runs/sweep.py
set -euo pipefail
archive=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
source runs/venv.sh

if [ ! -f data/imdb_dev/meta.json ]; then
    python prepare.py --source="${archive:-imdb}" --name=imdb --dev
fi

half=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))
sweep() {  # LOSS ...: a run of each loss at each rate, on half of the cores
    for loss in "$@"; do
        for rate in 2e-4 4e-4 8e-4 1.6e-3 3.2e-3; do
            python train.py "config/$loss.py" --dataset=imdb_dev --learning_rate=$rate \
                --epochs=3 --threads=$half --out_dir="out/losses/sweep/$loss/$rate"
        done
    done
}

# side by side: faster than one after the other on all of the cores
trap wait EXIT  # should one of the two fail, the other is not left behind
sweep ce bce smooth focal &
sweep brier square square_k100 squentropy
wait $!

python runs/sweep.py out/losses
