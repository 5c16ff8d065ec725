"""Code shared by train.py and lm/pretrain.py: start, measure, save, resume and stop a run."""
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from nanoloss import is_out_of_memory, parallel
from nanoloss.settings import fail, updated
from nanoloss.devices import choose_device, choose_dtype, hardware_name
from nanoloss.files import (
    current_commit, load_checked, locked_folder, write_file, write_json, write_json_lines)
from nanoloss.runs import ADDED, REMOVED, upgrade_config

# settings and facts that may differ between a run and the command that resumes it
MAY_DIFFER = {
    'out_dir', 'data_dir', 'n_runs', 'overwrite', 'ckpt_secs', 'tensorboard', 'graphs',
    'deterministic', 'device', 'threads', 'processes', 'hardware', 'torch', 'sklearn', 'commit',
    'files', 'code'}

stop_signal = 0  # the signal that asked this process to stop


# Starting

def with_out_dir(config, config_files, parent):
    """Replace an empty out_dir by parent/NAME -> a new config. NAME is that of the last config file
    or, without one, of the data set."""
    name = Path(config_files[-1]).stem if config_files else config.dataset
    return updated(config, out_dir=config.out_dir or f'{parent}/{name}')


def start_device(config):
    """Prepare the device, and replace the settings that follow from it -> a new config. Fails if
    the device is not available."""
    try:
        device = choose_device(config.device)
        dtype = choose_dtype(config.dtype, device)
        parallel.start(device)
    except ValueError as error:
        fail(error)
    if config.threads:
        torch.set_num_threads(config.threads)
    # on Hopper with a mask, cuDNN's backward gives NaN at some lengths: pytorch/pytorch#196678
    torch.backends.cuda.enable_cudnn_sdp(False)
    if config.deterministic:
        os.environ['CUBLAS_WORKSPACE_CONFIG'] = ':4096:8'
        torch.use_deterministic_algorithms(True)
    graphs = config.graphs and can_use_graphs(device, dtype, config.max_tokens)
    max_tokens = config.max_tokens or (8192 if device == 'cpu' else 2 ** 30)
    return updated(config, device=device, dtype=dtype, graphs=graphs, max_tokens=max_tokens)


def can_use_graphs(device, dtype, max_tokens):
    """Whether a step can be a CUDA graph: not if it needs the host, for float16's GradScaler,
    micro-batches or other processes."""
    return device == 'cuda' and dtype != 'float16' and not max_tokens and parallel.WORLD == 1


def require_tensorboard():
    """Fail before the run if TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        fail(f'{error}; pip install tensorboard, or leave out --tensorboard')


def describe_machine(device):
    """Facts for config.json: the machine and the commit."""
    return {
        'hardware': hardware_name(device),
        'threads': torch.get_num_threads(),
        'processes': parallel.WORLD,
        'torch': torch.__version__,
        'commit': current_commit(),
    }


def describe_files(config):
    """The checksums of the user's files with the head and the trunk, {file: sha256}; {} if both are
    in model.py."""
    found = {}
    for name in config.head, config.trunk:
        file, _, _ = name.rpartition(':')
        if file:
            found[Path(file).name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


@contextmanager
def run_folder(config):
    """Lock the folder of one seed's run and write its config.json -> the folder, or None if the run
    is complete. Fails if the folder holds a run with other settings."""
    folder = Path(config.out_dir) / f'seed{config.seed}'
    with locked_folder(folder):
        claim_run(folder, vars(config))
        parallel.wait()  # until the first process has prepared the folder
        complete = (folder / 'result.json').exists()
        if complete:
            print(f'{folder} is complete already')
        yield None if complete else folder
        if parallel.RANK == 0:  # in a complete run too, since a kill may have left it
            (folder / 'ckpt.pt').unlink(missing_ok=True)


def run_seeds(config, train):
    """Call train(config of the seed, folder) for each seed whose run is not complete."""
    for seed in range(config.seed, config.seed + config.n_runs):
        run_config = updated(config, seed=seed)
        with run_folder(run_config) as folder:
            if folder is not None:
                train(run_config, folder)
    parallel.finish()


def claim_run(folder, config):
    """Write config.json into a run's folder, or check that the run there has the same config."""
    if config['overwrite'] and parallel.RANK == 0:
        # after a kill in between, the folder must not look complete or have another config:
        # remove result.json first, and keep config.json until it is replaced
        (folder / 'result.json').unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != 'config.json':
                path.unlink()
    is_new = not any((folder / file).exists() for file in ('log.jsonl', 'ckpt.pt', 'result.json'))
    if config['overwrite'] or is_new:
        write_json(folder / 'config.json', config)
        return

    way_out = f'give another --out_dir, or --overwrite to delete {folder}'
    try:
        old = REMOVED | ADDED | upgrade_config(json.loads((folder / 'config.json').read_text()))
    except (ValueError, TypeError, AttributeError, KeyError):
        fail(f'{folder}/config.json is damaged; {way_out}')
    new = REMOVED | config
    differing = [key for key in new if key not in MAY_DIFFER and old.get(key) != new[key]]
    # these three depend on the device, as does the format of the optimizers' state
    moved = old.get('device') != config.get('device')
    if moved and differing and set(differing) <= {'dtype', 'deferred', 'max_tokens'}:
        fail(f'{folder} was begun with --device={old.get("device")}, with another '
             f'{", ".join(differing)}; resume it there, or {way_out}')
    if differing:
        key = differing[0]
        fail(f'{folder} holds a run with other {", ".join(differing)} ({key} was {old.get(key)!r}, '
             f'is {new[key]!r}); {way_out}')
    if old.get('commit') != config['commit']:
        print(f'warning: {folder} was begun at commit {old.get("commit") or "unknown"}, the code '
              f'is now at {config["commit"] or "unknown"}', file=sys.stderr)
    for file, sha256 in (old.get('files') or {}).items():
        if config['files'].get(file) != sha256:
            print(f'warning: {file} has changed since {folder} was begun; {way_out}',
                  file=sys.stderr)


# During a run

class Progress:
    """How far a run has come: its step, its log and its time."""

    def __init__(self):
        self.step = 0
        self.log = []  # the rows of log.jsonl
        self.curves = None  # TensorBoard's SummaryWriter, made by `log_row`
        self.seconds_before = 0.0  # seconds of the run before it was interrupted
        self.start_clock()

    def start_clock(self):
        self.started = time.perf_counter()
        self.saved = self.started

    def seconds(self):
        """Seconds of the whole run, evaluation included."""
        return self.seconds_before + time.perf_counter() - self.started

    def save_is_due(self, sums_are_joined, ckpt_secs):
        """Whether the last save is ckpt_secs ago, or a signal asked this process to stop.

        Several processes each have their own sums until an evaluation adds them up, so they save
        only then. sums_are_joined: whether an evaluation has just done so.
        """
        if parallel.WORLD > 1 and not sums_are_joined:
            return False
        return stop_signal or time.perf_counter() - self.saved > ckpt_secs

    def state_dict(self):
        return {
            'step': self.step,
            'log': self.log,
            'seconds_before': self.seconds(),
        }

    def load_state_dict(self, state):
        vars(self).update(state)


class Meter:
    """Sums over the steps of an epoch (in lm/pretrain.py, since the last line of the log). They
    stay on the device, because reading a number synchronizes with a GPU."""

    def __init__(self, device):
        # losses, correct answers, gradient norms, number of finite gradient norms
        self.sums = torch.zeros(4, device=device)
        self.reset()
        self.start_clock()

    def reset(self):
        self.sums.zero_()  # in place: a CUDA graph adds to this tensor
        self.n_answers = 0
        self.n_tokens = 0
        self.seconds = 0.0

    def start_clock(self):
        """Continue the clock. The time since it stopped, such as evaluation, does not count."""
        self.since = time.perf_counter()

    def add_micro_batch(self, loss, correct, n):
        """loss: the mean over its n predictions; correct: how many are correct, a tensor."""
        self.sums[:2] += torch.stack([loss * n, correct])

    def add_norm(self, grad_norm):
        # a float16 step may overflow: the GradScaler skips it, and its norm does not count
        finite = grad_norm.isfinite()
        self.sums[2:] += torch.stack([torch.where(finite, grad_norm, 0), finite])

    def count(self, n_answers, n_tokens):
        """Count the predictions and tokens of a step, after its micro-batches and its norm."""
        self.n_answers += n_answers
        self.n_tokens += n_tokens
        self.stop_clock()

    def stop_clock(self):
        tick = time.perf_counter()
        self.seconds += tick - self.since
        self.since = tick

    def tokens_per_second(self):
        """Tokens of texts per second, before token dropout and bags."""
        return self.n_tokens / self.seconds

    def means(self):
        """The training columns of log.jsonl, over all processes."""
        sums = parallel.sum_over_processes(self.sums.clone())
        loss, correct, norm, n_norms = sums.tolist()
        return {
            'train_loss': loss / self.n_answers,
            'train_acc': correct / self.n_answers,
            'grad_norm': norm / n_norms if n_norms else None,
            'tokens_per_second': self.tokens_per_second(),
        }

    def state_dict(self):
        return dict(vars(self))

    def load_state_dict(self, state):
        vars(self).update(state)


def fail_at_loss(loss, folder, step, steps=None):
    """Fail because the loss is not finite; steps: per epoch."""
    epoch = f' (epoch {math.ceil(step / steps)})' if steps else ''
    fail(f'{folder}: the loss is {loss} at step {step}{epoch}; '
         'try a lower --learning_rate or --dtype=float32')


class Best:
    """The weights with the most correct answers on val so far, kept on the device."""

    def __init__(self):
        self.epoch = 0
        self.correct = -1
        self.weights = {}

    def keep(self, model, epoch, correct):
        self.epoch = epoch
        self.correct = correct
        self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def state_dict(self):
        return dict(vars(self))

    def load_state_dict(self, state):
        vars(self).update(state)


def show_progress(folder, step, steps, epochs, meter):
    """On a terminal, print a line that the next one overwrites. steps: per epoch."""
    if sys.stdout.isatty():
        epoch = math.ceil(step / steps)
        print(f'\r{folder}  epoch {epoch}/{epochs}  step {step - steps * (epoch - 1)}/{steps}  '
              f'{meter.tokens_per_second():,.0f} tokens/s\033[K', end='', flush=True)


def log_row(folder, progress, row, tensorboard):
    """Append a row to log.jsonl and, with tensorboard, its numbers to the curves in the run's
    folder tensorboard/."""
    progress.log.append(row)
    write_json_lines(folder / 'log.jsonl', progress.log)
    if not tensorboard or parallel.RANK:
        return
    rows = [row]
    if progress.curves is None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import
        # a resumed run may repeat points or lack earlier ones, so write all curves again
        shutil.rmtree(folder / 'tensorboard', ignore_errors=True)
        progress.curves = SummaryWriter(folder / 'tensorboard')
        rows = progress.log
    for row in rows:
        for name, value in row.items():
            if name != 'step' and value is not None:
                progress.curves.add_scalar(name, value, row['step'])
    progress.curves.flush()


# Saving and resuming

def save_checkpoint(folder, state):
    """Write ckpt.pt; state: {name: object with a state_dict}, 'progress' a Progress."""
    checkpoint = {name: part.state_dict() for name, part in state.items()}
    write_file(folder / 'ckpt.pt', lambda file: torch.save(checkpoint, file))
    state['progress'].saved = time.perf_counter()


def load_checkpoint(folder, state, last_step, device):
    """Restore the state from ckpt.pt, if there is one."""
    if not (folder / 'ckpt.pt').exists():
        return
    try:
        checkpoint = load_checked(folder / 'ckpt.pt', device)
        for name, part in state.items():
            part.load_state_dict(checkpoint[name])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        # RuntimeError: weights of another shape
        fail(f'{folder} cannot be resumed ({type(error).__name__}: {error}); '
             'start this run again with --overwrite')
    print(f'{folder} resumes after step {state["progress"].step} of {last_step}')


# Stopping

def stop_at_signals():
    """Stop cleanly at SIGINT and SIGTERM. torchrun stops its processes itself."""
    if parallel.WORLD == 1:
        signal.signal(signal.SIGINT, request_stop)
        signal.signal(signal.SIGTERM, request_stop)


def request_stop(signum, frame):
    """Finish the step, save and stop. At a second signal, stop at once."""
    global stop_signal
    stop_signal = signum
    signal.signal(signum, signal.SIG_DFL)


@contextmanager
def clean_exit(out_dir):
    """After a full disk, too little memory or a signal, exit with one line of advice."""
    try:
        yield
    except KeyboardInterrupt:
        print('\nstopped; the same command resumes', file=sys.stderr)
        sys.exit(128 + (stop_signal or signal.SIGINT))
    except Exception as error:
        if is_out_of_memory(error):
            fail('out of memory; try a lower --max_tokens, --batch_size, --block_size or --n_embd')
        if isinstance(error, OSError):
            fail(f'cannot write to {out_dir}: {error}; earlier checkpoints are kept')
        raise


def seed_step(run_seed, step, device):
    """Seed dropout with the run's seed, the process and the step, so that a resumed run draws the
    same numbers."""
    seed = ((run_seed * parallel.WORLD + parallel.RANK) * 1_000_003 + step) % 2 ** 63
    if device == 'cpu':  # torch.manual_seed takes 0.2 ms, for devices that are not in use
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def is_finite(loss, device, step):
    """Whether a loss is finite. Reading it synchronizes with a GPU, so a GPU checks every tenth
    step only, and the sum of all losses at the next evaluation."""
    if device != 'cpu' and step % 10:
        return True
    return math.isfinite(loss.item())
