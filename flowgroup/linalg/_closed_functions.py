"""Functions of many symmetric matrices of sizes up to 3, elementwise over the batch, in numpy.

With the batch last in memory, every operation is one pass over contiguous numbers: eigenvectors from `eigh` are views
of such memory. Products are sums over an index of length n; memory is used again, as new memory costs as much as they.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from flowgroup.linalg._entries import numpy_may, silent
from flowgroup.linalg.scalar_functions import ScalarFunction
from flowgroup.linalg.triangular_functions import closed_form_pays


def closed_form_may(V: Tensor, *more: Tensor) -> bool:
    """Whether the closed forms beat products of matrices V (..., n, n), and no gradient is to pass through them."""
    return not torch.is_grad_enabled() and closed_form_pays(V) and numpy_may(V, *more)


def value(V: Tensor, f: Tensor) -> Tensor:
    """V diag(f) Vᵀ."""
    v = _batch_last(V, 2)
    with silent(True):
        return _batch_first(_symmetric_product(v * _batch_last(f, 1), _transposed(v), np.empty_like(v)), V.shape)


def derivative(H: Tensor, w: Tensor, V: Tensor, function: ScalarFunction) -> Tensor:
    """V (f[wᵢ, wⱼ] ∘ Vᵀ(H + Hᵀ)V/2) Vᵀ."""
    n = w.shape[-1]
    h, v, w = _batch_last(H, 2), _batch_last(V, 2), _batch_last(w, 1)
    i, j = np.tril_indices(n, -1)
    slopes = 0.5 * function.derivative(torch.from_numpy(w)).numpy()
    pairs = 0.5 * function.divided_difference(torch.from_numpy(w[i]), torch.from_numpy(w[j])).numpy()
    with silent(True):
        x = h + _transposed(h)
        y = _product(x, v, np.empty_like(x))
        _symmetric_product(_transposed(v), y, x)
        for k in range(n):
            x[k, k] *= slopes[k]
        for k in range(len(i)):
            x[i[k], j[k]] *= pairs[k]
            x[j[k], i[k]] = x[i[k], j[k]]
        _product(v, x, y)
        return _batch_first(_symmetric_product(y, _transposed(v), x), V.shape)


def _product(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Matrix products xy, batch last."""
    for i in range(len(x)):
        np.einsum("kb,kjb->jb", x[i], y, out=out[i])
    return out


def _symmetric_product(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> np.ndarray:
    """xy, known to be symmetric."""
    for i in range(len(x)):
        row = np.einsum("kb,kjb->jb", x[i], y[:, : i + 1], out=out[i, : i + 1])
        out[:i, i] = row[:i]
    return out


def _transposed(x: np.ndarray) -> np.ndarray:
    return x.transpose(1, 0, 2)


def _batch_last(X: Tensor, event_dim: int) -> np.ndarray:
    """(*event, batch) from (..., *event), without a copy where the memory is so already."""
    x = X.detach().numpy()
    x = x.reshape(-1, *x.shape[x.ndim - event_dim :]) if x.ndim > event_dim + 1 else x
    return np.ascontiguousarray(x.transpose(*range(1, event_dim + 1), 0))


def _batch_first(x: np.ndarray, shape: torch.Size) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1))).view(shape)
