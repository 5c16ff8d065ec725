#!/usr/bin/env bash
# Would more data help? Five seeds each on 1, 2, 5, 10, 20, 50 and 100 % of the training texts of a
# prepared data set, beside NB-SVM on the same texts; what twice the data would be worth:
#   bash runs/learning_curve.sh NAME [argument of train.py ...]
# Runs have a core each, as many at a time as there are cores; given again, it goes on where it
# stopped. The runs of ours, on IMDB, are in results/curve.
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

# another curve of the same data set, of other settings, wants another --out_dir
out=out/curve/$name
for argument in "$@"; do
    case $argument in
        --out_dir=*) out=${argument#--out_dir=} ;;
    esac
done

side_by_side() {  # lines of arguments of python -> these commands, one a core
    xargs -P "$(getconf _NPROCESSORS_ONLN)" -L 1 python
}
sizes=$(python runs/learning_curve.py "data/$name")

# all seeds of the largest size have the same texts: one run of a baseline, which draws nothing else
for n in $sizes; do
    for seed in 0 1 2 3 4; do
        echo train.py "$@" --dataset=$name --n_train=$n --seed=$seed --n_runs=1 --threads=1 \
            --out_dir=$out/$n
        if [ $seed = 0 ] || [ $n != "${sizes##* }" ]; then
            echo baseline.py --kinds=nbsvm --dataset=$name --n_train=$n --seed=$seed \
                --out_dir=$out/$n
        fi
    done
done | side_by_side
python runs/learning_curve.py "$out"
