"""Batched small-matrix algebra."""

from flowgroup.linalg.triangular import matvec, solve_triangular

__all__ = ["matvec", "solve_triangular"]
