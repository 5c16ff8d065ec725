"""Choosing settings on val, for --tune in train.py.

On average, no candidate is much better: over 12 data sets, each changes the mean accuracy on
held-out texts by less than 0.1 points. The one with the lowest log loss on val gains 0.3 points
over the default settings. The one with the highest accuracy on val, which is noisier, gains 0.1
(results/best/README.md).
"""
from nanoloss.files import write_json_lines
from nanoloss.settings import fail, updated

CANDIDATES = [  # settings that they change; the first has the default ones
    {},
    {'label_smoothing': 0.1},
    {'window': 5},
    {'embedding_rate': 0.0},  # AdamW
]
SEED = 1_000_000  # added to the first seed, so that no final run has the seed of a trial


def trials(config):
    """The candidates of --tune that this head and this trunk have -> [(changes, config)]."""
    possible = [changes for changes in CANDIDATES if all(hasattr(config, key) for key in changes)]
    if config.tune > len(possible):
        fail(f'tune must be at most {len(possible)} with this head and trunk, not {config.tune}')
    found = []
    for i, changes in enumerate(possible[:config.tune]):
        trial = updated(config, **changes, tune=0, seed=config.seed + SEED,
                        out_dir=f'{config.out_dir}/tuning/trial{i}')
        found.append((changes, trial))
    return found


def choose(config, run_trial, folder):
    """Run all trials -> the config with the changes of the one with the lowest log loss on val.

    run_trial: a function from a trial's config to a dict with its log_loss and accuracy on val.
    folder: gets tuning.jsonl, a line per trial.
    """
    rows = []
    for changes, trial in trials(config):
        rows.append({'changes': changes, **run_trial(trial)})
        print(f'trial {len(rows)} of {config.tune}  {name_of(changes)}  '
              f'val log loss {rows[-1]["log_loss"]:.4f} acc {100 * rows[-1]["accuracy"]:.2f}',
              flush=True)
        write_json_lines(folder / 'tuning.jsonl', rows)
    best = min(rows, key=lambda row: row['log_loss'])  # of equals, the first
    print(f'chosen on val: {name_of(best["changes"])}')
    return updated(config, **best['changes'], chosen_on_val=best['changes'])


def name_of(changes):
    """{'window': 5} -> 'window 5'; {} -> 'default settings'."""
    return ', '.join(f'{key} {value}' for key, value in changes.items()) or 'default settings'
