#!/usr/bin/env bash
# What one would use instead: TF-IDF of words and word pairs with logistic regression, on data/imdb.
# Prints the accuracy on val and test and the seconds that vectorizing, fitting and predicting take.
set -euo pipefail
cd "$(dirname "$0")/.."
source runs/venv.sh

python -m pip install -q "scikit-learn>=1.4"
python - <<'PYTHON'
import time

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from prepare import tokenizer


def load(split):
    tokens, offsets, labels = (np.load(f'data/imdb/{split}_{name}.npy') for name in ('tokens', 'offsets', 'labels'))
    return [enc.decode(tokens[a:b].tolist()) for a, b in zip(offsets, offsets[1:])], labels


enc = tokenizer()
sets = {split: load(split) for split in ('train', 'val', 'test')}
start = time.perf_counter()
vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
model = LogisticRegression(C=30, max_iter=1000).fit(vectorizer.fit_transform(sets['train'][0]), sets['train'][1])
for split in 'val', 'test':
    print(f'{split} {100 * model.score(vectorizer.transform(sets[split][0]), sets[split][1]):.2f} %')
print(f'{time.perf_counter() - start:.0f} s')
PYTHON
