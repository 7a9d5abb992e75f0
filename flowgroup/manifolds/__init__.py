"""Where points live: manifolds with geoopt's interface, and constraints that name them."""

from flowgroup.manifolds import constraints

__all__ = ["constraints"]
