#!/usr/bin/env bash
# Does training a network pay? On data sets that it was not made for, and on IMDB: bags of words with
# linear classifiers, and five seeds of what `python train.py --dataset=NAME` trains.
#   bash runs/best.sh FOLDER [PATH/aclImdb_v1.tar.gz [UNLABELLED]]
# FOLDER/NAME/{train,test}.csv, and val.csv if there is, have the columns text and label; UNLABELLED
# is an archive with aclImdb/train/unsup, the same one if it is whole. The runs of ours, on trec,
# sst2, banking77, goemotions and imdb, are in results/best: half an hour on 2 cores without IMDB,
# two hours with it.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
    echo 'usage: bash runs/best.sh FOLDER [PATH/aclImdb_v1.tar.gz [UNLABELLED]]' >&2
    exit 2
fi
folder=$(realpath "$1")
archive=${2:+$(realpath "$2")}
unlabelled=${3:+$(realpath "$3")}
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
    python evaluate.py "out/$name" "out/$name"/{tfidf_lr,tfidf_svm,nbsvm,tfidf_chars_svm} \
        --out_dir="out/$name"
done

if [ "$archive" ]; then
    python prepare.py --source="$archive" --unlabelled="$unlabelled" --name=imdb
    python baseline.py --dataset=imdb
    python train.py config/best.py --n_runs=5
    groups=(out/best out/imdb/{tfidf_lr,tfidf_svm,nbsvm,tfidf_chars_svm})
    if [ "$unlabelled" ]; then
        # more texts have more rare tokens: with those of 8 texts the file stays below 100 MB
        python train.py --dataset=imdb --teacher=out/best --min_count=8 --out_dir=out/taught
        groups+=(out/taught)
    fi
    python evaluate.py "${groups[@]}" --out_dir=out/imdb
fi
