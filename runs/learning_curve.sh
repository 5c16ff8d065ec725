#!/usr/bin/env bash
# Would more data help? Trains five seeds on 1, 2, 5, 10, 20, 50 and 100 % of the training texts of
# a data set, and NB-SVM on the same texts, and predicts the accuracy with twice the data:
#   bash runs/learning_curve.sh NAME [argument of train.py ...]
# Each run has one core, and there are as many runs at a time as cores. The same command again
# resumes. Our runs on IMDB are kept in results/curve.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo 'usage: bash runs/learning_curve.sh NAME [argument of train.py ...]' >&2
    exit 2
fi
name=$1
shift
cd "$(dirname "$0")/.."
source runs/venv.sh
export OMP_NUM_THREADS=1
if [ ! -f "data/$name/meta.json" ]; then
    echo "no data in data/$name; make it with: python prepare.py --source=... --name=$name" >&2
    exit 2
fi

# a curve with other settings needs its own --out_dir
out=out/curve/$name
for argument in "$@"; do
    case $argument in
        --out_dir=*) out=${argument#--out_dir=} ;;
    esac
done

side_by_side() {  # run python with each line of arguments, one per core
    xargs -P "$(getconf _NPROCESSORS_ONLN)" -L 1 python
}
sizes=$(python -m tools.learning_curve "data/$name")

# all seeds of the largest size have the same texts, so one run of the baseline is enough
for n in $sizes; do
    for seed in 0 1 2 3 4; do
        echo train.py "$@" --dataset=$name --n_train=$n --seed=$seed --n_runs=1 --threads=1 \
            --out_dir=$out/$n
        if [ $seed = 0 ] || [ $n != "${sizes##* }" ]; then
            echo -m tools.baseline --kinds=nbsvm --dataset=$name --n_train=$n --seed=$seed \
                --out_dir=$out/$n
        fi
    done
done | side_by_side
python -m tools.learning_curve "$out"
