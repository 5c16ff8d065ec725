"""The kept runs in results/: all can be read, and the paper's table comes from them (10 s)."""
import pytest
from helpers import ROOT, config_of

import evaluate
from model import make_head
from nanoloss.runs import is_language_model, read_run, stored_runs

GROUPS = sorted(path.parent for path in (ROOT / 'results').rglob('runs.jsonl'))


@pytest.mark.parametrize('part', sorted({path.relative_to(ROOT).parts[1] for path in GROUPS}))
def test_every_kept_run_counts_as_its_result_says(part):
    for group in GROUPS:
        if group.relative_to(ROOT).parts[1] != part:
            continue
        for stored in stored_runs(group):
            if is_language_model(stored.config):
                arrays = stored.arrays
                n = stored.result['last']['test']['n']
                assert arrays['test_nll'].shape == arrays['test_tokens'].shape == (n,)
                mean = arrays['test_nll'].sum(dtype=float) / arrays['test_tokens'].sum()
                assert mean == pytest.approx(stored.result['last']['test']['nll'], rel=1e-6)
            else:
                code = stored.config['head'].rpartition(':')[0]  # a file of this repository
                read_run(stored, make_head, code)  # raises ValueError unless the counts agree


def rows_of(path, start):
    """The rows of the first Markdown table in a file after this text: lists of cells."""
    rows = []
    for line in path.read_text('utf-8').partition(start)[2].splitlines():
        if line.startswith('|'):
            rows.append([cell.strip(' *') for cell in line.split('|')[1:-1]])
        elif rows:
            break
    return rows


def test_the_table_of_the_paper_comes_from_the_kept_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, 'draw_figures', lambda groups, title: {})
    folders = [ROOT / 'results/paper/bce', ROOT / 'results/paper/ce']
    evaluate.main(config_of(evaluate, f'--out_dir={tmp_path}'), folders)
    shown = []
    for row in rows_of(ROOT / 'results/paper/README.md', '\n\n')[2:]:
        shown.append([*map(float, row[1:6]), row[6]])
    written = []
    for split in ('test', 'val'):
        for row in rows_of(tmp_path / 'table.md', f'## Accuracy on {split}')[2:]:
            written.append([*map(float, row[2:7]), row[8]])
    assert sorted(shown) == sorted(written)
    assert (tmp_path / 'table.md').read_text() == (ROOT / 'results/paper/table.md').read_text()
