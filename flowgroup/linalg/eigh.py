"""Eigen-decomposition of many symmetric matrices at once."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from flowgroup._checks import check_event_shape, values_readable
from flowgroup.linalg._closed_eigh import eigh1, eigh2, eigh3
from flowgroup.linalg._entries import numpy_may, silent
from flowgroup.linalg._parallel import parallel


def eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """A = V diag(w) Vᵀ for symmetric A.

    The result carries no gradient: that of eigenvectors grows without bound as eigenvalues meet. Functions of a
    `Spectrum` carry one that stays finite there. Sizes 1, 2 and 3 have closed forms, elementwise over the batch, as
    accurate as LAPACK: |A − V diag(w) Vᵀ| and |VᵀV − 1| are a few roundings. Larger sizes are LAPACK's, on all threads.

    Args:
        A: symmetric matrices (..., n, n), of which the lower triangle is read.

    Returns:
        Eigenvalues (..., n), ascending, and in the columns of (..., n, n) orthonormal eigenvectors, in the dtype of A,
        or in float32 where that is a half precision. Where a matrix holds NaN or infinity, its results are NaN.

    Raises:
        ValueError: the matrices are not square.
        TypeError: A is no tensor of real floating-point numbers.

    Source: D. Eberly, A Robust Eigensolver for 3×3 Symmetric Matrices (2014), whose idea for n = 3 this follows: the
    eigenvalue that lies apart first, then what it leaves as a 2×2 matrix.

    Example:
        >>> w, V = eigh(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
        >>> w
        tensor([1., 3.])
        >>> (V * w) @ V.mT
        tensor([[2.0000, 1.0000],
                [1.0000, 2.0000]])
    """
    w, V = decompose(A)
    return (w.contiguous(), V.contiguous()) if A.shape[-1] in _FORMS else (w, V)


def decompose(A: Tensor) -> tuple[Tensor, Tensor]:
    """`eigh`, its results possibly with the batch last in memory: what functions of many small matrices work on."""
    check_event_shape("A", A, (None, None))
    n = A.shape[-1]
    if A.shape[-2] != n:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}")
    A = A.detach()
    if A.dtype in (torch.float16, torch.bfloat16):
        A = A.float()
    return _closed(A) if n in _FORMS else _lapack(A)


def _closed(A: Tensor) -> tuple[Tensor, Tensor]:
    n = A.shape[-1]
    # with the batch last, every operation is one pass over contiguous memory
    if numpy_may(A):
        with silent(True):
            w, V = _FORMS[n](np, A.numpy().reshape(-1, n * n).T[_ENTRIES[n]])
        w, V = (torch.from_numpy(np.concatenate(x)).view(len(x), *A.shape[:-2]) for x in (w, V))
        return w.movedim(0, -1), V.unflatten(0, (n, n)).movedim((0, 1), (-2, -1))
    rows = A.movedim((-2, -1), (0, 1)).flatten(0, 1)
    w, V = _FORMS[n](torch, torch.stack([rows[i] for i in _ENTRIES[n]]))
    return torch.stack(w, -1), torch.stack(V, -1).unflatten(-1, (n, n))


def _lapack(A: Tensor) -> tuple[Tensor, Tensor]:
    n = A.shape[-1]
    if values_readable(A) and A.device.type == "cpu" and A.sum().isfinite():
        return _split(A)
    # LAPACK fails for the whole batch where one matrix is not finite: give it the identity, and take NaN after
    finite = torch.isfinite(A.tril()).all(-1, keepdim=True).all(-2, keepdim=True)
    w, V = _split(A.where(finite, torch.eye(n, dtype=A.dtype, device=A.device)))
    return w.where(finite[..., 0], torch.nan), V.where(finite, torch.nan)


def _split(A: Tensor) -> tuple[Tensor, Tensor]:
    n, batch = A.shape[-1], A.shape[:-2]
    w, V = parallel(torch.linalg.eigh, A.reshape(math.prod(batch), n, n), least=_WORK // max(n, 1) ** 3)
    return w.view(*batch, n), V.view(*batch, n, n)


_WORK = 100_000  # batch·n³ of about half a millisecond, from where threads pay
_FORMS = {1: eigh1, 2: eigh2, 3: eigh3}
_ENTRIES = {1: [0], 2: [0, 3, 2], 3: [0, 4, 8, 7, 6, 3]}  # of the flattened matrix, as the closed forms take them
