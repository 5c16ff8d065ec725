"""The candidates of --tune on held-out texts of train, without reading test.

    python -m results.best.folds --datasets=trec,sst2     measures what is missing, prints the table
    python -m results.best.folds                          prints the table of folds.jsonl

A fifth of train is held out, twice. train.py is run on the rest with one seed and one thread, and
the held-out texts take the place of test. Log losses are after temperature scaling, as in
nanoloss/tune.py. Each measurement is a line of folds.jsonl.
"""
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from model import make_head
from nanoloss.data import load_data, save_data
from nanoloss.files import read_json_lines, write_json_lines
from nanoloss.runs import read_runs
from nanoloss.settings import configure
from nanoloss.stats import each_decision, negative_log_likelihood
from nanoloss.tune import CANDIDATES, name_of

# -----------------------------------------------------------------------------
datasets = ''  # data sets made by prepare.py to measure, with commas between them
data_dir = 'data'  # the folder of data sets
path = 'results/best/folds.jsonl'  # the measurements
# -----------------------------------------------------------------------------
ROOT = Path(__file__).parents[2]
FOLDS = 2  # of five


def make_fold(config, name, fold, folder):
    """Write the data set folder/fold, whose test is a fifth of the train of data set `name`."""
    data, meta = load_data(Path(config.data_dir) / name)
    part = np.random.default_rng(5).permutation(len(data['train'].labels)) % 5
    train, held_out = (data['train'].take(np.flatnonzero(rows))
                       for rows in (part != fold, part == fold))
    save_data(folder / 'fold', {'train': train, 'val': data['val'], 'test': held_out}, meta)


def measure(changes, folder):
    """Train with these changes on folder/fold -> the metrics on val and on the held-out texts."""
    out = folder / 'out'
    argv = [f'--{key}={value}' for key, value in changes.items()]
    subprocess.run(
        [sys.executable, 'train.py', '--dataset=fold', f'--data_dir={folder}', f'--out_dir={out}',
         '--seed=100', '--threads=1', '--overwrite', *argv],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (run,), _ = read_runs(out, make_head)
    found = {}
    for split, name in (('val', 'val'), ('test', 'held out')):
        probs = run.probs(split, run.temperature)
        found[name] = {
            'accuracy': 100 * run.correct[split].mean(),
            'log_loss': negative_log_likelihood(*each_decision(probs, run.labels[split])),
        }
    return found


def make_table(rows):
    """Rows of folds.jsonl -> a Markdown table of means over data sets and folds. Folds
    that lack a candidate are left out."""
    by_fold = {}
    for row in rows:
        by_fold.setdefault((row['dataset'], row['fold']), []).append(row)
    folds = [found for found in by_fold.values() if len(found) == len(CANDIDATES)]
    chosen = {}
    for changes in CANDIDATES:
        chosen[name_of(changes)] = [
            row for found in folds for row in found if row['changes'] == changes]
    chosen['the lowest log loss on val'] = [
        min(found, key=lambda row: row['val']['log_loss']) for found in folds]
    chosen['the highest accuracy on val'] = [
        max(found, key=lambda row: row['val']['accuracy']) for found in folds]
    chosen['the highest accuracy on the held-out texts'] = [
        max(found, key=lambda row: row['held out']['accuracy']) for found in folds]
    lines = ['| | accuracy, % | log loss |', '| --- | --- | --- |']
    for name, found in chosen.items():
        accuracy = np.mean([row['held out']['accuracy'] for row in found])
        log_loss = np.mean([row['held out']['log_loss'] for row in found])
        lines.append(f'| {name} | {accuracy:.2f} | {log_loss:.4f} |')
    return '\n'.join(lines)


def main(config):
    file = Path(config.path)
    rows = read_json_lines(file)
    known = [(row['dataset'], row['fold'], row['changes']) for row in rows]
    for name in filter(None, config.datasets.split(',')):
        for fold in range(FOLDS):
            missing = [changes for changes in CANDIDATES if (name, fold, changes) not in known]
            if not missing:
                continue
            with tempfile.TemporaryDirectory() as folder:
                make_fold(config, name, fold, Path(folder))
                for changes in missing:
                    row = {'dataset': name, 'fold': fold, 'changes': changes}
                    rows.append(row | measure(changes, Path(folder)))
                    write_json_lines(file, rows)
    print(make_table(rows))


if __name__ == '__main__':
    main(configure(globals()))
