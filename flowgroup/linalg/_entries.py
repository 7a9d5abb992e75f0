"""Small matrices entry by entry, each entry one array over the batch: what closed forms compute with.

The arrays are numpy's where values may be read on the CPU, since numpy starts an operation on a few thousand numbers
in a third of the time that torch takes; else torch's. Closed forms are written once for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from flowgroup._checks import values_readable

Entry = Tensor | np.ndarray


def numpy_may(*tensors: Tensor) -> bool:
    """Whether numpy may compute with these tensors."""
    return all(
        values_readable(x)
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        for x in tensors
    )


def silent(numpy: bool) -> AbstractContextManager:
    """A context in which closed forms may give NaN and infinity without numpy's warnings."""
    return np.errstate(all="ignore") if numpy else nullcontext()


def entries(X: Tensor, which: Sequence[int], event_dim: int, numpy: bool) -> list[Entry]:
    """The entries `which` of flattened events (..., *event), each an array over the batch, a flat one in numpy."""
    flat = X.reshape(*X.shape[: X.dim() - event_dim], -1)
    if numpy:
        return list(flat.detach().numpy().reshape(-1, flat.shape[-1]).T[list(which)])
    return [flat[..., i] for i in which]


def assemble(rows: Sequence[Entry], shape: Sequence[int]) -> Tensor:
    """The tensor of this shape with these entries, the last dimensions flattened."""
    if isinstance(rows[0], np.ndarray):
        return torch.from_numpy(np.stack(rows, -1)).view(*shape)
    return torch.stack(list(rows), -1).reshape(*shape)
