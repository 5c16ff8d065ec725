#!/usr/bin/env bash
# Is it the loss, or its learning rate? In runs/sweep.sh, two rates were best; runs/balanced.sh
# trains each loss at one of them, and this script trains it at the other: six seeds, 60 minutes on
# 2 cores, and 70 minutes for runs/balanced.sh if it has not been run.
#   bash runs/control.sh [PATH/aclImdb_v1.tar.gz]
# Our runs are kept in results/losses/control.
set -euo pipefail
archive=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
bash runs/balanced.sh "$archive"
source runs/venv.sh

# side by side on half of the cores each: faster than one after the other on all of them
half=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))
trap wait EXIT  # if one of the two fails, wait for the other
for loss in ce bce smooth brier; do
    python train.py config/$loss.py --learning_rate=1.6e-3 --epochs=3 --eval_interval=49 \
        --n_runs=6 --threads=$half --out_dir=out/losses/control/${loss}_fast
done &
for loss in focal square squentropy; do
    python train.py config/$loss.py --learning_rate=4e-4 --epochs=3 --eval_interval=49 \
        --n_runs=6 --threads=$half --out_dir=out/losses/control/${loss}_slow
done
wait $!

# all seven losses at one rate, and all seven at the other
python evaluate.py out/losses/balanced/{ce,bce,smooth,brier} \
    out/losses/control/{focal,square,squentropy}_slow --out_dir=out/losses/control/at_4e-4
python evaluate.py out/losses/control/{ce,bce,smooth,brier}_fast \
    out/losses/balanced/{focal,square,squentropy} --ref=ce_fast \
    --out_dir=out/losses/control/at_1.6e-3
