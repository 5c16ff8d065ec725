#!/usr/bin/env bash
# Why do BCE and CE differ at all? Trains the four combinations of start and rate between them, CE
# with one weight nudged by 1e-7, which shows how far rounding alone grows, and CE with clipping
# (the others have none): six seeds of three epochs each, 50 minutes on 2 cores.
#   bash results/losses/matched/matched.sh [PATH/aclImdb_v1.tar.gz]
# Our runs are kept in results/losses/matched and results/losses/float64. Distances from the kept
# runs: python -m results.losses.matched.distances
set -euo pipefail
archive=${1:+$(realpath "$1")}
cd "$(dirname "$0")/../../.."
source runs/venv.sh

if [ ! -f data/imdb/meta.json ]; then
    python prepare.py --source="${archive:-imdb}" --name=imdb
fi

# side by side on half of the cores each: faster than one after the other on all of them
half=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))
trap wait EXIT  # if one of the two fails, wait for the other
settings=(--learning_rate=4e-4 --epochs=3 --n_runs=6 --threads=$half)
matched=results/losses/matched/bce_matched.py

# CE, without clipping and, as in runs/balanced.sh, with it
python train.py config/ce.py "${settings[@]}" --grad_clip=0 \
    --out_dir=out/losses/matched/ce &
python train.py config/ce.py "${settings[@]}" --eval_interval=49 \
    --out_dir=out/losses/balanced/ce
wait $!

# equal to CE except for rounding
python train.py config/ce.py "${settings[@]}" --grad_clip=0 \
    --head=results/losses/matched/heads.py:NudgedCEHead --out_dir=out/losses/matched/ce_nudged &
python train.py $matched "${settings[@]}" --grad_clip=0 --out_dir=out/losses/matched/bce_matched
wait $!

# the start of CE alone, and the rate of CE alone
python train.py $matched "${settings[@]}" --grad_clip=0 --lr_mult=1 --wd_mult=1 \
    --out_dir=out/losses/matched/bce_start &
python train.py $matched "${settings[@]}" --grad_clip=0 --from_ce=False \
    --out_dir=out/losses/matched/bce_rate
wait $!

# neither, and meanwhile an epoch each of CE and matched BCE in double precision
python train.py config/bce.py "${settings[@]}" --grad_clip=0 --out_dir=out/losses/matched/bce &
python train.py config/ce.py --dtype=float64 --epochs=1 --grad_clip=0 --threads=$half \
    --out_dir=out/losses/float64/ce
python train.py $matched --dtype=float64 --epochs=1 --grad_clip=0 --threads=$half \
    --out_dir=out/losses/float64/bce_matched
wait $!

python evaluate.py out/losses/matched/{ce,bce_matched,ce_nudged,bce_start,bce_rate,bce}
python -m results.losses.matched.distances out/losses
