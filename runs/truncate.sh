#!/usr/bin/env bash
# Which 512 tokens of a long text are best: the first, the last, or half of each? Three seeds of
# three epochs each, 13 minutes on 2 cores. Our runs are kept in results/truncate.
#   bash runs/truncate.sh [PATH/aclImdb_v1.tar.gz]
set -euo pipefail
archive=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
source runs/venv.sh

if [ ! -f data/imdb/meta.json ]; then
    python prepare.py --source="${archive:-imdb}" --name=imdb
fi

# side by side on half of the cores each: faster than one after the other on all of them
half=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))
trap wait EXIT  # if one of the two fails, wait for the other
settings=(--epochs=3 --threads=$half)
python train.py config/ce.py "${settings[@]}" --truncate=head --n_runs=3 \
    --out_dir=out/truncate/head &
python train.py config/ce.py "${settings[@]}" --truncate=tail --n_runs=3 \
    --out_dir=out/truncate/tail
wait $!
# seeds 0 and 1 beside seed 2
python train.py config/ce.py "${settings[@]}" --truncate=both --n_runs=2 \
    --out_dir=out/truncate/both &
python train.py config/ce.py "${settings[@]}" --truncate=both --seed=2 \
    --out_dir=out/truncate/both
wait $!

python evaluate.py out/truncate/{head,tail,both} --ref=head
