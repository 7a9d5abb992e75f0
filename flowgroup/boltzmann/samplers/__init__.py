"""Markov chains and annealing for any target."""

from flowgroup.boltzmann.samplers.ais import ais
from flowgroup.boltzmann.samplers.chains import Chain, mcmc, parallel_tempering
from flowgroup.boltzmann.samplers.hmc import HMC
from flowgroup.boltzmann.samplers.langevin import Langevin
from flowgroup.boltzmann.samplers.openmm import Trajectory, openmm_trajectory
from flowgroup.boltzmann.samplers.rigid import RigidMoves

__all__ = [
    "HMC",
    "Chain",
    "Langevin",
    "RigidMoves",
    "Trajectory",
    "ais",
    "mcmc",
    "openmm_trajectory",
    "parallel_tempering",
]
