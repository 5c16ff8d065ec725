#!/usr/bin/env bash
# Is it worth training a network? Compares the default model, with and without --tune, with bags of
# words on data sets for which it was not designed. Our runs are in results/best. It takes an hour on
# 2 cores.
#   bash runs/best.sh FOLDER
# FOLDER/NAME/{train,test}.csv and, optionally, val.csv have the columns text and label.
set -euo pipefail
if [ $# -ne 1 ]; then
    echo 'usage: bash runs/best.sh FOLDER' >&2
    exit 2
fi
folder=$(realpath "$1")
cd "$(dirname "$0")/.."
source runs/venv.sh
python -m pip install -q fasttext-community

for set in "$folder"/*/; do
    name=$(basename "$set")
    source=(--source="$set/train.csv" --test_source="$set/test.csv" --name="$name")
    if [ -f "$set/val.csv" ]; then
        source+=(--val_source="$set/val.csv")
    fi
    if [ "$name" = goemotions ]; then  # a text has several labels
        source+=(--label_sep=';')
    fi
    if [ ! -f "data/$name/meta.json" ]; then
        python prepare.py "${source[@]}"
    fi
    python -m tools.baseline --dataset="$name"
    python train.py --dataset="$name" --n_runs=5
    python train.py --dataset="$name" --n_runs=5 --tune=4 --out_dir="out/$name/tuned"
done
python -m results.best.summary --folder=out
