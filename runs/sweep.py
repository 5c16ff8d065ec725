"""The learning rates of runs/sweep.sh -> the best one of each loss, as table, figure and list.

    python runs/sweep.py out/losses    FOLDER/sweep/<loss>/<rate>/seed0 -> FOLDER/sweep.md,
                                       sweep.png and best_rates.txt; results/losses by default

Best is the highest accuracy after the last epoch on val and test of imdb_dev together, which are
both cut out of the training side of IMDB; one seed a rate, so differences of a few tenths of a
point are chance.
"""
import json
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from nanoloss.configure import fail  # noqa: E402

matplotlib.use('agg')


def read_accuracies(folder):
    """The sweep's folder -> {loss: {rate: accuracy in %}}, and on how many reviews."""
    accuracies = {}
    n_reviews = 0
    for path in sorted(folder.glob('*/*/seed0/result.json')):
        loss, rate = path.parts[-4:-2]
        last = json.loads(path.read_text())['last']
        n_reviews = last['val']['n'] + last['test']['n']
        correct = last['val']['correct'] + last['test']['correct']
        accuracies.setdefault(loss, {})[float(rate)] = 100 * correct / n_reviews
    return accuracies, n_reviews


def find_best_rates(accuracies):
    """{loss: {rate: accuracy}} -> {loss: its best rate}."""
    return {loss: max(by_rate, key=by_rate.get) for loss, by_rate in accuracies.items()}


def make_table(accuracies, best_rates, rates, n_reviews):
    """A row a loss and a column a rate, the best rate in bold: Markdown."""
    header = ' | '.join(f'{rate:g}' for rate in rates)
    lines = [
        f'Accuracy, %, on val and test of imdb_dev together, {n_reviews:,} reviews, after the last '
        'epoch; one run each.',
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


def draw(accuracies, best_rates, rates):
    """A line a loss over the rates, with a dot at the best."""
    figure = Figure(figsize=(7, 4), layout='constrained')
    ax = figure.subplots()
    for loss, by_rate in accuracies.items():
        heights = [by_rate[rate] for rate in rates]
        line, = ax.plot(rates, heights, '.-', lw=1, label=loss)
        best = best_rates[loss]
        ax.plot(best, by_rate[best], 'o', color=line.get_color())
    ax.set(xscale='log', xlabel='highest learning rate', ylabel='accuracy on imdb_dev, %')
    ax.set(xticks=rates, xticklabels=[f'{rate:g}' for rate in rates])
    ax.minorticks_off()
    ax.legend(ncols=2, fontsize=8)
    ax.grid(alpha=0.3)
    return figure


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / 'results/losses'
    accuracies, n_reviews = read_accuracies(folder / 'sweep')
    if not accuracies:
        fail(f'{folder}/sweep: there is no finished run; bash runs/sweep.sh makes them')
    rates = sorted(next(iter(accuracies.values())))
    for loss, by_rate in accuracies.items():
        if sorted(by_rate) != rates:
            fail(f'{folder}/sweep/{loss}: its finished runs are not of the rates of the others')
    best_rates = find_best_rates(accuracies)

    table = make_table(accuracies, best_rates, rates, n_reviews)
    (folder / 'sweep.md').write_text(table, 'utf-8')
    lines = [f'{loss} {rate:g}\n' for loss, rate in best_rates.items()]
    (folder / 'best_rates.txt').write_text(''.join(lines))
    draw(accuracies, best_rates, rates).savefig(folder / 'sweep.png', dpi=110)
    print(table, end='')


if __name__ == '__main__':
    main()
