"""The learning rates that a loss was tried at -> the best one of each, as table, figure and list.

    python runs/sweep.py out/losses    groups FOLDER/sweep/<loss>/<rate> -> FOLDER/sweep.md,
                                       sweep.png and best_rates.txt; results/losses by default

Best is the highest accuracy on val after the last epoch, the mean of the seeds. Of a data set that
`prepare.py --dev` made, all of which is cut out of the training side, test counts with val. With a
seed or three a rate, differences of a few tenths of a point are chance.
"""
import sys
from pathlib import Path
from statistics import mean

import matplotlib
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from nanoloss.runs import finished_runs  # noqa: E402
from nanoloss.settings import fail  # noqa: E402

matplotlib.use('agg')


def read_accuracies(folder):
    """The sweep's folder -> {loss: {rate: mean accuracy in %}}, and on what it was taken."""
    accuracies = {}
    judged_on = ''
    for group in sorted(folder.glob('*/*')):
        loss, rate = group.parts[-2:]
        for run in finished_runs(group):
            dataset = run.config['dataset']
            splits = ['val', 'test'] if dataset.endswith('_dev') else ['val']
            last = run.result['last']
            n_texts = sum(last[split]['n'] for split in splits)
            correct = sum(last[split]['correct'] for split in splits)
            accuracies.setdefault(loss, {}).setdefault(float(rate), []).append(
                100 * correct / n_texts)
            judged_on = f'{" and ".join(splits)} of {dataset}, {n_texts:,} texts'
    for by_rate in accuracies.values():
        for rate, runs in by_rate.items():
            by_rate[rate] = mean(runs)
    return accuracies, judged_on


def find_best_rates(accuracies):
    """{loss: {rate: accuracy}} -> {loss: its best rate}."""
    return {loss: max(by_rate, key=by_rate.get) for loss, by_rate in accuracies.items()}


def make_table(accuracies, best_rates, rates, judged_on):
    """A row a loss and a column a rate, the best rate in bold: Markdown."""
    header = ' | '.join(f'{rate:g}' for rate in rates)
    lines = [
        f'Accuracy, %, on {judged_on}, after the last epoch; mean of the seeds.',
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
    """A line a loss over the rates, with a dot at the best."""
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


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / 'results/losses'
    accuracies, judged_on = read_accuracies(folder / 'sweep')
    if not accuracies:
        fail(f'{folder}/sweep: there is no finished run; bash runs/sweep.sh makes them')
    rates = sorted(next(iter(accuracies.values())))
    for loss, by_rate in accuracies.items():
        if sorted(by_rate) != rates:
            fail(f'{folder}/sweep/{loss}: its finished runs are not of the rates of the others')
    best_rates = find_best_rates(accuracies)

    table = make_table(accuracies, best_rates, rates, judged_on)
    (folder / 'sweep.md').write_text(table, 'utf-8')
    lines = [f'{loss} {rate:g}\n' for loss, rate in best_rates.items()]
    (folder / 'best_rates.txt').write_text(''.join(lines))
    draw(accuracies, best_rates, rates, judged_on).savefig(folder / 'sweep.png', dpi=110)
    print(table, end='')


if __name__ == '__main__':
    main()
