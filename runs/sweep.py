"""results/losses/sweep/<loss>/<rate>/seed0 -> the best learning rate of each loss, as table, figure and list.

Best is the highest accuracy after the last epoch on val and test of imdb_dev together, which are both cut out of
the training side of IMDB; one seed a rate, so differences of a few tenths of a point are chance.
"""
import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

matplotlib.use('agg')
out = Path(__file__).parents[1] / 'results' / 'losses'
accuracy = {}  # {loss: {rate: (accuracy in %, reviews)}}
for path in sorted(out.glob('sweep/*/*/seed0/result.json')):
    last = json.loads(path.read_text())['last']
    n = sum(last[split]['n'] for split in ('val', 'test'))
    right = sum(last[split]['correct'] for split in ('val', 'test'))
    accuracy.setdefault(path.parts[-4], {})[float(path.parts[-3])] = 100 * right / n
rates = sorted({rate for row in accuracy.values() for rate in row})
best = {name: max(row, key=row.get) for name, row in accuracy.items()}

table = [f'Accuracy, %, on val and test of imdb_dev together, {n:,} reviews, after the last epoch; one run each.', '',
         f'| loss | {" | ".join(f"{rate:g}" for rate in rates)} |', '| --- ' * (len(rates) + 1) + '|']
for name, row in accuracy.items():
    cells = (f'**{row[rate]:.2f}**' if rate == best[name] else f'{row[rate]:.2f}' for rate in rates)
    table.append(f'| {name} | {" | ".join(cells)} |')
(out / 'sweep.md').write_text('\n'.join(table) + '\n')
(out / 'best_rates.txt').write_text(''.join(f'{name} {rate:g}\n' for name, rate in best.items()))

figure = Figure(figsize=(7, 4), layout='constrained')
axis = figure.subplots()
for name, row in accuracy.items():
    line, = axis.plot(rates, [row[rate] for rate in rates], '.-', lw=1, label=name)
    axis.plot(best[name], row[best[name]], 'o', color=line.get_color())
axis.set(xscale='log', xlabel='highest learning rate', ylabel='accuracy on imdb_dev, %', xticks=rates,
         xticklabels=[f'{rate:g}' for rate in rates])
axis.minorticks_off()
axis.legend(ncols=2, fontsize=8)
axis.grid(alpha=0.3)
figure.savefig(out / 'sweep.png', dpi=110)
print('\n'.join(table))
