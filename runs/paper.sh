#!/usr/bin/env bash
# The paper's Table 1 on IMDB, from a bare machine: 5 + 5 runs of 10 epochs, the table and the
# figures, in about 40 minutes on 2 cores.
#   bash runs/paper.sh                          IMDB from the hub
#   bash runs/paper.sh PATH/aclImdb_v1.tar.gz   IMDB from its archive
# The same command resumes after a stop. Our own runs are packed in results/paper:
#   python -m tools.pack out/bce results/paper/bce
#   python -m tools.pack out/ce results/paper/ce
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
python train.py config/bce.py --n_runs=5 --threads=$half &
python train.py config/ce.py --n_runs=5 --threads=$half
wait $!

python evaluate.py out/bce out/ce
if [ "$archive" ]; then  # data from the hub, without movies, cannot be compared with the kept runs
    python evaluate.py out/bce out/ce results/paper/bce results/paper/ce \
        --ref=results/paper/ce --out_dir=out/paper_compared
fi
