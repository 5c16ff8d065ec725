#!/usr/bin/env bash
# Which learning rate is best for each loss? Eight losses at five rates, one seed each, three
# epochs, on imdb_dev, which consists of training texts of IMDB: 35 minutes on 2 cores.
#   bash runs/sweep.sh [PATH/aclImdb_v1.tar.gz]
# Our runs are kept in results/losses/sweep, and their table is results/losses/sweep.md; from the
# kept runs: python -m results.losses.sweep
set -euo pipefail
archive=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
source runs/venv.sh

if [ ! -f data/imdb_dev/meta.json ]; then
    python prepare.py --source="${archive:-imdb}" --name=imdb --dev
fi

half=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))
sweep() {  # LOSS ...: train each loss at each rate, on half of the cores
    for loss in "$@"; do
        for rate in 2e-4 4e-4 8e-4 1.6e-3 3.2e-3; do
            python train.py "config/$loss.py" --dataset=imdb_dev --learning_rate=$rate \
                --epochs=3 --threads=$half --out_dir="out/losses/sweep/$loss/$rate"
        done
    done
}

# side by side: faster than one after the other on all of the cores
trap wait EXIT  # if one of the two fails, wait for the other
sweep ce bce smooth focal &
sweep brier square square_k100 squentropy
wait $!

python -m results.losses.sweep out/losses
