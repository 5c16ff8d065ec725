"""Run scripts in forked children, and copy what a kill at any moment would leave of each.

The process imports once what the scripts import, which takes seconds; its children share that. It
reads jobs from standard input, one line of JSON each:

    folders  the working directories; each has a child of its own
    command  a script, named as in conftest.py, and its arguments
    kept     null, or a folder for copies of the working directory: 0, 1, 2 ..., before each write

It answers a job with one line of JSON: the exit status of each child and the end of its output.

A write is a call that changes a name below the working directory. A kill before it leaves that
copy, because the buffers of open files are lost. A file that is opened for writing gives two
copies: one before that, and one in which the file is half-written.
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

from conftest import path_of  # also adds the repository to the path

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
    """In the child: run the script as its command does."""
    os.chdir(job['folder'])
    tempfile.tempdir = job['folder']  # so that leftovers are seen
    sys.argv = job['command']
    if job['kept']:
        sys.addaudithook(Keeper(job['folder'], job['kept']))
    code = 0
    try:
        runpy.run_path(str(path_of(job['command'][0])), run_name='__main__')
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
    """Import and compute once what takes the children longest and writes nothing."""
    import datasets  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import sklearn.svm  # noqa: F401
    import torch

    import evaluate  # noqa: F401
    from nanoloss import figures, files, loop, reader, tokenizer
    from tools import baseline, errors, export, pack, thresholds  # noqa: F401
    tokenizer.cl100k_from_wheel = functools.cache(tokenizer.cl100k_from_wheel)
    table = tokenizer.table_file(tokenizer.tokenizer()._mergeable_ranks)
    tokenizer.table_file = lambda ranks: table
    reader.read_tokenizer = functools.partial(read_known_tokenizer, table)
    torch.onnx.export = functools.partial(export_once, torch.onnx.export)
    figures.draw_figures = lambda *args: {'a.png': b'a figure', 'b.png': b'another'}
    figures.thresholds_png = lambda *args: b'a figure'
    files.current_commit = lambda: 'abc'
    loop.current_commit = lambda: 'abc'
    gc.freeze()


def read_known_tokenizer(table, path, name, pattern, special_tokens):
    """As reader.read_tokenizer, which takes half a second, for the only table there is."""
    from nanoloss import tokenizer
    assert path.read_bytes() == table
    return tokenizer.tokenizer(name)


programs = []  # the model in ONNX, once it has been exported


def export_once(torch_export, *args, **kwargs):
    """As torch.onnx.export, which takes seconds: the first model for all that follow."""
    if not programs:
        programs.append(torch_export(*args, **kwargs))
    return programs[0]


if __name__ == '__main__':
    prepare_to_fork()
    for line in sys.stdin:
        job = json.loads(line)
        if 'export' in job:  # the folder of a run, whose model the children export
            from nanoloss.classifier import TextClassifier
            from tools import export
            export.write_model(TextClassifier(job['export']).model, Path(os.devnull))
            print('{}', flush=True)
        else:
            print(json.dumps(answer(job)), flush=True)
