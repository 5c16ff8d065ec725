#!/usr/bin/env bash
# Everything in results/gpu, on a machine with a GPU: 15 minutes on an H200 and 16 cores.
#   bash runs/gpu.sh [PART ...]     table1, tests, steps, bench, large, seeds, stories; default: all
# It needs data/imdb:
#   python prepare.py --source=ARCHIVE --unlabelled=ARCHIVE --name=imdb      aclImdb_v1.tar.gz
set -euo pipefail
cd "$(dirname "$0")/.."
source runs/venv.sh
if [ ! -f data/imdb/meta.json ]; then
    echo 'no data in data/imdb; make it with: python prepare.py --source=... --name=imdb' >&2
    exit 2
fi
if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo 'there is no GPU' >&2
    exit 2
fi
mkdir -p results/gpu
side_by_side() {  # run python with each line of arguments, as many at a time as there are cores
    xargs -P "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" -L 1 python
}
seconds() {  # NAME COMMAND ...: run it and write its seconds into a file
    local start
    start=$(date +%s.%N)
    "${@:2}"
    echo "$1: $(echo "$(date +%s.%N) $start" | awk '{printf "%.1f", $1 - $2}') s" |
        tee -a results/gpu/seconds.txt
}

ten_runs() {  # OUT: the paper's five runs of each loss, in four processes
    for head in bce ce; do
        echo train.py config/$head.py --n_runs=3 --threads=1 --out_dir="$1/$head"
        echo train.py config/$head.py --seed=3 --n_runs=2 --threads=1 --out_dir="$1/$head"
    done | side_by_side
}
table() {  # OUT
    python evaluate.py "$1/bce" "$1/ce"
}

table1() {
    seconds 'ten runs, cold' ten_runs out/gpu/cold
    seconds 'ten runs' ten_runs out/gpu/paper
    seconds 'their table and figures' table out/gpu/paper
    seconds 'import torch' python -c 'import torch'
    seconds 'import torch, and a first kernel' python -c 'import torch; torch.ones(1).cuda().exp()'
}

tests() {
    python -m pytest -q -p no:cacheprovider -n 8 --dist worksteal tests/test_gpu.py
}

steps() {
    python -m results.gpu.steps results/gpu/steps.md
}

bench() {  # our rows, then the peers beside some of ours; ROWS: a regular expression
    local settings=(--device=cuda --n_train=24998 --repeats=1 --only="${ROWS:-.}")
    python -m tools.bench "${settings[@]}" --out_dir=results/gpu/bench
    python -m results.bench.peers "${settings[@]}" --out_dir=results/gpu/bench/peers
}
large() {  # a larger shape
    python -m results.bench.peers --device=cuda --n_train=24998 --repeats=1 --only="${ROWS:-.}" \
        --n_layer=6 --n_embd=384 --n_head=6 --out_dir=results/gpu/large
}

seeds() {  # thirty runs of each loss; the first five are table1's
    for first in 5 10 15 20 25; do
        for head in bce ce; do
            echo train.py config/$head.py --seed=$first --n_runs=5 --threads=1 \
                --out_dir=out/gpu/paper/$head
        done
    done | side_by_side
}

stories() {  # a model of the third document's size, on IMDB, because its texts are not free
    python -m lm.pretrain lm/config/stories.py --dataset=imdb --batch_size=96 --min_count=0 \
        --max_iters=20 --eval_interval=10 --eval_texts=10 --final_texts=10 --out_dir=out/gpu/stories
}

all='table1 tests steps bench large seeds stories'
for part in ${*:-$all}; do
    case " $all " in
        *" $part "*) $part ;;
        *) echo "there is no $part; there are $all" >&2; exit 2 ;;
    esac
done
