#!/usr/bin/env bash
# Every loss on IMDB, from a bare machine, in about four hours on 2 cores:
#   bash runs/losses.sh                          IMDB from the hub
#   bash runs/losses.sh PATH/aclImdb_v1.tar.gz   IMDB from its archive
# Five learning rates a loss on imdb_dev; six seeds of each loss at its own best rate; a rare class; BCE made CE.
# A run that results/losses holds already is done; given again, the script goes on where it stopped.
set -euo pipefail
archive=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
source runs/venv.sh

[ -f data/imdb/meta.json ] || python prepare.py ${archive:+--source="$archive"} --name=imdb
[ -f data/imdb_dev/meta.json ] || python prepare.py ${archive:+--source="$archive"} --name=imdb --dev

losses='ce bce smooth focal brier square square_k100 squentropy'  # on balanced data, weighted.py is ce.py
few() {  # LOSS: its settings; three epochs, not ten
    echo --epochs=3
    if [ "$1" = square_k100 ]; then echo --k=100; fi
}
best() { awk -v loss="$1" '$1 == loss { print $2 }' results/losses/best_rates.txt; }

for loss in $losses; do
    for rate in 2e-4 4e-4 8e-4 1.6e-3 3.2e-3; do
        echo losses/sweep/$loss/$rate ${loss%_k100} 0 --dataset=imdb_dev --learning_rate=$rate $(few $loss)
    done
done | runs
python runs/sweep.py  # sweep.md, sweep.png, and the best rates in best_rates.txt

for seed in 0 1 2 3 4 5; do
    for loss in $losses; do
        echo losses/balanced/$loss ${loss%_k100} $seed --learning_rate=$(best $loss) --eval_interval=49 $(few $loss)
    done
done | runs
python evaluate.py $(printf 'results/losses/balanced/%s ' $losses)

# is it the loss, or its rate? of the two rates that were best, each loss at the one at which it was not
for seed in 0 1 2 3 4 5; do
    same="--eval_interval=49 --epochs=3"
    for loss in ce bce smooth brier; do echo losses/control/${loss}_fast $loss $seed --learning_rate=1.6e-3 $same; done
    for loss in focal square squentropy; do echo losses/control/${loss}_slow $loss $seed --learning_rate=4e-4 $same; done
done | runs
python evaluate.py results/losses/{balanced/{ce,bce,smooth,brier},control/{focal,square,squentropy}_slow} \
    --out_dir=results/losses/control/at_4e-4
python evaluate.py results/losses/{control/{ce,bce,smooth,brier}_fast,balanced/{focal,square,squentropy}} --ref=ce_fast \
    --out_dir=results/losses/control/at_1.6e-3

# of the training side, one review in ten is positive; val and test stay balanced; about as many steps as before
for seed in 0 1 2 3 4 5; do
    rare="--keep_frac=0.1111 --epochs=5 --learning_rate=$(best ce)"
    echo losses/rare/ce ce $seed $rare
    echo losses/rare/weighted weighted $seed $rare
    echo losses/rare/oversample ce $seed $rare --oversample
    echo losses/rare/focal focal $seed $rare --learning_rate=$(best focal)
done | runs
python evaluate.py results/losses/rare/{ce,weighted,oversample,focal}

# why BCE and CE differ at all: the 2 x 2 of start and rate between them, and what chaos alone does; without clipping
for seed in 0 1 2 3 4 5; do
    same="--epochs=3 --grad_clip=0 --learning_rate=$(best ce)"
    echo losses/matched/ce ce $seed $same
    echo losses/matched/bce_matched bce_matched $seed $same
    echo losses/matched/ce_nudged ce $seed $same --nudge=1e-7
    echo losses/matched/bce_start bce $seed $same --from_ce
    echo losses/matched/bce_rate bce $seed $same --lr_mult=2 --wd_mult=0.5
    echo losses/matched/bce bce $seed $same
done | runs
for config in ce bce_matched; do  # and without rounding to speak of
    echo losses/float64/$config $config 0 --epochs=1 --grad_clip=0 --dtype=float64
done | runs
python evaluate.py results/losses/matched/{ce,bce_matched,ce_nudged,bce_start,bce_rate,bce}
python runs/matched.py  # matched.md, matched.png
