"""What the scripts share. Nothing in here imports a script.

Every script imports this package before torch, because it sets how OpenMP threads wait when idle,
and how a script that runs out of memory ends, which can happen while torch is imported.
"""
import errno
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

# At the end of each parallel loop a thread waits for the others, by default by spinning for 300,000
# turns, about 3 ms, even when the others wait for the very core that it spins on, as they do beside
# another training or a service. With fewer turns it sleeps sooner, but has to be woken more often
# when it is alone. libgomp, which torch brings, reads this when it is loaded.
SPINS = 2000
WAITING = 'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'KMP_BLOCKTIME'  # the last is of Intel's OpenMP
# what errors other than MemoryError say if memory is short
OUT_OF_MEMORY = re.compile(
    'out of memory|allocate memory|overflowed|start new thread|failed to map segment'
    '|without (setting an )?exception')

if not any(name in os.environ for name in WAITING):  # else the user has chosen
    os.environ['GOMP_SPINCOUNT'] = str(SPINS)


def is_out_of_memory(error):
    """Whether an exception means that memory is short."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, (ImportError, RuntimeError, SystemError)):
        return bool(OUT_OF_MEMORY.search(str(error)))
    return isinstance(error, MemoryError)


def report_uncaught(kind, error, traceback):
    """sys.excepthook of the scripts: running out of memory ends in one line and exit status 2, and
    Ctrl-C in one line."""
    if issubclass(kind, KeyboardInterrupt):
        print('\nstopped', file=sys.stderr)
        return
    if not is_out_of_memory(error):
        sys.__excepthook__(kind, error, traceback)
        return
    print(f'{Path(sys.argv[0]).name}: out of memory', file=sys.stderr)
    with suppress(OSError, ValueError):  # of a closed pipe or file
        sys.stdout.flush()
    os._exit(2)  # the interpreter's own exit can fail, too, if no memory is left


sys.excepthook = report_uncaught
