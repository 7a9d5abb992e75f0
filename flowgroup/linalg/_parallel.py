"""Batched LAPACK calls on all cores: torch runs a batch of small matrices in one loop on one core."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import torch
from torch import Tensor

from flowgroup._checks import values_readable


def parallel(f: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, least: int) -> tuple[Tensor, ...]:
    """f(*tensors), each thread of torch.get_num_threads() having a part of the first dimension.

    The parts run on the threads that torch's own operations run on, as one parallel region of OpenMP: threads of our
    own would wait for those, which spin for milliseconds after an operation. In the region linear algebra has one
    thread, which is a gain too: with more, MKL is several times slower on small matrices. Where splitting cannot pay
    or is impossible (one thread, another device than the CPU, inside torch.compile, vmap or grad, no OpenMP), this is
    f(*tensors).

    Args:
        f: function of tensors with the same first dimension, that acts on every index of it alone, and spends its time
            outside the interpreter's lock. It runs without gradients when it is split.
        tensors: its arguments.
        least: smallest size of the first dimension that is split.

    Returns:
        The tensors that f returns.
    """
    if _region is None or not all(values_readable(x) and x.device.type == "cpu" for x in tensors):
        return f(*tensors)
    threads = torch.get_num_threads()
    if threads == 1 or tensors[0].shape[0] < max(least, threads):
        return f(*tensors)
    parts = list(zip(*(x.detach().tensor_split(threads) for x in tensors)))
    results: dict[int, tuple[Tensor, ...]] = {}
    errors: list[BaseException] = []
    jobs = iter(range(threads))

    def work(_: int | None) -> None:
        try:
            with torch.no_grad():
                for i in jobs:
                    results[i] = f(*parts[i])
        except BaseException as error:  # it cannot pass through foreign frames
            errors.append(error)

    _region(_Work(work), None, threads, 0)
    if errors:
        raise errors[0]
    return tuple(torch.cat(pieces) for pieces in zip(*(results[i] for i in range(threads))))


_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _parallel_region() -> Callable | None:
    """`GOMP_parallel(work, data, threads, flags)` of the OpenMP that torch is linked to: work(data) on a team."""
    try:
        region = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return None
    region.argtypes = [_Work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    region.restype = None
    return region


_region = _parallel_region()


def _stay_alone() -> None:
    """A child process has none of its parent's threads, and OpenMP would wait for them."""
    global _region
    _region = None


os.register_at_fork(after_in_child=_stay_alone)
