"""The loss benchmark: tunes losses with the same budget and compares them with cross-entropy.

    python -m benchmark --datasets=sst2              the standings where all runs are kept
    python -m benchmark --measure --loss=my.py:MyLoss --folder=PATH  a class of yours
    python -m benchmark --measure --kept= --folder=PATH              all runs again

README.md has the protocol. The same command again continues where it stopped, and a second process
can share the work. Every run is a command of train.py. Each loss and data set has a folder,
OUT_DIR/NAME/LOSS: loss.json, trials.jsonl, and the final runs seed0 to seed9.
"""
import hashlib
import json
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)

from benchmark.protocol import (
    BASE, DATASETS, LOSSES, SAME_AS_BASE, SEEDS, TRIAL_SEED, TRIALS, draw, find_loss)
from benchmark.standings import find_complete, is_complete, show_standings
from model import make_head
from nanoloss.data import load_data, save_data
from nanoloss.files import locked_folder, read_json_lines, write_json, write_json_lines
from nanoloss.runs import read_runs
from nanoloss.settings import configure, fail
from nanoloss.stats import each_decision, negative_log_likelihood

# -----------------------------------------------------------------------------
measure = False  # measure what is missing; else only show the standings
loss = ''  # FILE.py:CLASS, or a name in benchmark/protocol.py ('': all of these)
datasets = ''  # names with commas between them ('': those of benchmark/protocol.py)
folder = ''  # data sets that are missing are prepared from FOLDER/NAME/{train,val,test}.csv
data_dir = 'data'  # the folder of prepared data sets
out_dir = 'out/benchmark'  # the runs and standings.md go here
kept = 'results/benchmark'  # packed runs, which are not measured again ('': none)
threads = 1  # CPU threads of a run
# -----------------------------------------------------------------------------
ROOT = Path(__file__).parents[1]
NOT_FINITE = re.compile('the loss is -?(nan|inf)|loss of the linear model is not finite')
DIVERGED = {'accuracy': 0.0, 'log_loss': 1e9}  # of a trial that ends with such an error


def prepare(config, dataset):
    """Prepare a data set unless it exists."""
    if (Path(config.data_dir) / dataset / 'meta.json').exists():
        return
    source = Path(config.folder) / dataset
    if not config.folder or not (source / 'train.csv').exists():
        fail(f'there is no data set {config.data_dir}/{dataset}; make it with prepare.py, or give '
             f'a --folder with {dataset}/train.csv and {dataset}/test.csv')
    argv = [f'--{split}source={source / file}.csv'
            for split, file in (('', 'train'), ('val_', 'val'), ('test_', 'test'))
            if (source / f'{file}.csv').exists()]
    if DATASETS.get(dataset):
        argv.append(DATASETS[dataset])
    error = run_script('prepare.py', *argv, f'--name={dataset}', f'--data_dir={config.data_dir}')
    if error:
        fail(error)


def run_script(script, *argv):
    """Run a script of the project -> its error message, or '' if it succeeds."""
    done = subprocess.run([sys.executable, script, *argv], cwd=ROOT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return ''
    return f'{script} {" ".join(argv)} failed: {done.stderr}'


def run_train(config, head, settings, **others):
    """Run train.py with these settings -> as `run_script`."""
    argv = {'head': head, **settings, 'threads': config.threads, **others}
    return run_script('train.py', *(f'--{name}={value}' for name, value in argv.items()))


def measure_trial(config, loss, settings, seed, place):
    """Train with one configuration -> its accuracy in % and log loss on val, after temperature
    scaling. place: a folder with data/trials, whose test is a copy of val."""
    out = place / str(seed)
    error = run_train(config, loss.head, settings, dataset='trials', data_dir=place / 'data',
                      out_dir=out, seed=seed, overwrite=True)
    if NOT_FINITE.search(error):
        return DIVERGED
    if error:
        fail(error)
    (run,), _ = read_runs(out, make_head, loss.file)
    probs = run.probs('val', run.temperature)
    return {'accuracy': run.last['val'],
            'log_loss': negative_log_likelihood(*each_decision(probs, run.labels['val']))}


def choose_settings(config, dataset, loss, path):
    """Run the trials that trials.jsonl lacks -> the settings of the best on val: the highest
    accuracy and, of equals, the lowest log loss."""
    data, meta = load_data(Path(config.data_dir) / dataset)
    file = path / 'trials.jsonl'
    rows = read_json_lines(file)
    place = path / 'trials'
    if len(rows) < TRIALS:  # no trial may see test
        save_data(place / 'data' / 'trials', data | {'test': data['val']}, meta)
    for trial in range(len(rows), TRIALS):
        settings = draw(trial, dataset, len(data['train'].labels), loss.space)
        found = measure_trial(config, loss, settings, TRIAL_SEED + trial, place)
        rows.append({'settings': settings, **found})
        write_json_lines(file, rows)
        print(f'{dataset}: {loss.name}, trial {trial + 1} of {TRIALS}, val {found["accuracy"]:.2f}',
              flush=True)
    shutil.rmtree(place, ignore_errors=True)
    return max(rows, key=lambda row: (row['accuracy'], -row['log_loss']))['settings']


def measure_loss(config, dataset, loss):
    """Measure what is missing of a loss on a data set, unless another process is at work on it."""
    path = (Path(config.out_dir) / dataset / loss.name).resolve()
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(path))
        except SystemExit:  # it has said that another process is at work
            return
        if is_complete(path):  # another process may have finished it
            return
        note_loss(path, loss)
        settings = choose_settings(config, dataset, loss, path)
        error = run_train(config, loss.head, settings, dataset=dataset,
                          data_dir=Path(config.data_dir).resolve(), out_dir=path, n_runs=SEEDS)
        if error:
            fail(error)


def note_loss(path, loss):
    """Write what is measured to loss.json. Fails if the folder was begun with another loss."""
    facts = {'head': loss.head, 'space': {key: list(ends) for key, ends in loss.space.items()}}
    if loss.file:
        facts['sha256'] = hashlib.sha256(Path(loss.file).read_bytes()).hexdigest()
    noted = path / 'loss.json'
    if noted.exists() and json.loads(noted.read_text()) != facts:
        fail(f'{loss.head} has changed since {path} was begun; delete that folder, or give another '
             '--out_dir')
    write_json(noted, facts)


def main(config):
    names = [name for name in config.datasets.split(',') if name] or list(DATASETS)
    try:
        losses = [find_loss(name) for name in LOSSES]
        wanted = losses
        if config.loss:
            wanted = [find_loss(name) for name in dict.fromkeys((BASE, config.loss))]
            losses += [one for one in wanted if one not in losses]
    except ValueError as error:
        fail(error)
    out = Path(config.out_dir)
    folders = [out, Path(config.kept)] if config.kept else [out]

    def missing():
        return [(dataset, one) for dataset in names for one in wanted
                if (dataset, one.name) not in SAME_AS_BASE
                and find_complete(folders, dataset, one.name) is None]

    if config.measure:
        todo = missing()
        for dataset in dict.fromkeys(dataset for dataset, _ in todo):
            prepare(config, dataset)
        for dataset, one in todo:
            measure_loss(config, dataset, one)
            print(f'of {len(todo)} pairs of a data set and a loss, {len(missing())} are left',
                  flush=True)
    show_standings(names, losses, out, folders)


if __name__ == '__main__':
    main(configure(globals()))
