"""Random numbers that depend on a key alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(device: torch.device, *key: int) -> Iterator[None]:
    """Inside, the global generators of torch, numpy and Python start from `key`; afterwards they go on as before.

    An epoch whose randomness depends on (seed, epoch, process) needs no stored generator states to be repeated.

    Example:
        >>> with seeded(torch.device("cpu"), 0, 3):
        ...     a = torch.rand(2)
        >>> with seeded(torch.device("cpu"), 0, 3):
        ...     print(torch.equal(a, torch.rand(2)))
        True
    """
    words = np.random.SeedSequence(key).generate_state(2, np.uint32)
    python, legacy = random.getstate(), np.random.get_state()
    accelerator = {} if device.type == "cpu" else {"device_type": device.type}
    with torch.random.fork_rng(devices=[device] if accelerator else [], **accelerator):
        torch.manual_seed((int(words[0]) << 32 | int(words[1])) >> 1)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
