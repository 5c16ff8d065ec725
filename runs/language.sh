#!/usr/bin/env bash
# Does the loss of a language model matter for its perplexity, its texts and the classifiers on its
# trunk? Five losses at three learning rates on imdb_dev, three seeds of each loss at its best rate
# on imdb, samples, and classifiers on few labels:
#   bash runs/language.sh PATH/aclImdb_v1.tar.gz [UNLABELLED]
# UNLABELLED is an archive with aclImdb/train/unsup (default: the first archive). Two runs at a time
# have a core each and take five to six hours on 2 cores. On a GPU there is time for the trunks of
# all losses, and for all labels:
#   JOBS=13 TRUNKS='ce smooth squentropy square square_k100 masked' LABELS='500 5000 24998' bash ...
# results/language has our runs: the longer language models and the classifiers on their trunks were
# trained on a GPU, except the masked ones; all others were trained on a CPU.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo 'usage: bash runs/language.sh PATH/aclImdb_v1.tar.gz [UNLABELLED]' >&2
    exit 2
fi
archive=$(realpath "$1")
unlabelled=$(realpath "${2:-$1}")
cd "$(dirname "$0")/.."
source runs/venv.sh
export OMP_NUM_THREADS=1
source=(--source="$archive" --unlabelled="$unlabelled" --name=imdb)
[ -f data/imdb/meta.json ] || python prepare.py "${source[@]}"
[ -f data/imdb_dev/meta.json ] || python prepare.py "${source[@]}" --dev

losses='ce smooth squentropy square square_k100'
trunks=${TRUNKS:-ce squentropy masked}
labels=${LABELS:-500 5000}
side_by_side() {  # run lines of arguments of python, JOBS at a time
    xargs -P "${JOBS:-2}" -L 1 python
}

# 1. the learning rate of each loss, on 1 million tokens
for loss in $losses; do
    for rate in 1e-3 3e-3 1e-2; do
        echo -m lm.pretrain lm/config/$loss.py --dataset=imdb_dev --learning_rate=$rate \
            --max_iters=250 --warmup_iters=50 --eval_interval=125 --final_texts=300 --threads=1 \
            --out_dir=out/language/rates/$loss/$rate
    done
done | side_by_side
python -m lm.analysis rates out/language

# 2. three seeds of each loss at its best rate, and of cross-entropy with positions, on 2 million
# tokens
for seed in 0 1 2; do
    while read -r loss rate; do
        command="-m lm.pretrain lm/config/$loss.py --learning_rate=$rate --max_iters=500 \
            --eval_interval=100 --final_texts=500 --threads=1 --seed=$seed"
        echo $command --out_dir=out/language/runs/$loss
        if [ $loss = ce ]; then
            echo $command --pos=learned --out_dir=out/language/runs/ce_positions
        fi
    done < out/language/best_rates.txt
done | side_by_side
python -m lm.analysis runs out/language

# 3. cross-entropy, squentropy and a masked language model, on 14 million tokens
for loss in $trunks; do
    echo -m lm.pretrain lm/config/$loss.py --learning_rate=3e-3 --final_texts=500 --threads=1 \
        --out_dir=out/language/long/$loss
done | side_by_side
python -m lm.analysis long out/language

# 4. 40 texts of each run, and figures of them
for loss in $losses; do
    echo -m lm.analysis texts out/language/runs/$loss
done | side_by_side
python -m lm.analysis samples out/language
python -m lm.analysis cost out/language

# 5. classifiers on few labelled reviews, sampled with the seed, from random weights and on the
# trunks of step 3
trunk() {  # LOSS -> the settings of a classifier on its trunk
    echo --init_from=out/language/long/$1/seed0
}
classifier() {  # FOLDER REVIEWS SETTING ... -> a line of arguments
    local length='--epochs=3 --batch_size=32'
    if [ $2 = 500 ]; then
        length='--epochs=5 --batch_size=8'
    fi
    echo train.py config/finetune.py --out_dir=out/language/$1 --n_train=$2 $length --threads=1 \
        "${@:3}"
}
for n in 500 5000; do  # choose the rate on imdb_dev, and try n-grams beside the trunk
    for rate in 3e-4 1e-3; do
        on_dev="--dataset=imdb_dev --learning_rate=$rate"
        classifier tune/$n/none/$rate $n $on_dev
        classifier tune/$n/ce/$rate $n $on_dev $(trunk ce)
    done
done | side_by_side
for rate in 3e-4 1e-3; do  # with all labels of imdb_dev
    classifier tune/20001/none/$rate 20001 --dataset=imdb_dev --learning_rate=$rate
done | side_by_side
classifier tune/500/ce/3e-4_ngrams 500 --dataset=imdb_dev --ngrams=tokens $(trunk ce) | side_by_side
python -m lm.analysis tune out/language
for seed in 0 1 2 3 4; do
    for n in $labels; do  # causal transformers, bags, and the default model of train.py
        classifier trunk/$n/none $n --seed=$seed
        classifier trunk/$n/none_bag $n --seed=$seed --causal=False
        for loss in $trunks; do
            causal=True
            [ $loss = masked ] && causal=False
            classifier trunk/$n/$loss $n --seed=$seed --causal=$causal $(trunk $loss)
        done
        echo train.py --dataset=imdb --n_train=$n --seed=$seed --threads=1 \
            --out_dir=out/language/trunk/$n/default
    done
done | side_by_side
python -m lm.analysis trunk out/language

# 6. does the loss matter to the classifier? Five trunks of each loss, of a smaller model, and
# classifiers on them; their rate is chosen on imdb_dev, too
small='--n_layer=2 --n_head=2 --n_embd=128'
small_model() {  # LOSS RATE SETTING ... -> a line of arguments
    echo -m lm.pretrain lm/config/$1.py $small --learning_rate=$2 --max_iters=500 \
        --eval_interval=100 --threads=1 "${@:3}"
}
small_classifier() {  # FOLDER REVIEWS SETTING ... -> a line of arguments
    classifier $1 $2 $small "${@:3}"
}
small_model ce 3e-3 --dataset=imdb_dev --final_texts=100 --out_dir=out/language/small_dev |
    side_by_side
for rate in 3e-4 1e-3 3e-3; do
    on_dev="--dataset=imdb_dev --learning_rate=$rate"
    small_classifier tune/500/none/${rate}_small 500 $on_dev
    small_classifier tune/500/ce/${rate}_small 500 $on_dev --init_from=out/language/small_dev/seed0
done | side_by_side
python -m lm.analysis tune out/language
for seed in 0 1 2 3 4; do
    while read -r loss rate; do
        small_model $loss $rate --seed=$seed --final_texts=500 --out_dir=out/language/small/$loss
    done < out/language/best_rates.txt
done | side_by_side
python -m lm.analysis small out/language
for seed in 0 1 2 3 4; do
    for loss in none $losses; do
        trunk=
        [ $loss = none ] || trunk=--init_from=out/language/small/$loss/seed$seed
        small_classifier small_trunk/500/$loss 500 --learning_rate=1e-3 --seed=$seed $trunk
    done
done | side_by_side
python -m lm.analysis small_trunk out/language
