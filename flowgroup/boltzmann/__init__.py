"""Boltzmann generators: energies to sample, flows trained to sample them, and what is read off the samples."""

from flowgroup.boltzmann.samplers import HMC, Chain, Langevin, RigidMoves, ais, mcmc, parallel_tempering
from flowgroup.boltzmann.targets import (
    DW4,
    DoubleWell,
    LennardJones,
    ManyWell,
    RigidWater,
    Target,
    bodies_to_sites,
    sites_to_bodies,
)

__all__ = [
    "DW4",
    "HMC",
    "Chain",
    "DoubleWell",
    "Langevin",
    "LennardJones",
    "ManyWell",
    "RigidMoves",
    "RigidWater",
    "Target",
    "ais",
    "bodies_to_sites",
    "mcmc",
    "parallel_tempering",
    "sites_to_bodies",
]
