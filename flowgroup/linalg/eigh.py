"""Eigen-decomposition of many symmetric matrices at once."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup._checks import check_event_shape


def eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """A = V diag(w) Vᵀ for symmetric A.

    The result carries no gradient: that of eigenvectors grows without bound as eigenvalues meet. Functions of a
    `Spectrum` carry one that stays finite there. Sizes 1, 2 and 3 have closed forms, elementwise over the batch, as
    accurate as LAPACK: |A − V diag(w) Vᵀ| and |VᵀV − 1| are a few roundings. Larger sizes are LAPACK's.

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
    check_event_shape("A", A, (None, None))
    n = A.shape[-1]
    if A.shape[-2] != n:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}")
    A = A.detach()
    if A.dtype in (torch.float16, torch.bfloat16):
        A = A.float()
    return _SOLVERS.get(n, _eighn)(A)


def _eigh1(A: Tensor) -> tuple[Tensor, Tensor]:
    finite = A - A == 0
    return A[..., 0].where(finite[..., 0], torch.nan), torch.ones_like(A).where(finite, torch.nan)


def _eigh2(A: Tensor) -> tuple[Tensor, Tensor]:
    a, b, c = A[..., 0, 0], A[..., 1, 0], A[..., 1, 1]
    poison = 0 * a + 0 * b + 0 * c  # NaN where an entry is NaN or infinite
    low, high, cos, sin = _rotation(a + poison, b + poison, c + poison)
    return torch.stack([low, high], -1), torch.stack([-sin, cos, cos, sin], -1).unflatten(-1, (2, 2))


def _eigh3(A: Tensor) -> tuple[Tensor, Tensor]:
    # Entries come first and the batch last: every operation is one pass over contiguous memory.
    # Entry i of `off` is the element of A in neither row nor column i. NaN and infinity spread to all results.
    rows = A.movedim((-2, -1), (0, 1)).contiguous()
    entries = torch.stack([rows[0, 0], rows[1, 1], rows[2, 2], rows[2, 1], rows[2, 0], rows[1, 0]])
    size = entries.abs().amax(0).clamp(min=torch.finfo(A.dtype).tiny)
    entries = entries / size
    diag, off = entries[:3], entries[3:]

    # B = (A − q)/p has trace 0 and tr B² = 6. Of its eigenvalues, `apart` lies √3 or more from both others.
    shifted = diag - diag.sum(0) / 3
    p = (torch.addcmul(shifted * shifted, off, off, value=2).sum(0) / 6).clamp(min=torch.finfo(A.dtype).tiny).sqrt()
    s0, s1, s2 = shifted / p
    o0, o1, o2 = off / p
    half_det = (s0 * (s1 * s2 - o0 * o0) + o1 * (o0 * o2 - s1 * o1) + o2 * (o0 * o1 - s2 * o2)) / 2
    apart = torch.copysign(2 * torch.cos(torch.acos(half_det.abs().clamp(max=1)) / 3), half_det)

    # Its eigenvector v is every column of the adjugate of B − apart: take the longest.
    s0, s1, s2 = s0 - apart, s1 - apart, s2 - apart
    c0, c1, c2 = s1 * s2 - o0 * o0, s0 * s2 - o1 * o1, s0 * s1 - o2 * o2
    k0, k1, k2 = o1 * o2 - s0 * o0, o0 * o2 - s1 * o1, o0 * o1 - s2 * o2
    v = torch.where(c0 > c1, torch.stack([c0, k2, k1]), torch.stack([k2, c1, k0]))
    v = torch.where(torch.maximum(c0, c1) > c2, v, torch.stack([k1, k0, c2]))
    x, y, z = v * torch.copysign(torch.rsqrt((v * v).sum(0)), v[2])

    # u and v complete it to an orthonormal basis; A in that basis is (up to rounding) a 2×2 and a 1×1 block.
    g = -1 / (1 + z)
    xy = x * y * g
    X = torch.stack([torch.addcmul(torch.ones_like(x), x * g, x), xy, x])
    Y = torch.stack([xy, torch.addcmul(torch.ones_like(y), y * g, y), y])
    Z = torch.stack([-x, -y, z])
    d0, d1, d2 = diag
    o0, o1, o2 = off
    AX = d0 * X + o2 * Y + o1 * Z
    AY = o2 * X + d1 * Y + o0 * Z
    AZ = o1 * X + o0 * Y + d2 * Z
    a, c, w = X * AX + Y * AY + Z * AZ
    b = X[0] * AX[1] + Y[0] * AY[1] + Z[0] * AZ[1]
    low, high, cos, sin = _rotation(a, b, c)

    B = torch.stack([X, Y, Z])
    first, second, third = B.unbind(1)
    lower, upper = cos * second - sin * first, cos * first + sin * second
    top = apart > 0
    ws = torch.where(top, torch.stack([low, high, w]), torch.stack([w, low, high])) * size
    V = torch.where(top, torch.stack([lower, upper, third], 1), torch.stack([third, lower, upper], 1))
    # within rounding of three equal eigenvalues the order is not yet sure
    ws = torch.stack([torch.minimum(ws[0], ws[1]), ws[1], torch.maximum(ws[1], ws[2])], -1)
    return ws, V.movedim((0, 1), (-2, -1)).contiguous()


def _rotation(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenvalues (low, high) of [[a, b], [b, c]] and (cos, sin), the eigenvector of the higher one."""
    half = a / 2 - c / 2
    shift = b.abs() * torch.tan(torch.atan2(b.abs(), half.abs()) / 2)
    angle = torch.atan2(b, half) / 2
    return torch.minimum(a, c) - shift, torch.maximum(a, c) + shift, angle.cos(), angle.sin()


def _eighn(A: Tensor) -> tuple[Tensor, Tensor]:
    # LAPACK fails for the whole batch where one matrix is not finite: give it the identity, and take NaN after
    finite = torch.isfinite(A.tril()).all(-1, keepdim=True).all(-2, keepdim=True)
    w, V = torch.linalg.eigh(A.where(finite, torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)))
    return w.where(finite[..., 0], torch.nan), V.where(finite, torch.nan)


_SOLVERS = {1: _eigh1, 2: _eigh2, 3: _eigh3}
