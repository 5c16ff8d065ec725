#!/usr/bin/env bash
# From a bare machine with Python and PyPI to the table and the figures on the small sample set:
# 5 + 5 runs and bags of words beside them, under 5 minutes on 2 CPU cores after the install.
set -euo pipefail
cd "$(dirname "$0")/.."
source runs/venv.sh

python prepare.py --source=sample
python baseline.py --dataset=sample
python train.py config/sample_bce.py --n_runs=5
python train.py config/sample_ce.py --n_runs=5
python evaluate.py out/sample/{bce,ce,tfidf_lr,tfidf_svm,nbsvm}
