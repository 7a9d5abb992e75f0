"""What a flow is trained on to become a Boltzmann generator: objective(flow, target, n, data) -> (loss, metrics)."""

from flowgroup.boltzmann.objectives.annealed import Annealed
from flowgroup.boltzmann.objectives.energies import safe_energy
from flowgroup.boltzmann.objectives.fab import FAB
from flowgroup.boltzmann.objectives.kullback_leibler import maximum_likelihood, reverse_kl
from flowgroup.boltzmann.objectives.mixture import Mixture
from flowgroup.boltzmann.objectives.objective import Objective, describe
from flowgroup.boltzmann.objectives.sample_base import SampleBase
from flowgroup.boltzmann.objectives.weight_spread import weight_spread

__all__ = [
    "FAB",
    "Annealed",
    "Mixture",
    "Objective",
    "SampleBase",
    "describe",
    "maximum_likelihood",
    "reverse_kl",
    "safe_energy",
    "weight_spread",
]
