"""Densities on manifolds, as torch.distributions."""

from flowgroup.distributions.normal import DiagonalNormal

__all__ = ["DiagonalNormal"]
