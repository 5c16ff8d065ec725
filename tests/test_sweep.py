"""results/losses/sweep.py on made-up runs: how a rate is judged, and which one is best."""
import json

from helpers import fails

from results.losses import sweep


def write_run(folder, dataset, val, test):
    """A finished run with these numbers of correct answers, of 10 on val and of 30 on test."""
    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(json.dumps({'dataset': dataset}))
    last = {'val': {'n': 10, 'correct': val}, 'test': {'n': 30, 'correct': test}}
    (folder / 'result.json').write_text(json.dumps({'last': last}))


def test_a_rate_is_judged_by_the_mean_of_its_seeds_on_val(tmp_path, capsys):
    """Test, which says otherwise, counts only if all of the data set is training texts."""
    for dataset, best, row in (
            ('trec', '0.01', '| ce | 65.00 | **70.00** |'),  # (6 + 7) / 20, 7 / 10
            ('imdb_dev', '0.001', '| ce | **91.25** | 17.50 |')):  # (6 + 7 + 60) / 80, (7 + 0) / 40
        for rate, runs in ('0.001', [(6, 30), (7, 30)]), ('0.01', [(7, 0), (7, 0)]):
            for seed, (val, test) in enumerate(runs):
                write_run(tmp_path / dataset / f'sweep/ce/{rate}/seed{seed}', dataset, val, test)
        sweep.main(tmp_path / dataset)
        table = capsys.readouterr().out
        assert table == (tmp_path / dataset / 'sweep.md').read_text()
        assert row in table
        assert (tmp_path / dataset / 'best_rates.txt').read_text() == f'ce {best}\n'
        assert (tmp_path / dataset / 'sweep.png').stat().st_size > 1000


def test_losses_of_other_rates_or_no_runs_end_in_a_line(tmp_path, capsys):
    assert 'there is no finished run' in fails(capsys, tmp_path, run=sweep.main)
    write_run(tmp_path / 'sweep/ce/0.1/seed0', 'trec', 1, 1)
    write_run(tmp_path / 'sweep/bce/0.2/seed0', 'trec', 1, 1)
    error = fails(capsys, tmp_path, run=sweep.main)
    assert 'other rates than those of the other losses' in error
