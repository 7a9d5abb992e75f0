"""Closed forms of the eigen-decomposition of symmetric 2×2 and 3×3 matrices, elementwise over a batch.

They are written once for two array libraries, `xp`: torch, and numpy, which starts an operation on a few thousand
numbers in a third of the time that torch takes. NaN and infinity in a matrix spread to all its results.
"""

from __future__ import annotations

from types import ModuleType
from typing import TypeVar

Array = TypeVar("Array")


def eigh1(xp: ModuleType, entries: Array) -> tuple[list[Array], list[Array]]:
    """Eigenvalue and eigenvector of (a), from `entries` a (1, ...)."""
    a = entries[0]
    poison = 0 * a
    return [a + poison], [1 + poison]


def eigh2(xp: ModuleType, entries: Array) -> tuple[list[Array], list[Array]]:
    """Eigenvalues and (row by row) eigenvectors of [[a, b], [b, c]].

    Args:
        xp: torch or numpy.
        entries: a, c, b (3, ...).
    """
    a, c, b = entries
    poison = 0 * a + 0 * b + 0 * c
    low, high, cos, sin = _rotate(xp, a, b, c, 1 + poison)
    return [low + poison, high + poison], [sin, cos, -cos, sin]


def eigh3(xp: ModuleType, entries: Array) -> tuple[list[Array], list[Array]]:
    """Eigenvalues and (row by row) eigenvectors of a symmetric 3×3 matrix A.

    Source: D. Eberly, A Robust Eigensolver for 3×3 Symmetric Matrices (2014) has the idea: first the eigenvalue that
    lies apart, then what it leaves as a 2×2 matrix.

    Args:
        xp: torch or numpy.
        entries: the diagonal d₀, d₁, d₂ and o₀ = A₂₁, o₁ = A₂₀, o₂ = A₁₀ (6, ...).
    """
    tiny = float(xp.finfo(entries.dtype).tiny)
    size = xp.amax(abs(entries), 0) + tiny
    d0, d1, d2, o0, o1, o2 = entries / size

    # B = (A − q)/p has trace 0 and tr B² = 6. Of its eigenvalues, `apart` lies √3 or more from both others.
    q = (d0 + d1 + d2) / 3
    s0, s1, s2 = d0 - q, d1 - q, d2 - q
    scale = 1 / xp.sqrt((s0 * s0 + s1 * s1 + s2 * s2) / 6 + (o0 * o0 + o1 * o1 + o2 * o2) / 3 + tiny)
    s0, s1, s2, t0, t1, t2 = s0 * scale, s1 * scale, s2 * scale, o0 * scale, o1 * scale, o2 * scale
    det = s0 * (s1 * s2 - t0 * t0) + t1 * (t0 * t2 - s1 * t1) + t2 * (t0 * t1 - s2 * t2)
    tan = xp.tan(xp.arccos(xp.clip(abs(det) / 2, 0, 1)) / 3)
    apart = xp.copysign(2 / xp.sqrt(1 + tan * tan), det)  # 2 cos by the tangent, which numpy has vectorised

    # Its eigenvector v is every column of the adjugate of B − apart: take the longest.
    s0, s1, s2 = s0 - apart, s1 - apart, s2 - apart
    c0, c1, c2 = s1 * s2 - t0 * t0, s0 * s2 - t1 * t1, s0 * s1 - t2 * t2
    k0, k1, k2 = t1 * t2 - s0 * t0, t0 * t2 - s1 * t1, t0 * t1 - s2 * t2
    one = xp.ones_like(size)
    m2 = one * (c2 > xp.maximum(c0, c1))
    m1 = (c1 > c0) * (one - m2)
    m0 = one - m1 - m2
    v0, v1, v2 = m0 * c0 + m1 * k2 + m2 * k1, m0 * k2 + m1 * c1 + m2 * k0, m0 * k1 + m1 * k0 + m2 * c2
    scale = xp.copysign(1 / xp.sqrt(v0 * v0 + v1 * v1 + v2 * v2), v2)
    v0, v1, v2 = v0 * scale, v1 * scale, v2 * scale

    # u and w complete it to an orthonormal basis, in which A is (up to rounding) a 2×2 and a 1×1 block.
    scale = 1 / (1 + v2)
    r0, r1 = v0 * scale, v1 * scale
    u0, u1, u2 = v0 * r0 - 1, v0 * r1, v0
    w0, w1, w2 = u1, v1 * r1 - 1, v1
    Au0, Au1, Au2 = d0 * u0 + o2 * u1 + o1 * u2, o2 * u0 + d1 * u1 + o0 * u2, o1 * u0 + o0 * u1 + d2 * u2
    o0, o1, o2 = o0 + o0, o1 + o1, o2 + o2

    def form(x, y, z):
        return (d0 * x + o2 * y + o1 * z) * x + (d1 * y + o0 * z) * y + d2 * z * z

    side = xp.copysign(one, apart)
    uAu, uAw = u0 * Au0 + u1 * Au1 + u2 * Au2, w0 * Au0 + w1 * Au1 + w2 * Au2
    low, high, cos, sin = _rotate(xp, uAu, uAw, form(w0, w1, w2), side)
    value = form(v0, v1, v2)

    # of the two in the plane, `near` belongs to the eigenvalue nearer to v's: the middle one of all three
    near0, near1, near2 = cos * u0 + sin * w0, cos * u1 + sin * w1, cos * u2 + sin * w2
    far0, far1, far2 = cos * w0 - sin * u0, cos * w1 - sin * u1, cos * w2 - sin * u2
    top = one * (side > 0)
    bottom = one - top
    vectors = [
        *(top * far0 + bottom * v0, near0, top * v0 + bottom * far0),
        *(top * far1 + bottom * v1, near1, top * v1 + bottom * far1),
        *(top * far2 + bottom * v2, near2, top * v2 + bottom * far2),
    ]
    # in order also within rounding of three equal eigenvalues
    values = [xp.minimum(low, value), xp.maximum(low, xp.minimum(high, value)), xp.maximum(high, value)]
    return [x * size for x in values], vectors


def _rotate(xp: ModuleType, a: Array, b: Array, c: Array, side: Array) -> tuple[Array, Array, Array, Array]:
    """Eigenvalues (low, high) of M = [[a, b], [b, c]] and (cos, sin), the eigenvector of the higher one of M·side.

    Where M is graded, as near diag(1, 1e-12), a small eigenvalue keeps its digits.
    """
    x, y = a - c, b + b
    shift = abs(b) * xp.tan(xp.arctan2(abs(y), abs(x)) / 2)
    tan = xp.tan(xp.arctan2(y * side, x * side) / 2)
    cos = 1 / xp.sqrt(1 + tan * tan)
    return xp.minimum(a, c) - shift, xp.maximum(a, c) + shift, cos, cos * tan
