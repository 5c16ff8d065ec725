#!/usr/bin/env bash
# From a bare machine with Python and PyPI to the table and the figures on the small sample set: the
# default model, with and without its n-grams, the paper's transformer with both of its losses, and
# bags of words; about 3 minutes on 2 CPU cores after the installation.
set -euo pipefail
cd "$(dirname "$0")/.."
source runs/venv.sh

python prepare.py --source=sample
python -m tools.baseline --dataset=sample
python train.py --dataset=sample --n_runs=3 --out_dir=out/sample/default
python train.py --dataset=sample --n_runs=3 --ngrams=none --out_dir=out/sample/windows
python train.py config/sample_bce.py --n_runs=5
python train.py config/sample_ce.py --n_runs=5
# fasttex[t]: only if the package is installed
shopt -s nullglob
python evaluate.py out/sample/{default,windows,bce,ce,tfidf_lr,tfidf_svm,nbsvm,tfidf_chars_svm} \
    out/sample/fasttex[t]
