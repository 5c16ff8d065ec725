# Sourced by the other scripts, in the root of the repository: one shared .venv, installed once.
if [ ! -x .venv/bin/python ]; then
    ${PYTHON:-python3} -m venv .venv
fi
source .venv/bin/activate
if ! cmp -s requirements.txt .venv/installed.txt; then
    python -m pip install -q -r requirements.txt
    cp requirements.txt .venv/installed.txt
fi

export GLIBC_TUNABLES=glibc.malloc.hugetlb=1  # memory in huge pages, where glibc can: a tenth faster

run() {  # NAME CONFIG SEED [--key=value ...]: a run, and what is small of it into results/NAME; one that is there is done
    [ -f "results/$1/seed$3/result.json" ] && return
    python train.py "config/$2.py" --out_dir="out/$1" --seed="$3" --threads=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2)) "${@:4}"
    mkdir -p "results/$1/seed$3"
    for file in config.json log.jsonl preds.npz result.json; do  # result.json last: it says that all is there
        cp "out/$1/seed$3/$file" "results/$1/seed$3/$file"
    done
}
export -f run

runs() {  # the runs of standard input, a line each, two at a time on half of the cores: faster than one after the other
    xargs -P 2 -L 1 bash -euc 'run "$@"' run
}
