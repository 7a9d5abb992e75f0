"""Energies of systems whose equilibrium is to be sampled, in units of kT."""

from flowgroup.boltzmann.targets.base import Target

__all__ = ["Target"]
