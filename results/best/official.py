"""Accuracy on all 25,000 reviews of the official test side of IMDB, as in published work.

    python -m results.best.official ARCHIVE FOLDER     classifies them with the runs FOLDER/seed<k>
    python -m results.best.official                    prints the table of imdb/official.jsonl

ARCHIVE: aclImdb_v1.tar.gz, or its folder. Our test is smaller: prepare.py takes 2,500 of these
reviews for val, where the two weights of the default model's parts are fitted, and drops 123 that
are word for word in train.
"""
import sys
from pathlib import Path
from types import SimpleNamespace

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np

from nanoloss.classifier import TextClassifier
from nanoloss.files import read_json_lines, write_json_lines
from nanoloss.sources import imdb_archive
from nanoloss.stats import half_interval

FILE = Path('results/best/imdb/official.jsonl')  # a line per run
CHUNK_SIZE = 2000  # texts


def classify(archive, folder):
    """Count the reviews that each run classifies correctly, and write FILE."""
    rows = list(imdb_archive(SimpleNamespace(source=archive)).rows)
    train = {row.text for row in rows if row.side == 'train'}
    test = [row for row in rows if row.side == 'test']
    in_train = np.array([row.text in train for row in test])
    counts = []
    for path in sorted(folder.glob('seed*')):
        classifier = TextClassifier(path)
        answers = []
        for start in range(0, len(test), CHUNK_SIZE):
            texts = [row.text for row in test[start:start + CHUNK_SIZE]]
            answers += map(classifier.label, classifier.probs(texts))
        correct = np.array([row.label == answer for row, answer in zip(test, answers)])
        counts.append({
            'run': path.name,
            'correct': int(correct.sum()),
            'n': len(test),
            'correct, not in train': int(correct[~in_train].sum()),
            'n, not in train': int((~in_train).sum()),
        })
        write_json_lines(FILE, counts)


def show(counts):
    """Print the mean accuracies with 95 % intervals for other seeds."""
    for name, suffix in (('all reviews of the test side', ''),
                         ('without those that are in train', ', not in train')):
        accuracy = np.array([100 * row[f'correct{suffix}'] / row[f'n{suffix}'] for row in counts])
        print(f'{name}, {counts[0][f"n{suffix}"]:,}: {accuracy.mean():.2f} ± '
              f'{half_interval(accuracy):.2f} ({len(counts)} seeds)')


if __name__ == '__main__':
    if len(sys.argv) > 1:
        classify(sys.argv[1], Path(sys.argv[2]))
    show(read_json_lines(FILE))
