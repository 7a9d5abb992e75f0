"""Boltzmann generators: energies to sample, flows trained to sample them, and what is read off the samples."""

from flowgroup.boltzmann.estimators import (
    Estimate,
    bar,
    bootstrap,
    effective_sample_size,
    free_energy_perturbation,
    histogram_overlap,
    log_z,
    mbar,
    mode_weights,
    radial_distribution,
)
from flowgroup.boltzmann.generator import BoltzmannGenerator
from flowgroup.boltzmann.objectives import FAB, Mixture, SampleBase, maximum_likelihood, reverse_kl, safe_energy
from flowgroup.boltzmann.report import Report
from flowgroup.boltzmann.samplers import HMC, Chain, Langevin, RigidMoves, ais, mcmc, parallel_tempering
from flowgroup.boltzmann.targets import (
    DW4,
    DoubleWell,
    LennardJones,
    ManyWell,
    MethaneInField,
    RigidWater,
    Target,
    TetrahedralRotor,
    bodies_to_sites,
    sites_to_bodies,
)

__all__ = [
    "DW4",
    "FAB",
    "HMC",
    "BoltzmannGenerator",
    "Chain",
    "DoubleWell",
    "Estimate",
    "Langevin",
    "LennardJones",
    "ManyWell",
    "MethaneInField",
    "Mixture",
    "Report",
    "RigidMoves",
    "RigidWater",
    "SampleBase",
    "Target",
    "TetrahedralRotor",
    "ais",
    "bar",
    "bodies_to_sites",
    "bootstrap",
    "effective_sample_size",
    "free_energy_perturbation",
    "histogram_overlap",
    "log_z",
    "maximum_likelihood",
    "mbar",
    "mcmc",
    "mode_weights",
    "parallel_tempering",
    "radial_distribution",
    "reverse_kl",
    "safe_energy",
    "sites_to_bodies",
]
