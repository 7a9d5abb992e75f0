"""Training: fit a flow to data, with progress, checkpoints, resume and several processes."""

from flowgroup.training.descent import DivergenceError
from flowgroup.training.fit import fit_to_data
from flowgroup.training.history import History

__all__ = ["DivergenceError", "History", "fit_to_data"]
