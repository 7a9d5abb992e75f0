"""Batched small-matrix algebra."""

from flowgroup.linalg.permute import permute
from flowgroup.linalg.triangular import matvec, solve_triangular

__all__ = ["matvec", "permute", "solve_triangular"]
