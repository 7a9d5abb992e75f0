"""What a Boltzmann generator achieved, as numbers with error bars, a table and a picture."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from flowgroup.boltzmann.estimators import (
    Estimate,
    effective_sample_size,
    histogram_overlap,
    log_z,
    mode_weights,
    weighted_mean,
)
from flowgroup.boltzmann.targets import Target
from flowgroup.training import History


@dataclass(repr=False)
class Report:
    """Of n samples of the flow and their weights; prints as a table.

    Attributes:
        target: its name and options.
        x, energy, log_w: samples (n, *event), energies u(x) (n,) in kT, log-weights (n,), −∞ where u is not finite.
        log_z: log Z with its bootstrap error; of a flow with a `SampleBase` log Z₁/Z₀ = −ΔF.
        exact_log_z: where the target knows it.
        relative: whether log Z is log Z₁/Z₀.
        ess: effective sample size as a share of n.
        kl: KL(q‖p) = log Z − E_q[log w] in nats, of q where energies are finite.
        mean_energy: E_p[u] by reweighting.
        nonfinite: how many energies were NaN or infinite.
        modes: weight of each mode under p, by reweighting, and its error (modes,), where the target knows its modes.
        data_ess: the effective sample size from equilibrium samples of the target; this and the next with data only.
        data_energy, energy_overlap: energies of the data, and the overlap of their histogram with the reweighted one.
        nll: mean of −log q over the data; of a flow with a `SampleBase` less log Z₀.
        history: of the training.
        seen: whether log Z comes from rows of a `SampleBase` that the flow was trained on, which make it too high.
    """

    target: str
    x: Tensor
    energy: Tensor
    log_w: Tensor
    log_z: Estimate
    exact_log_z: float | None
    relative: bool
    ess: float
    kl: float
    mean_energy: Estimate
    nonfinite: int
    modes: tuple[Tensor, Tensor] | None = None
    data_ess: float | None = None
    data_energy: Tensor | None = None
    energy_overlap: float | None = None
    nll: Estimate | None = None
    history: History | None = None
    seen: bool = False

    @property
    def covered(self) -> int | None:
        """How many modes are within 3σ of equal weight, and have samples at all."""
        if self.modes is None:
            return None
        p, error = self.modes
        return int((((p - 1 / len(p)).abs() <= 3 * error) & (p > 0)).sum())

    def rows(self) -> list[tuple[str, str]]:
        """What the table says, line by line."""
        n = len(self.log_w)
        name = "log Z₁/Z₀ = −ΔF" if self.relative else "log Z"
        exact = "" if self.exact_log_z is None else f" (exact {self.exact_log_z:.4f})"
        lines = [
            ("samples", f"{n}, those of training" if self.seen else f"{n}"),
            (name, f"{self.log_z}{exact}"),
            ("effective sample size", f"{100 * self.ess:.2f} %"),
            ("KL(q‖p), nats", f"{self.kl:.4f}"),
            ("⟨u⟩, kT", f"{self.mean_energy}"),
            ("energies NaN or infinite", f"{self.nonfinite} ({100 * self.nonfinite / n:.2g} %)"),
        ]
        if self.modes is not None:
            p, error = self.modes
            off = (p - 1 / len(p)).abs()
            worst = torch.where(off > 0, off / error, 0).max().item()
            lines.append((f"modes within 3σ of 1/{len(p)}", f"{self.covered} of {len(p)} (largest {worst:.1f}σ)"))
        if self.data_ess is not None:
            lines += [
                ("effective sample size, from data", f"{100 * self.data_ess:.2f} %"),
                (f"−log q{' − log Z₀' if self.relative else ''} of data, nats", f"{self.nll}"),
                ("overlap of energy histograms", f"{100 * self.energy_overlap:.1f} %"),
            ]
        if self.history is not None:
            h = self.history
            lines.append(("training", f"{h.steps} steps, {h.seconds:.1f} s"))
            if "energies" in h.metrics:
                bad = sum(h.metrics.get("nonfinite", [0]))
                lines.append(
                    ("energies evaluated in training", f"{sum(h.metrics['energies']):.0f}, {bad:.0f} nonfinite")
                )
        return lines

    def __str__(self) -> str:
        lines = self.rows()
        left, right = (max(len(cell) for cell in column) for column in zip(*lines))
        rule = "─" * (left + right + 2)
        return "\n".join([self.target, rule, *(f"{a:<{left}}  {b:>{right}}" for a, b in lines), rule])

    def __repr__(self) -> str:
        return f"Report({self.target}: log Z {self.log_z}, ESS {100 * self.ess:.1f} %, {len(self.log_w)} samples)"

    def plot(self, path: str | os.PathLike | None = None):
        """Draw weights, energies, modes and training.

        Args:
            path: where to save the picture; not saved without.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: without matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("Report.plot needs matplotlib: pip install 'flowgroup[train]'") from error
        panels = [self._draw_weights, self._draw_energies]
        if self.modes is not None:
            panels.append(self._draw_modes)
        if self.history is not None and self.history.train:
            panels.append(self._draw_training)
        figure = Figure(figsize=(3.4 * len(panels), 3.0), dpi=120, layout="constrained")
        for draw, ax in zip(panels, figure.subplots(1, len(panels))):
            draw(ax)
        figure.suptitle(f"{self.target}: log Z {self.log_z}, ESS {100 * self.ess:.1f} %", fontsize="medium")
        if path is not None:
            figure.savefig(path)
        return figure

    def _draw_weights(self, ax) -> None:
        log_w = self.log_w[self.log_w.isfinite()].double().cpu() - self.log_z.value
        if len(log_w):
            ax.hist(log_w.numpy(), bins=60, log=True)
        ax.axvline(0.0, color="black", linewidth=0.8)
        ax.set(title="log-weights", xlabel="log w − log Z", ylabel="samples")

    def _draw_energies(self, ax) -> None:
        good = self.log_w.isfinite()
        ax.set(title="energies", xlabel="u (kT)", ylabel="density")
        if not good.any() and self.data_energy is None:
            return
        u, w = self.energy[good].double().cpu(), self.log_w[good].double().cpu().softmax(0)
        data = None if self.data_energy is None else self.data_energy.double().cpu()
        likely = u if data is None else data
        # up to where nearly all of the target is; a few samples on top of each other would hide the rest
        low, high = likely.min().item(), likely.quantile(0.995).item()
        high += 0.1 * max(high - low, 1e-6)
        bins = torch.linspace(low, high, 61, dtype=torch.float64).numpy()
        if ((u >= low) & (u <= high)).any():
            ax.hist(u.numpy(), bins, density=True, alpha=0.5, label="flow")
            ax.hist(u.numpy(), bins, weights=w.numpy(), density=True, histtype="step", color="C1", label="reweighted")
        if data is not None:
            ax.hist(data.numpy(), bins, density=True, histtype="step", color="black", label="data")
        ax.legend(fontsize="small")

    def _draw_modes(self, ax) -> None:
        p, error = (values.double().cpu().numpy() for values in self.modes)
        ax.errorbar(range(len(p)), p, 3 * error, fmt="o", markersize=3, capsize=2)
        ax.axhline(1 / len(p), color="black", linewidth=0.8)
        ax.set(title="weights of modes ± 3σ", xlabel="mode", ylim=(0, None))

    def _draw_training(self, ax) -> None:
        steps = torch.linspace(0, self.history.steps, len(self.history.train) + 1)[1:].tolist()
        name = next((n for n in self.history.metrics if n.startswith("ESS")), None)
        values = self.history.train if name is None else [100 * v for v in self.history.metrics[name]]
        ax.plot(steps, values)
        ax.set(title="training", xlabel="step", ylabel="loss (kT)" if name is None else f"{name} (%)")


def title(target: Target) -> str:
    """A target and its options in one line."""
    temperature = "" if target.temperature is None else f"temperature={target.temperature:g}"
    return f"{type(target).__name__}({', '.join(filter(None, (target.extra_repr(), temperature)))})"


def make_report(
    target: Target,
    x: Tensor,
    energy: Tensor,
    log_w: Tensor,
    data: tuple[Tensor, Tensor, Tensor] | None,
    history: History | None,
    relative: bool,
) -> Report:
    """Read everything off samples x, their energies and log-weights.

    Args:
        target: p; one with `nearest_mode(x) -> indices` and `modes` (modes, …), all alike, has its modes counted.
        x, energy, log_w: of samples of the flow.
        data: energies, log-densities under the flow and log-weights of samples of the target.
        history: of the training.
        relative: whether the base is a data set.
    """
    log_w = log_w.double()
    good = log_w.isfinite()
    value = log_z(log_w)
    p, u = log_w.softmax(0), torch.where(good, energy, 0).double()
    report = Report(
        title(target),
        x,
        energy,
        log_w,
        value,
        None if relative else getattr(target, "log_z", None),
        relative,
        effective_sample_size(log_w).item(),
        # q where energies are finite is q over the share of samples there
        value.value - good.double().mean().log().item() - log_w[good].mean().item() if good.any() else math.inf,
        Estimate(*(value.item() for value in weighted_mean(p, u))),
        int((~good).sum()),
        history=history,
    )
    if hasattr(target, "nearest_mode"):
        report.modes = mode_weights(target.nearest_mode(x), len(target.modes), log_w)
    if data is not None:
        report.data_energy, data_log_q, data_log_w = data
        report.data_ess = effective_sample_size(data_log_w.double(), of="target").item()
        n, data_log_q = len(data_log_q), data_log_q.double()
        error = (data_log_q.std() / n**0.5).item() if n > 1 else math.inf
        report.nll = Estimate(-data_log_q.mean().item(), error)
        report.energy_overlap = histogram_overlap(energy, report.data_energy, log_w)
    return report
