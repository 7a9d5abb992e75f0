"""A Boltzmann generator: a flow, the target it learns to sample, and the report on how well it does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowgroup._checks import check_constraint, check_finite, check_rows, positive_integer
from flowgroup.boltzmann.objectives import Objective, SampleBase, describe, reverse_kl
from flowgroup.boltzmann.report import Report, make_report, title
from flowgroup.boltzmann.targets import Target
from flowgroup.boltzmann.targets.base import Altered
from flowgroup.flows import Flow
from flowgroup.manifolds.constraints import Circle, OnManifold, joins
from flowgroup.training import History, minimise
from flowgroup.training.loop import awaits_data
from flowgroup.training.randomness import seeded


class BoltzmannGenerator:
    """A flow q trained towards p(x) = e^{−u(x)}/Z; its samples with the weights e^{−u}/q are those of p.

    Args:
        flow: q; moved and trained in place.
        target: u, on the flow's device.

    Attributes:
        history: of the last `fit`, None before.

    Raises:
        TypeError, ValueError: what is no flow or target; events or spaces that do not fit.

    Source: Boltzmann Generators: Sampling equilibrium states of many-body systems with deep learning, 2019,
        arXiv 1812.01729.

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> target = boltzmann.TetrahedralRotor(beta=1.0)
        >>> generator = BoltzmannGenerator(flows.RotationFlow(transforms=2), target)
        >>> history = generator.fit(steps=40, batch_size=128, progress=False)
        >>> report = generator.report(samples=1000)
        >>> bool(abs(report.log_z.value - target.log_z) < 0.1)
        True
    """

    def __init__(self, flow: Flow, target: Target):
        if not isinstance(flow, Flow):
            hint = "; it is compiled in training by fit(compile=True)" if hasattr(flow, "_orig_mod") else ""
            raise TypeError(f"flow must be a flowgroup.flows.Flow, got {type(flow).__name__}{hint}")
        if not isinstance(target, Target):
            raise TypeError(f"target must be a flowgroup.boltzmann.Target, got {type(target).__name__}")
        if tuple(flow.event_shape) != tuple(target.event_shape):
            raise ValueError(
                f"flow has events of shape {tuple(flow.event_shape)}, but target of {tuple(target.event_shape)}"
            )
        domain, support = flow.transform.domain, target.support
        if isinstance(support, Circle | OnManifold) and not joins(domain, support):
            raise ValueError(f"flow must live where target does, on {support!r}, but it lives on {domain!r}")
        if flow.context_features:
            raise ValueError(f"flow must have no context, got one of size {flow.context_features}")
        self.flow, self.target = flow, target
        self.history: History | None = None

    def fit(
        self,
        steps: int = 2000,
        batch_size: int = 256,
        *,
        objective: Objective = reverse_kl,
        data: Tensor | None = None,
        lr: float = 2e-3,
        **options: Any,
    ) -> History:
        """min_θ objective(q_θ, p) by stochastic gradient descent; by default the reverse Kullback–Leibler divergence.

        A run that was killed and is called again with the same checkpoint ends bit for bit like one that was not.

        Args:
            steps: optimizer steps.
            batch_size: samples of each.
            objective: `reverse_kl`, `maximum_likelihood`, `FAB()`, a `Mixture`, or a function like them. Options are
                filled in by functools.partial, as in `partial(reverse_kl, path_gradient=True, cap=1e4)`.
            data: equilibrium samples (rows, *event) for objectives that learn from them.
            lr: learning rate.
            options: those of `flowgroup.training.minimise` by name: weight_decay, optimizer, schedule, clip_grad_norm,
                steps_per_epoch, checkpoint, checkpoint_every, resume, compile, seed, progress.

        Returns:
            The loss in kT per epoch of `steps_per_epoch` steps, and in `metrics` the mean "ESS" of the batches, how
            many energies were "nonfinite", and the "energies" evaluated.

        Raises:
            TypeError, ValueError: wrong arguments, a checkpoint of another run.
            DivergenceError: the loss or a gradient became NaN or infinite.
        """
        positive_integer("batch_size", batch_size)
        if not callable(objective):
            raise TypeError(f"objective must be callable, as reverse_kl is, got {type(objective).__name__}")
        if isinstance(objective, type):
            raise TypeError(f"objective must be made first, as in objective={objective.__name__}(…), got the class")
        data = None if data is None else self._rows(data)
        self.history = minimise(
            self.flow,
            _Loss(objective, self.target, batch_size, data),
            steps=steps,
            lr=lr,
            **options,
            settings={
                "objective": describe(objective),
                "target": title(self.target),
                "batch_size": batch_size,
                "rows": None if data is None else len(data),
            },
        )
        told = self.history.metrics
        if told.get("nonfinite", [0])[-1] == told["energies"][-1] > 0:
            warnings.warn("all energies of the last epoch were NaN or infinite: nothing was learned", stacklevel=2)
        return self.history

    def sample(self, shape: Sequence[int] = ()) -> Tensor:
        """Samples (*shape, *event) of the flow, to be weighted by their `log_weights`."""
        return self.flow.sample(shape)

    @torch.no_grad()
    def log_weights(self, x: Tensor) -> Tensor:
        """log w = −u(x) − log q(x) − log_unit_volume, −∞ where u is NaN or infinite; the mean of w over q is Z.

        Args:
            x: configurations (*batch, *event).
        """
        return _log_weights(self.target.energy(x), self.flow.log_prob(x), self.target)

    @torch.no_grad()
    def report(
        self,
        samples: int = 10_000,
        *,
        data: Tensor | None = None,
        rows: Tensor | None = None,
        batch_size: int = 1000,
        seed: int = 0,
    ) -> Report:
        """How good the generator is: log Z, effective sample size, energies and mode weights of fresh samples.

        Of a flow with a `SampleBase` each row is used at most once, so that error bars are right; samples beyond the
        rows are left out. From rows it was trained on ΔF comes out too low, by more than the error says where they are
        few: keep some for the report.

        Args:
            samples: how many to draw.
            data: equilibrium samples (rows, *event) of the target, for what only they can tell.
            rows: samples (rows, *event) of the base's target to take in place of those in a `SampleBase`.
            batch_size: samples at a time.
            seed: of the draws.

        Raises:
            TypeError, ValueError: wrong arguments; rows for a flow without a `SampleBase`.
        """
        positive_integer("samples", samples)
        positive_integer("batch_size", batch_size)
        data = None if data is None else self._rows(data)
        base = self.flow.base
        relative = isinstance(base, SampleBase)
        if rows is not None:
            if not relative:
                raise ValueError("rows are for a flow with a SampleBase; this one draws its own samples")
            check_rows("rows", rows, tuple(base.event_shape))
            base = SampleBase(base.target, rows.to(base.x))
        self.flow.eval()
        with seeded(self.flow._like.device, seed):
            drawn = [(x, log_q, self.target._one_for_each(x)) for x, log_q in self._draws(base, samples, batch_size)]
        x, log_q, energy = (torch.cat(parts) for parts in zip(*drawn))
        log_w = _log_weights(energy, log_q, self.target)
        told = None
        if data is not None:
            parts = [(self.target.energy(rows), self.flow.log_prob(rows)) for rows in data.split(batch_size)]
            data_energy, data_log_q = (torch.cat(values) for values in zip(*parts))
            told = data_energy, data_log_q, _log_weights(data_energy, data_log_q, self.target)
        report = make_report(self.target, x, energy, log_w, told, self.history, relative)
        report.seen = relative and rows is None and self.history is not None
        return report

    def _rows(self, data: Tensor) -> Tensor:
        """Data (rows, *event), where the flow is and in its dtype."""
        check_rows("data", data, tuple(self.target.event_shape))
        data, domain = data.to(self.flow._like), self.flow.transform.domain
        if self.flow.validate_args:
            check_finite("data", data)
            if isinstance(domain, OnManifold):
                check_constraint("data", data, domain)
        return data

    def _draws(self, base: nn.Module, samples: int, batch_size: int):
        if isinstance(base, SampleBase):
            for rows in torch.randperm(len(base.x), device=base.x.device)[:samples].split(batch_size):
                x, logdet = self.flow.transform.inverse(base.x[rows])
                yield x, base.x_log_prob[rows] - logdet
            return
        for start in range(0, samples, batch_size):
            yield self.flow.rsample_and_log_prob((min(batch_size, samples - start),))

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.flow.parameters() if p.requires_grad)
        return f"BoltzmannGenerator({title(self.target)}, flow of {size} parameters)"


def _log_weights(energy: Tensor, log_q: Tensor, target: Target) -> Tensor:
    log_w = -energy - log_q - target.log_unit_volume
    return torch.where(log_w.isfinite(), log_w, -math.inf)


class _Loss:
    """The objective with all but the flow filled in; energies are counted.

    Layers that set themselves by data see some before the first step, or samples of the flow where there are none.
    """

    def __init__(self, objective: Objective, target: Target, n: int, data: Tensor | None):
        self.objective, self.target, self.n, self.data = objective, _Counted(target), n, data
        self.started = False
        if hasattr(objective, "state_dict"):
            self.state_dict: Callable[[], Any] = objective.state_dict
            self.load_state_dict = objective.load_state_dict

    def __call__(self, flow: Flow) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.started and awaits_data(flow):
            with torch.no_grad():
                flow(flow.sample((self.n,)) if self.data is None else self.data[: self.n])
        self.started, self.target.count = True, 0
        loss, metrics = self.objective(flow, self.target, self.n, self.data)
        return loss, {**metrics, "energies": torch.tensor(self.target.count, device=loss.device)}


class _Counted(Altered):
    """A target that counts how many energies were asked for, and takes any x: a NaN is to be counted, not refused."""

    def __init__(self, target: Target):
        super().__init__(target)
        self.count, self.validate_args = 0, False

    def _energy(self, x: Tensor) -> Tensor:
        self.count += x.shape[: x.dim() - len(self.event_shape)].numel()
        return self.target._one_for_each(x)
