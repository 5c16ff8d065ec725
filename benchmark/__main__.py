"""The loss benchmark: tunes losses with the same budget and compares them with cross-entropy.

    python -m benchmark                           the standings of the kept runs
    python -m benchmark --kept= --folder=PATH     all losses again, on the data in PATH/NAME
    python -m benchmark --loss=my.py:MyLoss --folder=PATH      a class of yours

README.md has the protocol. The same command again continues where it stopped, and two processes
share the work. Every run is a command of train.py. Each loss and data set has a folder,
OUT_DIR/NAME/LOSS: trials.jsonl, and the final runs seed0 to seed9.
"""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import torch

from benchmark.protocol import DATASETS, LOSSES, SEEDS, TRIAL_SEED, TRIALS, draw, loss_of
from benchmark.standings import find_complete, is_complete, show_standings
from model import make_head
from nanoloss.data import load_data, save_data
from nanoloss.files import try_lock, write_json_lines
from nanoloss.runs import read_runs
from nanoloss.settings import configure, fail
from nanoloss.stats import each_decision, negative_log_likelihood

# -----------------------------------------------------------------------------
loss = ''  # a name in benchmark/protocol.py, or FILE.py:CLASS ('': all of protocol.py)
datasets = ''  # names with commas between them ('': those of benchmark/protocol.py)
folder = ''  # data sets that are missing are prepared from FOLDER/NAME/{train,val,test}.csv
data_dir = 'data'  # the folder of prepared data sets
out_dir = 'out/benchmark'  # the runs and standings.md go here
kept = 'results/benchmark'  # packed runs, which are not measured again ('': none)
measure = True  # measure what is missing; without it, only show the standings
threads = 1  # CPU threads of a run
# -----------------------------------------------------------------------------
ROOT = Path(__file__).parents[1]


def prepare(config, dataset):
    """Prepare a data set unless it exists."""
    if (Path(config.data_dir) / dataset / 'meta.json').exists():
        return
    source = Path(config.folder) / dataset
    if not config.folder or not source.exists():
        fail(f'there is no data set {dataset} in {config.data_dir}; make it with prepare.py, or '
             'give the folder of its files with --folder')
    argv = [f'--{split}source={source / file}.csv'
            for split, file in (('', 'train'), ('val_', 'val'), ('test_', 'test'))
            if (source / f'{file}.csv').exists()]
    if DATASETS.get(dataset):
        argv.append(DATASETS[dataset])
    run_script('prepare.py', *argv, f'--name={dataset}', f'--data_dir={config.data_dir}')


def run_script(script, *argv):
    """Run a script of the project. Fails if it fails."""
    done = subprocess.run([sys.executable, script, *argv], cwd=ROOT, stdout=subprocess.DEVNULL)
    if done.returncode:
        fail(f'{script} {" ".join(argv)} failed')


def run_train(config, head, settings, **others):
    """Run train.py with these settings."""
    argv = {'head': head, **settings, 'threads': config.threads, **others}
    run_script('train.py', *(f'--{name}={value}' for name, value in argv.items()))


def measure_trial(config, head, settings, seed, place, code):
    """Train with one configuration -> its accuracy in % and log loss on val, after temperature
    scaling. place: a folder with data/trials, whose test is a copy of val."""
    out = place / str(seed)
    run_train(config, head, settings, dataset='trials', data_dir=place / 'data', out_dir=out,
              seed=seed, overwrite=True)
    (run,), _ = read_runs(out, make_head, code)
    probs = run.probs('val', run.temperature)
    return {'accuracy': run.last['val'],
            'log_loss': negative_log_likelihood(*each_decision(probs, run.labels['val']))}


def choose_settings(config, dataset, head, space, path):
    """Run the trials that trials.jsonl lacks -> the settings of the best on val: the highest
    accuracy and, of equals, the lowest log loss."""
    data, meta = load_data(Path(config.data_dir) / dataset)
    file = path / 'trials.jsonl'
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    place = path / 'trials'
    if len(rows) < TRIALS:  # no trial may see test
        save_data(place / 'data' / 'trials', data | {'test': data['val']}, meta)
    code = head.rpartition(':')[0]
    for trial in range(len(rows), TRIALS):
        settings = draw(trial, dataset, len(data['train'].labels), space)
        found = measure_trial(config, head, settings, TRIAL_SEED + trial, place, code)
        rows.append({'settings': settings, **found})
        write_json_lines(file, rows)
    shutil.rmtree(place, ignore_errors=True)
    return max(rows, key=lambda row: (row['accuracy'], -row['log_loss']))['settings']


def measure_loss(config, dataset, name, head, space):
    """Measure what is missing of a loss on a data set, unless another process is at work on it ->
    whether it was measured."""
    path = (Path(config.out_dir) / dataset / name).resolve()
    path.mkdir(parents=True, exist_ok=True)
    held = try_lock(path)
    if held is None:
        return False
    try:
        if not is_complete(path):
            settings = choose_settings(config, dataset, head, space, path)
            run_train(config, head, settings, dataset=dataset,
                      data_dir=Path(config.data_dir).resolve(), out_dir=path, n_runs=SEEDS)
    finally:
        os.close(held)
    return True


def main(config):
    names = [name for name in config.datasets.split(',') if name] or list(DATASETS)
    try:
        losses = [loss_of(name) for name in ([config.loss] if config.loss else LOSSES)]
    except ValueError as error:
        fail(error)
    out = Path(config.out_dir)
    folders = [out, Path(config.kept)] if config.kept else [out]

    def missing():
        return [(dataset, one) for dataset in names for one in losses
                if find_complete(folders, dataset, one[0]) is None]

    if config.measure:
        for dataset, (name, head, space) in missing():
            prepare(config, dataset)
            if measure_loss(config, dataset, name, head, space):
                print(f'{dataset}: {name}; {len(missing())} of {len(names) * len(losses)} are left',
                      flush=True)
    show_standings(names, losses, out, folders)


if __name__ == '__main__':
    torch.set_num_threads(1)
    main(configure(globals()))
