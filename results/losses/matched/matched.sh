#!/usr/bin/env bash
# Why do BCE and CE differ at all? The four combinations of start and rate between them, CE with one
# weight nudged by 1e-7, which shows what rounding alone grows to, and CE with clipping, which all
# the others are without; six seeds of three epochs each: 50 minutes on 2 cores.
#   bash runs/matched.sh [PATH/aclImdb_v1.tar.gz]
# The runs of ours are in results/losses/matched and results/losses/float64, what they show in
# results/losses/matched.md; again from the kept runs: python runs/matched.py
set -euo pipefail
archive=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
source runs/venv.sh

if [ ! -f data/imdb/meta.json ]; then
    python prepare.py --source="${archive:-imdb}" --name=imdb
fi

# side by side on half of the cores each: faster than one after the other on all of them
half=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))
trap wait EXIT  # should one of the two fail, the other is not left behind
settings=(--learning_rate=4e-4 --epochs=3 --n_runs=6 --threads=$half)

# CE, without clipping and, as in runs/balanced.sh, with it
python train.py config/ce.py "${settings[@]}" --grad_clip=0 \
    --out_dir=out/losses/matched/ce &
python train.py config/ce.py "${settings[@]}" --eval_interval=49 \
    --out_dir=out/losses/balanced/ce
wait $!

# what should be CE but for rounding
python train.py config/ce.py "${settings[@]}" --grad_clip=0 --head=ce_nudged \
    --out_dir=out/losses/matched/ce_nudged &
python train.py config/bce_matched.py "${settings[@]}" --grad_clip=0 \
    --out_dir=out/losses/matched/bce_matched
wait $!

# the start of CE alone, and the rate of CE alone
python train.py config/bce_matched.py "${settings[@]}" --grad_clip=0 --lr_mult=1 --wd_mult=1 \
    --out_dir=out/losses/matched/bce_start &
python train.py config/bce_matched.py "${settings[@]}" --grad_clip=0 --from_ce=False \
    --out_dir=out/losses/matched/bce_rate
wait $!

# neither, and meanwhile an epoch each of CE and matched BCE with hardly any rounding
python train.py config/bce.py "${settings[@]}" --grad_clip=0 \
    --out_dir=out/losses/matched/bce &
python train.py config/ce.py --dtype=float64 --epochs=1 --grad_clip=0 --threads=$half \
    --out_dir=out/losses/float64/ce
python train.py config/bce_matched.py --dtype=float64 --epochs=1 --grad_clip=0 --threads=$half \
    --out_dir=out/losses/float64/bce_matched
wait $!

python evaluate.py out/losses/matched/{ce,bce_matched,ce_nudged,bce_start,bce_rate,bce}
python runs/matched.py out/losses
