"""Manifolds from constraints."""

from __future__ import annotations

from flowgroup.manifolds import constraints
from flowgroup.manifolds.base import Manifold
from flowgroup.manifolds.euclidean import Euclidean
from flowgroup.manifolds.torus import Torus


def space_of(name: str, shape: tuple[int | None, ...], where: constraints.Constraint) -> Manifold:
    """The manifold of events of a shape whose entries, or which themselves, live where a constraint says.

    Raises:
        ValueError: neither vectors of numbers or of angles nor points of a manifold; it names what they are events of.

    Example:
        >>> space_of("x", (3,), constraints.Circle())
        Torus(3)
    """
    while hasattr(where, "base_constraint"):
        where = where.base_constraint
    if isinstance(where, constraints.OnManifold):
        return where.manifold
    if len(shape) == 1 and shape[0] is not None:
        if isinstance(where, type(constraints.real)):
            return Euclidean(shape[0])
        if repr(where) == repr(constraints.Circle()):
            return Torus(shape[0])
    raise ValueError(
        f"{name} must have vectors of numbers or of angles, or points of a manifold, got shape {tuple(shape)} on "
        f"{where!r}"
    )
