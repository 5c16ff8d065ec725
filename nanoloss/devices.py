"""The device and the precision of a run: CUDA, MPS or a CPU; float16 to float64."""
import sys
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode


def bfloat16_is_fast():
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get('amx_bf16') or capabilities.get('avx512_bf16'))


def choose_device(device):
    """'auto' -> the first of cuda, mps and cpu that this machine has. Raises ValueError."""
    # the fastest first
    available = ['cpu']
    if torch.backends.mps.is_available():
        available.insert(0, 'mps')
    if torch.cuda.is_available():
        available.insert(0, 'cuda')
    if device == 'auto':
        return available[0]
    if device not in available:
        raise ValueError(f'device {device!r} is not available; there is {", ".join(available)}')
    return device


def choose_dtype(dtype, device):
    """'auto' -> the fastest precision that is safe on that device. Raises ValueError."""
    # emulated bfloat16 would be slower than float16
    if dtype == 'auto' and device == 'cuda':
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return 'bfloat16' if native else 'float16'
    if dtype == 'auto' and device == 'cpu' and bfloat16_is_fast():
        return 'bfloat16'
    if dtype == 'auto':
        return 'float32'
    known = dtype in ('bfloat16', 'float16', 'float32', 'float64')
    if not known or (device, dtype) == ('mps', 'float64'):
        raise ValueError('dtype is bfloat16, float16, float32 or (not on mps) float64, '
                         f'not {dtype!r}')
    return dtype


def autocast(device, dtype):
    """A context in which matrix products are computed in dtype, if that is a 16-bit one."""
    return torch.autocast(device, getattr(torch, dtype), enabled=dtype in ('bfloat16', 'float16'))


class WithoutNormal(TorchFunctionMode):
    """A context in which nn.init.normal_ does nothing. Without memory to fill, it would import
    torch.compile, which takes a second or more."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.init.normal_:
            return None
        return function(*args, **(kwargs or {}))


@contextmanager
def shapes_only():
    """A context in which new tensors have a shape, but no memory: a model of any size can be made
    in it, to see the shapes of its weights."""
    with torch.device('meta'), WithoutNormal():
        yield


def hardware_name(device):
    """The name of the chip."""
    if device == 'cuda':
        return torch.cuda.get_device_name()
    return torch.cpu.get_capabilities().get('cpu_name', device)


def to_device(array, device):
    """A numpy array -> a tensor on the device. This does not wait for a GPU: it copies from pinned
    memory when it gets there."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type == 'cuda':
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def synchronize(device):
    """Wait until a GPU has finished the work of this stream."""
    if device == 'cuda':
        torch.cuda.current_stream().synchronize()
    elif device == 'mps':
        torch.mps.synchronize()


def reset_peak_memory(device):
    """Reset the peak memory of a GPU. That of a process on a CPU cannot be reset."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb(device):
    """Peak memory in MB: of the GPU since `reset_peak_memory`, or of the whole process; None if it
    is unknown."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() // 2 ** 20
    if sys.platform == 'win32':
        return None
    import resource  # Unix only
    unit = 2 ** 20 if sys.platform == 'darwin' else 2 ** 10  # bytes there, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
