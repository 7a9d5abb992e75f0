"""Normalizing flows and equivariant geometry on one core of manifolds and groups."""

__version__ = "0.1.0"
