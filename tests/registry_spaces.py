"""Every manifold and group with a small constructor: what the law tests of spaces run over.

A public class of `flowgroup.manifolds` or `flowgroup.groups` that is listed nowhere here fails a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from flowgroup.groups import SE3, SO, SO2, SO3, Group, UnitQuaternions
from flowgroup.manifolds import (
    SPD,
    Correlation,
    Euclidean,
    Manifold,
    MeanFree,
    Product,
    Pullback,
    RigidBodies,
    Sphere,
    Stiefel,
    Torus,
)


@dataclass(frozen=True)
class Space:
    """A manifold, a group or both.

    Attributes:
        make: constructs it.
        moves: shape of the points that a group moves.
    """

    make: Callable[[], Manifold | Group]
    moves: tuple[int, ...] = ()

    def __str__(self) -> str:
        return repr(self.make())


MANIFOLDS = [
    Space(lambda: Euclidean(1)),
    Space(lambda: Euclidean(3)),
    Space(lambda: Torus(1)),
    Space(lambda: Torus(3)),
    Space(lambda: Sphere(1)),
    Space(lambda: Sphere(2)),
    Space(lambda: Sphere(5)),
    Space(lambda: SO2()),
    Space(lambda: SO3()),
    Space(lambda: UnitQuaternions()),
    Space(lambda: SO(4)),
    Space(lambda: SE3()),
    Space(lambda: SPD(3)),
    Space(lambda: SPD(2, theta=0.5, alpha=1.3, beta=0.1)),
    Space(lambda: SPD(2, "cholesky-right-invariant")),
    Space(lambda: SPD(3, "log-euclidean", beta=0.2)),
    Space(lambda: SPD(3, "log-cholesky")),
    Space(lambda: SPD(2, "log-cholesky", theta=0.5)),
    Space(lambda: SPD(3, "bures-wasserstein")),
    Space(lambda: Correlation(3, "ecm")),
    Space(lambda: Correlation(4, "lecm")),
    Space(lambda: Correlation(3, "olm")),
    Space(lambda: Correlation(4, "lsm")),
    Space(lambda: MeanFree(2, 1)),
    Space(lambda: MeanFree(4, 2)),
    Space(lambda: Product(Sphere(2), Torus(1))),
    Space(lambda: RigidBodies(2, box=(1.0, 2.0, 1.5))),
    Space(lambda: RigidBodies(2)),
    Space(lambda: Product(Euclidean(3), SO3())),
]

GROUPS = [
    Space(lambda: Euclidean(2), moves=(2,)),
    Space(lambda: Torus(1), moves=(1,)),
    Space(lambda: Torus(2), moves=(2,)),
    Space(lambda: SO2(), moves=(2,)),
    Space(lambda: SO3(), moves=(3,)),
    Space(lambda: UnitQuaternions(), moves=(3,)),
    Space(lambda: SO(2), moves=(2,)),
    Space(lambda: SO(4), moves=(4,)),
    Space(lambda: SE3(), moves=(3,)),
    Space(lambda: SPD(3), moves=(3,)),
    Space(lambda: SPD(2, theta=0.5, alpha=1.3, beta=0.1), moves=(2, 2)),
    Space(lambda: SPD(2, "cholesky-right-invariant"), moves=(2, 2)),
    Space(lambda: SPD(3, "log-euclidean", beta=0.2), moves=(3, 3)),
    Space(lambda: SPD(3, "log-cholesky"), moves=(3, 3)),
    Space(lambda: SPD(2, "log-cholesky", theta=0.5), moves=(2, 2)),
    Space(lambda: Correlation(4, "ecm"), moves=(4, 4)),
    Space(lambda: Correlation(3, "lecm"), moves=(3, 3)),
    Space(lambda: Correlation(3, "olm"), moves=(3, 3)),
    Space(lambda: Correlation(4, "lsm"), moves=(4, 4)),
    Space(lambda: Product(Euclidean(3), SO3()), moves=(12,)),
    Space(lambda: Product(SO2(), Torus(2)), moves=(6,)),
]

WITHOUT_LOGARITHM = [
    Space(lambda: Stiefel(3, 1)),
    Space(lambda: Stiefel(5, 2)),
    Space(lambda: Stiefel(3, 3)),
]


def point_moved_by(space: Space, dtype: torch.dtype, device) -> torch.Tensor:
    group = space.make()
    if isinstance(group, Pullback):  # it moves itself
        return group.random(*space.moves, dtype=dtype, device=device)
    return torch.randn(space.moves, dtype=dtype, device=device)
