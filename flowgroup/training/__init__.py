"""Training: fit a flow to data or to an energy, with progress, checkpoints, resume and several processes."""

from flowgroup.training.descent import DivergenceError
from flowgroup.training.fit import fit_to_data
from flowgroup.training.history import History
from flowgroup.training.minimise import minimise

__all__ = ["DivergenceError", "History", "fit_to_data", "minimise"]
