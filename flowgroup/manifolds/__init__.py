"""Where points live: manifolds with geoopt's interface, and constraints that name them."""

from flowgroup.manifolds import constraints
from flowgroup.manifolds.base import Manifold
from flowgroup.manifolds.correlation import Correlation
from flowgroup.manifolds.euclidean import Euclidean
from flowgroup.manifolds.mean_free import MeanFree
from flowgroup.manifolds.product import Product
from flowgroup.manifolds.pullback import Pullback
from flowgroup.manifolds.rigid_bodies import RigidBodies
from flowgroup.manifolds.spd import SPD
from flowgroup.manifolds.sphere import Sphere
from flowgroup.manifolds.stiefel import Stiefel
from flowgroup.manifolds.torus import Torus

__all__ = [
    "SPD",
    "Correlation",
    "Euclidean",
    "Manifold",
    "MeanFree",
    "Product",
    "Pullback",
    "RigidBodies",
    "Sphere",
    "Stiefel",
    "Torus",
    "constraints",
]
