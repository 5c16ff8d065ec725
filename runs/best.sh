#!/usr/bin/env bash
# Is it worth training a network? Compares the default model (five seeds of `python train.py
# --dataset=NAME`) with linear classifiers on bags of words, on data sets for which it was not
# designed, and on IMDB.
#   bash runs/best.sh FOLDER [PATH/aclImdb_v1.tar.gz [UNLABELLED]]
# FOLDER/NAME/{train,test}.csv and, optionally, val.csv have the columns text and label. UNLABELLED
# is an archive with aclImdb/train/unsup; the complete archive has it. Our runs on trec, sst2,
# banking77, goemotions and imdb are kept in results/best: half an hour on 2 cores without IMDB, two
# hours with it.
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
    if [ "$name" = goemotions ]; then  # a text has several labels
        source+=(--label_sep=';')
    fi
    if [ ! -f "data/$name/meta.json" ]; then
        python prepare.py "${source[@]}"
    fi
    python -m tools.baseline --dataset="$name"
    python train.py --dataset="$name" --n_runs=5
    python evaluate.py "out/$name" "out/$name"/{tfidf_lr,tfidf_svm,nbsvm,tfidf_chars_svm} \
        "out/$name"/fasttex[t] --out_dir="out/$name"
done

if [ "$archive" ]; then
    python prepare.py --source="$archive" --unlabelled="$unlabelled" --name=imdb
    python -m tools.baseline --dataset=imdb
    python train.py config/best.py --n_runs=5
    groups=(out/best out/imdb/{tfidf_lr,tfidf_svm,nbsvm,tfidf_chars_svm})
    if [ "$unlabelled" ]; then
        # more texts have more rare tokens; with a count of 8, the weights stay below 100 MB
        python train.py --dataset=imdb --teacher=out/best --min_count=8 --out_dir=out/taught
        groups+=(out/taught)
    fi
    python evaluate.py "${groups[@]}" --out_dir=out/imdb
fi
