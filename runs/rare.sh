#!/usr/bin/env bash
# What finds a rare class? One training review in ten is positive; val and test stay balanced.
# Six seeds each of plain cross-entropy, class weights, oversampling and focal loss, each at the
# learning rate that was best for its loss in runs/sweep.sh. Five epochs are about as many steps as
# three epochs of all reviews: 40 minutes on 2 cores.
#   bash runs/rare.sh [PATH/aclImdb_v1.tar.gz]
# Our runs are kept in results/losses/rare.
set -euo pipefail
archive=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
source runs/venv.sh

if [ ! -f data/imdb/meta.json ]; then
    python prepare.py --source="${archive:-imdb}" --name=imdb
fi
if [ ! -f data/imdb_rare/meta.json ]; then
    python -m results.losses.rare.subsample_class
fi

# side by side on half of the cores each: faster than one after the other on all of them
half=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))
trap wait EXIT  # if one of the two fails, wait for the other
settings=(--dataset=imdb_rare --epochs=5 --n_runs=6 --threads=$half)
python train.py config/ce.py "${settings[@]}" --learning_rate=4e-4 \
    --out_dir=out/losses/rare/ce &
python train.py config/weighted.py "${settings[@]}" --learning_rate=4e-4 \
    --out_dir=out/losses/rare/weighted
wait $!
python -m results.losses.rare.oversample config/ce.py "${settings[@]}" --learning_rate=4e-4 \
    --out_dir=out/losses/rare/oversample &
python train.py config/focal.py "${settings[@]}" --learning_rate=1.6e-3 \
    --out_dir=out/losses/rare/focal
wait $!

python evaluate.py out/losses/rare/{ce,weighted,oversample,focal}
