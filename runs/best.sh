#!/usr/bin/env bash
# Does training a network pay? On data sets of short texts that it was not made for: bags of words
# with linear classifiers, and five seeds of what `python train.py --dataset=NAME` trains.
#   bash runs/best.sh FOLDER        where FOLDER/NAME/{train,test}.csv are, and val.csv if there is
# The columns are text and label. The runs of ours, on trec, sst2, banking77 and goemotions, are in
# results/best; half an hour on 2 cores.
set -euo pipefail
if [ $# -ne 1 ]; then
    echo 'usage: bash runs/best.sh FOLDER' >&2
    exit 2
fi
folder=$(realpath "$1")
cd "$(dirname "$0")/.."
source runs/venv.sh

for set in "$folder"/*/; do
    name=$(basename "$set")
    source=(--source="$set/train.csv" --test_source="$set/test.csv" --name="$name")
    if [ -f "$set/val.csv" ]; then
        source+=(--val_source="$set/val.csv")
    fi
    if [ "$name" = goemotions ]; then  # its texts have several labels each
        source+=(--label_sep=';')
    fi
    if [ ! -f "data/$name/meta.json" ]; then
        python prepare.py "${source[@]}"
    fi
    python baseline.py --dataset="$name"
    python train.py --dataset="$name" --n_runs=5
    python evaluate.py "out/$name" "out/$name"/{tfidf_lr,tfidf_svm,nbsvm} --out_dir="out/$name"
done
