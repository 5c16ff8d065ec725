"""Runs of each loss at several learning rates -> the best rate of each: a table, a figure, a list.

    python -m results.losses.sweep              of the kept runs in results/losses
    python -m results.losses.sweep out/losses   FOLDER/sweep/<loss>/<rate>/seed<k> ->
                                                FOLDER/sweep.md, sweep.png and best_rates.txt

The best rate has the highest accuracy on val after the last epoch, averaged over the seeds. A data
set made by `prepare.py --dev` consists of training texts alone, so there test counts with val. With
one to three seeds per rate, differences of a few tenths of a point are noise.
"""
import sys
from pathlib import Path
from statistics import mean

import matplotlib
from matplotlib.figure import Figure

from nanoloss.runs import finished_runs
from nanoloss.settings import fail

matplotlib.use('agg')


def read_accuracies(folder):
    """The folder sweep/ -> {loss: {rate: mean accuracy in %}}, and the texts that it was measured
    on."""
    accuracies = {}
    judged_on = ''
    for group in sorted(folder.glob('*/*')):
        loss, rate = group.parts[-2:]
        of_runs = []
        for run in finished_runs(group):
            dataset = run.config['dataset']
            splits = ['val', 'test'] if dataset.endswith('_dev') else ['val']
            last = run.result['last']
            n_texts = sum(last[split]['n'] for split in splits)
            correct = sum(last[split]['correct'] for split in splits)
            of_runs.append(100 * correct / n_texts)
            judged_on = f'{" and ".join(splits)} of {dataset}, {n_texts:,} texts'
        if of_runs:
            accuracies.setdefault(loss, {})[float(rate)] = mean(of_runs)
    return accuracies, judged_on


def find_best_rates(accuracies):
    """{loss: {rate: accuracy}} -> {loss: its best rate}."""
    return {loss: max(by_rate, key=by_rate.get) for loss, by_rate in accuracies.items()}


def make_table(accuracies, best_rates, rates, judged_on):
    """A row per loss and a column per rate, with the best rate in bold: Markdown."""
    header = ' | '.join(f'{rate:g}' for rate in rates)
    lines = [
        f'Accuracy in % on {judged_on}, after the last epoch, averaged over the seeds.',
        '',
        f'| loss | {header} |',
        '| --- ' * (len(rates) + 1) + '|',
    ]
    for loss, by_rate in accuracies.items():
        cells = [f'{by_rate[rate]:.2f}' for rate in rates]
        best = rates.index(best_rates[loss])
        cells[best] = f'**{cells[best]}**'
        lines.append(f'| {loss} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def draw(accuracies, best_rates, rates, judged_on):
    """Draw a line per loss over the rates, with a dot at the best."""
    figure = Figure(figsize=(7, 4), layout='constrained')
    ax = figure.subplots()
    for loss, by_rate in accuracies.items():
        heights = [by_rate[rate] for rate in rates]
        line, = ax.plot(rates, heights, '.-', lw=1, label=loss)
        best = best_rates[loss]
        ax.plot(best, by_rate[best], 'o', color=line.get_color())
    ax.set(xscale='log', xlabel='highest learning rate', ylabel='accuracy, %',
           title=f'On {judged_on}')
    ax.set(xticks=rates, xticklabels=[f'{rate:g}' for rate in rates])
    ax.minorticks_off()
    ax.legend(ncols=2, fontsize=8)
    ax.grid(alpha=0.3)
    return figure


def main(folder):
    accuracies, judged_on = read_accuracies(folder / 'sweep')
    if not accuracies:
        fail(f'{folder}/sweep: there is no finished run; make them with: bash runs/sweep.sh')
    rates = sorted(next(iter(accuracies.values())))
    for loss, by_rate in accuracies.items():
        if sorted(by_rate) != rates:
            fail(f'{folder}/sweep/{loss}: its finished runs have other rates than those of the '
                 'other losses')
    best_rates = find_best_rates(accuracies)

    table = make_table(accuracies, best_rates, rates, judged_on)
    (folder / 'sweep.md').write_text(table, 'utf-8')
    lines = [f'{loss} {rate:g}\n' for loss, rate in best_rates.items()]
    (folder / 'best_rates.txt').write_text(''.join(lines))
    draw(accuracies, best_rates, rates, judged_on).savefig(folder / 'sweep.png', dpi=110)
    print(table, end='')


if __name__ == '__main__':
    main(Path(sys.argv[1] if len(sys.argv) > 1 else 'results/losses'))
