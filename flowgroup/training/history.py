"""What happened in a training run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(repr=False)
class History:
    """Losses per epoch (in nats; negative log-likelihood per data point) and what else a run tells.

    Attributes:
        train: mean loss over the batches of each epoch, while the weights were moving.
        validation: loss of the validation data after each epoch; empty without such data.
        lr: learning rate of the last step of each epoch (of the first parameter group).
        best_epoch: index of the lowest finite validation loss, None before there is one.
        steps: optimizer steps so far.
        seconds: time spent, over all resumed parts of the run.
        metrics: what else the loss told in each epoch, by name: means over steps, or totals of what is counted.

    Example:
        >>> History(train=[2.5, 2.1], validation=[2.4, 2.2], lr=[1e-3, 5e-4], best_epoch=1, steps=20, seconds=1.5)
        History(2 epochs, 20 steps, 1.5 s: train 2.1000, validation 2.2000, best 2.2000 at epoch 1)
    """

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    steps: int = 0
    seconds: float = 0.0
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def losses(self) -> str:
        """The losses and metrics of the last epoch in words."""
        text = f"train {self.train[-1]:.4f}" if self.train else "no epoch yet"
        if self.validation:
            text += f", validation {self.validation[-1]:.4f}"
        if self.best_epoch is not None:
            text += f", best {self.validation[self.best_epoch]:.4f} at epoch {self.best_epoch}"
        return text + "".join(f", {name} {values[-1]:.4g}" for name, values in self.metrics.items())

    def __repr__(self) -> str:
        return f"History({len(self.train)} epochs, {self.steps} steps, {self.seconds:.1f} s: {self.losses()})"

    def plot(self, ax=None):
        """Draw the losses over the epochs and mark the best one.

        Args:
            ax: matplotlib axes to draw on; a new figure without them.

        Returns:
            The axes.

        Raises:
            ImportError: without matplotlib.
        """
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise ImportError("History.plot needs matplotlib: pip install 'flowgroup[train]'") from error
            ax = plt.subplots(layout="constrained")[1]
        ax.plot(range(len(self.train)), self.train, label="train")
        if self.validation:
            ax.plot(range(len(self.validation)), self.validation, label="validation")
        if self.best_epoch is not None:
            ax.plot(self.best_epoch, self.validation[self.best_epoch], "o", color="black", label="best")
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss (nats)")
        ax.legend()
        return ax
