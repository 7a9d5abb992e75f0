"""Batched LAPACK calls on all cores: torch runs a batch of small matrices in one loop on one core."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from flowgroup._checks import values_readable

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads


def parallel(f: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, least: int) -> tuple[Tensor, ...]:
    """f(*tensors), each thread of torch.get_num_threads() having a part of the first dimension.

    The parts run where linear algebra has one thread. That too is a gain: with more, MKL is several times slower on
    small matrices. Where splitting cannot pay or is impossible (one thread, another device than the CPU, inside
    torch.compile, vmap or grad), this is f(*tensors).

    Args:
        f: function of tensors with the same first dimension, that acts on every index of it alone, and spends its time
            outside the interpreter's lock. It runs without gradients when it is split.
        tensors: its arguments.
        least: smallest size of the first dimension that is split.

    Returns:
        The tensors that f returns.
    """
    if not all(values_readable(x) and x.device.type == "cpu" for x in tensors):
        return f(*tensors)
    threads = torch.get_num_threads()
    if threads == 1 or tensors[0].shape[0] < max(least, threads):
        return f(*tensors)
    parts = zip(*(x.detach().tensor_split(threads) for x in tensors))
    pool = _pool(threads)
    results = [future.result() for future in [pool.submit(_without_gradient, f, part) for part in parts]]
    return tuple(torch.cat(pieces) for pieces in zip(*results))


def _without_gradient(f: Callable, part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return f(*part)


def _use_one_thread() -> None:
    torch.get_num_threads()  # a thread's first look takes the number over from the others: let that be past
    torch.set_num_threads(1)


def _pool(threads: int) -> ThreadPoolExecutor:
    if threads not in _pools:
        pool = ThreadPoolExecutor(threads, "flowgroup-linalg", initializer=_use_one_thread)
        barrier = threading.Barrier(threads)
        for future in [pool.submit(barrier.wait) for _ in range(threads)]:
            future.result()
        # each now has its own number of threads; the number set last is also that of threads yet to start
        torch.set_num_threads(threads)
        _pools[threads] = pool
    return _pools[threads]
