"""Boltzmann generators: energies to sample, flows trained to sample them, and what is read off the samples."""

from flowgroup.boltzmann.targets import Target

__all__ = ["Target"]
