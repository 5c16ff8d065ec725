"""Pack the finished runs of a group into two files, for results/.

    python -m tools.pack out/bce results/paper/bce [--answers=right]

Writes runs.jsonl (a line per run: its config, result and log) and answers.npz, as described in
nanoloss/runs.py. evaluate.py and the tools read a packed group as they read a folder of runs.
Weights are not kept. A packed group can be packed again, with fewer answers.
"""
import json
import zipfile
from pathlib import Path

from nanoloss import is_out_of_memory  # before torch: it sets how OpenMP threads wait
import numpy as np

from model import make_head
from nanoloss.files import write_file, write_json_lines
from nanoloss.runs import PackedGroup, is_language_model, read_run, stored_runs
from nanoloss.settings import configure, fail

# -----------------------------------------------------------------------------
# the answers to keep: logits; right (a bit per answer for its correctness, and the measures of the
# probabilities); or none (only the counts in result.json)
answers = 'logits'
code = ''  # the Python file of a head that is not in model.py; it will be executed
# -----------------------------------------------------------------------------
SPLITS = ('val', 'test')


def right_answers(stored, row, code):
    """A stored run -> its arrays with <split>_correct instead of <split>_logits. Adds the measures
    to `row`, its row of runs.jsonl."""
    run = read_run(stored, make_head, code)
    if run.logits:
        from nanoloss.stats import measures_of  # importing scipy takes a second
        row['measures'] = measures_of(run)
    arrays = {}
    for split in SPLITS:
        arrays[f'{split}_labels'] = run.labels[split]
        arrays[f'{split}_correct'] = run.correct[split]
        if run.groups[split] is not None:
            arrays[f'{split}_groups'] = run.groups[split]
    return arrays


def pack_run(stored, answers, code):
    """A finished run -> its row of runs.jsonl and its arrays. answers: the setting. Raises
    ValueError if the run is damaged."""
    row = {'name': stored.path.name, 'config': stored.config, 'result': stored.result,
           'log': stored.log}
    if stored.samples is not None:
        row['samples'] = stored.samples
    if answers == 'none':
        return row, {}
    if stored.measures is not None:
        row['measures'] = stored.measures
    if is_language_model(stored.config):
        return row, stored.arrays
    if answers == 'right':
        return row, right_answers(stored, row, code)
    read_run(stored, make_head, code)  # raises ValueError if its counts are wrong
    return row, stored.arrays


def pack_arrays(runs):
    """[{name: array}], a dict per run -> one dict of the arrays of `PackedGroup`. Raises ValueError
    if the runs were not judged on the same texts."""
    packed = {}
    for name in dict.fromkeys(name for arrays in runs for name in arrays):
        arrays = [arrays.get(name) for arrays in runs]
        if name.endswith(PackedGroup.SHARED):
            if not all(np.array_equal(array, arrays[0]) for array in arrays):
                raise ValueError(f'its {name} are not those of the first run')
            packed[name] = arrays[0]
        elif name.endswith('_correct'):
            packed[name] = np.packbits(np.stack(arrays), axis=1)
        else:
            floats = np.stack(arrays)
            floats = floats.astype(floats.dtype.newbyteorder('<'))
            singles = floats[..., None].view(np.uint8)
            packed[name] = np.ascontiguousarray(np.moveaxis(singles, -1, 0))
    return packed


def write_arrays(file, arrays):
    """Write an .npz with LZMA compression, a sixth smaller than by np.savez_compressed for these
    arrays. Equal arrays give equal files."""
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f'{name}.npy')
            member.compress_type = zipfile.ZIP_LZMA
            with archive.open(member, 'w') as opened:
                np.lib.format.write_array(opened, array)


def write_group(folder, rows, arrays):
    """Write runs.jsonl and answers.npz, or remove an old answers.npz if there are no answers."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if arrays:
            write_file(folder / 'answers.npz', lambda file: write_arrays(file, arrays))
        else:
            (folder / 'answers.npz').unlink(missing_ok=True)
        write_json_lines(folder / 'runs.jsonl', rows)
    except OSError as error:
        fail(f'{folder}: cannot be written ({error})')


def main(config, folders):
    if len(folders) != 2:
        fail('name the group and the folder that it goes to: '
             'python -m tools.pack out/bce results/paper/bce')
    if config.answers not in ('logits', 'right', 'none'):
        fail(f'answers is logits, right or none, not {config.answers!r}')
    source, target = map(Path, folders)
    found = stored_runs(source)
    finished = [stored for stored in found if stored.is_finished()]
    if not finished:
        fail(f'{source}: there is no finished run')
    rows = []
    arrays = []
    for stored in finished:
        try:
            row, of_run = pack_run(stored, config.answers, config.code)
            json.dumps(row, allow_nan=False)
        except Exception as error:  # a damaged file can raise anything
            if is_out_of_memory(error):
                raise
            fail(f'{stored.path}: {error}')
        rows.append(row)
        arrays.append(of_run)
    try:
        packed = pack_arrays(arrays)
    except ValueError as error:
        fail(f'{source}: {error}')
    write_group(target, rows, packed)
    print(f'{target}: packed the finished runs, {len(rows)} of {len(found)}')


if __name__ == '__main__':
    folders = []
    main(configure(globals(), positional=folders), folders)
