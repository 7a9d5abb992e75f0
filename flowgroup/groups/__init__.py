"""What moves points: groups and Lie groups."""

# first, because the manifolds that are groups build on groups.base, and groups.base on the contract of manifolds
import flowgroup.manifolds  # noqa: F401
from flowgroup.groups.base import Group, LieGroup, MatrixLieGroup
from flowgroup.groups.so2 import SO2

__all__ = ["SO2", "Group", "LieGroup", "MatrixLieGroup"]
