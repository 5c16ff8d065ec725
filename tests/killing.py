"""A process that runs scripts in forked children and keeps what a kill would leave of each.

It imports once what the scripts import, which takes seconds; a child begins with all of it. Reads
jobs from standard input, a line of JSON each: folders, the working directories, a child for each;
command, a script and its arguments; kept, a folder that gets a copy of the working directory as it
is before each write, 0, 1, 2 ..., or null. Answers each with a line of JSON: for each child, its
exit status and the end of its output.

A write is whatever changes a name below the working directory: a kill before it leaves that copy,
for what is in the buffers of open files then is in neither. Opening a file for writing gives two
copies: one before it, and one in which the file is half-written.
"""
import functools
import gc
import json
import os
import runpy
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
CHANGES = {'os.rename', 'os.mkdir', 'os.remove', 'os.rmdir', 'os.truncate', 'os.link',
           'os.symlink'}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Keeper:
    """An audit hook that copies a folder to `kept` before each write below it."""

    def __init__(self, folder, kept):
        self.folder = Path(folder)
        self.kept = Path(kept)
        self.n = 0
        self.is_busy = False

    def __call__(self, event, arguments):
        is_open = event == 'open' and arguments[2] is not None and arguments[2] & WRITING
        if self.is_busy or not (is_open or event in CHANGES) or isinstance(arguments[0], int):
            return
        # rmtree's paths are relative to a folder that it has opened, below the working directory
        path = Path(os.path.abspath(os.fsdecode(arguments[0])))
        if not path.is_relative_to(self.folder) or path == self.folder:
            return
        self.is_busy = True
        self.keep()
        if is_open and not path.is_dir():
            copy = self.keep()
            (copy / path.relative_to(self.folder)).write_bytes(b'{"half')
        self.is_busy = False

    def keep(self):
        copy = self.kept / str(self.n)
        shutil.copytree(self.folder, copy)
        self.n += 1
        return copy


def run(job):
    """In the child: run the script as a command line does."""
    os.chdir(job['folder'])
    tempfile.tempdir = job['folder']  # so that leftovers are seen
    sys.argv = job['command']
    if job['kept']:
        sys.addaudithook(Keeper(job['folder'], job['kept']))
    code = 0
    try:
        runpy.run_path(str(ROOT / job['command'][0]), run_name='__main__')
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


def start(job):
    """In the parent: fork -> the child's process id, the file that gets its output."""
    words = tempfile.TemporaryFile()  # noqa: SIM115
    child = os.fork()
    if not child:
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
        run(job)
    return child, words


def finish(child, words):
    """Wait for a child -> its part of the answer."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    words.seek(0)
    with words:
        return {'code': code, 'said': words.read().decode()[-3000:]}


def answer(job):
    """The children of a job, two at a time -> a list of their parts of the answer."""
    answers = []
    folders = job.pop('folders')
    for i in range(0, len(folders), 2):
        children = [start({**job, 'folder': folder}) for folder in folders[i:i + 2]]
        answers += [finish(*child) for child in children]
    return answers


def prepare_to_fork():
    """Import and compute once what costs the children most and writes nothing."""
    import nanoloss  # noqa: F401 (before torch, whose threads it tells how to wait)

    import datasets  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import sklearn.svm  # noqa: F401
    import torch

    import evaluate  # noqa: F401
    import export  # noqa: F401
    import nanoloss.errors  # noqa: F401
    from nanoloss import figures, files, reader, tokenizer
    tokenizer.cl100k_from_wheel = functools.cache(tokenizer.cl100k_from_wheel)
    table = tokenizer.table_file(tokenizer.tokenizer()._mergeable_ranks)
    tokenizer.table_file = lambda ranks: table
    reader.read_tokenizer = functools.partial(read_known_tokenizer, table)
    torch.onnx.export = functools.partial(export_once, torch.onnx.export)
    figures.draw_figures = lambda *args: {'a.png': b'a figure', 'b.png': b'another'}
    figures.thresholds_png = lambda *args: b'a figure'
    files.current_commit = lambda: 'abc'
    gc.freeze()


def read_known_tokenizer(table, path, name, pattern, special_tokens):
    """reader.read_tokenizer, which takes half a second, of the one table."""
    from nanoloss import tokenizer
    assert path.read_bytes() == table
    return tokenizer.tokenizer(name)


programs = []  # of models for ONNX


def export_once(torch_export, *args, **kwargs):
    """torch.onnx.export, which takes seconds, of the first model in the place of all."""
    if not programs:
        programs.append(torch_export(*args, **kwargs))
    return programs[0]


if __name__ == '__main__':
    prepare_to_fork()
    for line in sys.stdin:
        job = json.loads(line)
        if 'export' in job:  # a run's folder, whose model the children export
            import export
            from predict import Classifier
            export.write_model(Classifier(job['export']), Path(os.devnull))
            print('{}', flush=True)
        else:
            print(json.dumps(answer(job)), flush=True)
