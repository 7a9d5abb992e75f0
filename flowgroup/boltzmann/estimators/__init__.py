"""What is read off samples and their importance weights: effective sizes, free energies, structure; with error bars."""

from flowgroup.boltzmann.estimators.estimate import Estimate, bootstrap, weighted_mean
from flowgroup.boltzmann.estimators.free_energy import bar, free_energy_perturbation, mbar
from flowgroup.boltzmann.estimators.histograms import histogram_overlap, radial_distribution
from flowgroup.boltzmann.estimators.weights import effective_sample_size, log_z, mode_weights

__all__ = [
    "Estimate",
    "bar",
    "bootstrap",
    "effective_sample_size",
    "free_energy_perturbation",
    "histogram_overlap",
    "log_z",
    "mbar",
    "mode_weights",
    "radial_distribution",
    "weighted_mean",
]
