"""Every manifold and group with a small constructor: what the law tests of spaces run over.

A public class of `flowgroup.manifolds` or `flowgroup.groups` that is listed nowhere here fails a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from flowgroup.groups import SO, SO2, SO3, Group, UnitQuaternions
from flowgroup.manifolds import Euclidean, Manifold, Product, Sphere, Stiefel, Torus


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
    Space(lambda: Product(Sphere(2), Torus(1))),
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
    Space(lambda: Product(Euclidean(3), SO3()), moves=(12,)),
    Space(lambda: Product(SO2(), Torus(2)), moves=(6,)),
]

WITHOUT_LOGARITHM = [
    Space(lambda: Stiefel(3, 1)),
    Space(lambda: Stiefel(5, 2)),
    Space(lambda: Stiefel(3, 3)),
]


def point_moved_by(space: Space, dtype: torch.dtype, device) -> torch.Tensor:
    return torch.randn(space.moves, dtype=dtype, device=device)
