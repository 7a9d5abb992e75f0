"""What a flow is trained on to become a Boltzmann generator: objective(flow, target, n, data) -> (loss, metrics)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from flowgroup._checks import check_event_shape, positive_integer
from flowgroup.boltzmann.estimators import effective_sample_size
from flowgroup.boltzmann.samplers import ais
from flowgroup.boltzmann.samplers.hmc import HMC
from flowgroup.boltzmann.samplers.kernels import Kernel
from flowgroup.boltzmann.targets import Target
from flowgroup.flows import Flow

Loss = tuple[Tensor, dict[str, Tensor]]


class Objective(Protocol):
    """A function of a flow, a target, a number of samples and data (rows, *event), which some do without.

    It gives a loss and metrics: real ones, whose mean over steps tells something, and whole numbers, that add up. One
    that changes from call to call has `state_dict` and `load_state_dict`.
    """

    def __call__(self, flow: Flow, target: Target, n: int, data: Tensor | None = None) -> Loss: ...


class SafeEnergy(NamedTuple):
    """Energies to train on.

    Attributes:
        energy: u(x) as it is, without gradient.
        good: where u(x) and its gradient are finite.
        capped: u, above the cap growing like a logarithm, with gradient; 0 without gradient where not good.
    """

    energy: Tensor
    good: Tensor
    capped: Tensor


def smooth_cap(u: Tensor, cap: float | None) -> Tensor:
    """u for u ≤ cap, cap + log(1 + u − cap) above: with continuous slope 1/(1 + u − cap); None leaves u.

    Example:
        >>> smooth_cap(torch.tensor([3.0, 1e6]), cap=10.0)
        tensor([ 3.0000, 23.8155])
    """
    return u if cap is None else torch.where(u > cap, cap + (u - cap).clamp(min=0).log1p(), u)


def safe_energy(target: Target, x: Tensor, cap: float | None = None) -> SafeEnergy:
    """u(x) whose gradient is never NaN or infinite, whatever x is.

    The force is taken first and joined to the graph of x as a number, so that a NaN in it stays with its own sample.

    Args:
        target: u.
        x: configurations (*batch, *event).
        cap: in kT, of `smooth_cap`.

    Example:
        >>> from flowgroup import boltzmann
        >>> x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)  # on each other
        >>> u = safe_energy(boltzmann.LennardJones(2, "once"), x)
        >>> u.capped.backward()
        >>> u.good, x.grad.abs().max()
        (tensor(False), tensor(0.))
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        u = target.energy(leaf)
        capped = smooth_cap(u, cap)
        (gradient,) = torch.autograd.grad(capped.sum(), leaf)
    good = u.isfinite() & gradient.isfinite().flatten(u.dim()).all(-1)
    gradient = torch.where(_over_event(good, x), gradient, 0)
    slope = ((x - x.detach()) * gradient).flatten(good.dim()).sum(-1)
    return SafeEnergy(u.detach(), good, torch.where(good, capped.detach(), 0) + torch.where(good, slope, 0))


def reverse_kl(
    flow: Flow,
    target: Target,
    n: int,
    data: Tensor | None = None,
    *,
    path_gradient: bool = False,
    cap: float | None = None,
) -> Loss:
    """KL(q‖p) − log Z = E_q[log q(x) + u(x) + log_unit_volume], the mean over n samples of the flow.

    Samples whose energy or force is not finite are left out of the mean and counted. A flow with a `SampleBase` is so
    trained for learned free-energy perturbation: its loss is the mean generalised work u₁(f(x)) − u₀(x) − log|det|.

    Args:
        flow: q; its base must have `rsample`.
        target: u.
        n: samples.
        data: not used.
        path_gradient: whether to leave out the gradient of log q(x) in the parameters at fixed x, whose mean is zero.
            The noise of what remains vanishes where q = p ("sticking the landing"), for one pass more, from data to
            latent.
        cap: energies in kT above which the loss grows like a logarithm (`smooth_cap`).

    Returns:
        The loss, and of its samples the "ESS" and how many were "nonfinite".

    Source: Boltzmann Generators, 2019, arXiv 1812.01729; Sticking the Landing, 2017, arXiv 1703.09194; Gradients should
        stay on Path, 2022, arXiv 2207.08219.

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> loss, metrics = reverse_kl(flows.RotationFlow(transforms=1), boltzmann.TetrahedralRotor(), 64)
        >>> loss.shape, sorted(metrics)
        (torch.Size([]), ['ESS', 'nonfinite'])
    """
    x, log_q = flow.rsample_and_log_prob((n,))
    u = safe_energy(target, x, cap)
    good = u.good & log_q.isfinite()
    if path_gradient:
        leaf = x.detach().requires_grad_()
        (score,) = torch.autograd.grad(flow(leaf).sum(), leaf)
        log_q = log_q.detach() + ((x - leaf.detach()) * score).flatten(1).sum(-1)
    work = torch.where(good, log_q + u.capped + target.log_unit_volume, 0)
    log_w = torch.where(good, -u.energy - log_q.detach() - target.log_unit_volume, -torch.inf)
    return work.sum() / good.sum().clamp(min=1), {"ESS": effective_sample_size(log_w), "nonfinite": (~good).sum()}


def maximum_likelihood(flow: Flow, target: Target, n: int, data: Tensor | None = None) -> Loss:
    """−E_p[log q(x)] = KL(p‖q) + const, the mean over n rows of the data, drawn anew every time.

    Args:
        flow: q.
        target: not used.
        n: rows to draw.
        data: equilibrium samples (rows, *event).

    Returns:
        The loss, which is its only metric, as "NLL".

    Raises:
        ValueError: without data.

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> target = boltzmann.DoubleWell()
        >>> flow = flows.NSF(2, transforms=1)
        >>> loss, metrics = maximum_likelihood(flow, target, 64, target.sample((1000,)))
        >>> sorted(metrics)
        ['NLL']
    """
    if data is None:
        raise ValueError("data must be given: maximum likelihood needs samples of the target")
    loss = -flow(data[torch.randint(len(data), (n,), device=data.device)]).mean()
    return loss, {"NLL": loss.detach()}


class Mixture:
    """Σᵢ λᵢ·lossᵢ: reverse KL for the shape of the modes and likelihood so that none is lost, for instance.

    Args:
        terms: pairs (λᵢ, objective), λᵢ ≥ 0. Metrics of one name are told apart by the number of their term.

    Raises:
        ValueError: no terms, weights that are negative or not finite.

    Source: Boltzmann Generators, 2019, arXiv 1812.01729.

    Example:
        >>> from flowgroup import boltzmann
        >>> objective = boltzmann.Mixture((0.5, boltzmann.reverse_kl), (0.5, boltzmann.maximum_likelihood))
    """

    def __init__(self, *terms: tuple[float, Objective]):
        if not terms or not all(0 <= weight < float("inf") for weight, _ in terms):
            raise ValueError(f"terms must be pairs of a weight, 0 or larger, and an objective, got {terms!r}")
        self.terms = terms

    def __call__(self, flow: Flow, target: Target, n: int, data: Tensor | None = None) -> Loss:
        total: Tensor | float = 0.0
        metrics: dict[str, Tensor] = {}
        for i, (weight, objective) in enumerate(self.terms):
            loss, told = objective(flow, target, n, data)
            total = total + weight * loss
            metrics |= {f"{name} {i}" if name in metrics else name: value for name, value in told.items()}
        return total, metrics

    def state_dict(self) -> dict[str, Any]:
        """Those of the terms that have one."""
        return {str(i): f.state_dict() for i, (_, f) in enumerate(self.terms) if hasattr(f, "state_dict")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Those of the terms, back."""
        for i, content in state.items():
            self.terms[int(i)][1].load_state_dict(content)

    def __repr__(self) -> str:
        return f"Mixture({', '.join(f'{weight:g}·{describe(f)}' for weight, f in self.terms)})"


class Annealed:
    """The objective for β·u, β rising in equal steps from `start` to 1 over the first calls, then for u.

    Between modes a flow cannot move mass once they lie far apart in energy: it must divide it while they are close.

    Args:
        steps: calls until β = 1.
        start: the first β, in (0, 1].
        objective: what is trained on, `reverse_kl` say.

    Raises:
        ValueError: no steps, or a start outside (0, 1].

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> flow, target = flows.RotationFlow(transforms=1), boltzmann.TetrahedralRotor(beta=20.0)
        >>> loss, metrics = Annealed(steps=1000)(flow, target, 64)  # as at beta=3
        >>> metrics["β"]
        tensor(0.1500)
    """

    def __init__(self, steps: int, start: float = 0.15, objective: Objective = reverse_kl):
        if not 0 < start <= 1:
            raise ValueError(f"start must lie in (0, 1], got {start}")
        self.steps, self.start, self.objective = positive_integer("steps", steps), start, objective
        self.calls = 0

    def __call__(self, flow: Flow, target: Target, n: int, data: Tensor | None = None) -> Loss:
        beta = min(self.start + (1 - self.start) * self.calls / self.steps, 1.0)
        self.calls += 1
        loss, metrics = self.objective(flow, _Tempered(target, beta), n, data)
        return loss, {**metrics, "β": torch.tensor(beta, device=loss.device)}

    def state_dict(self) -> dict[str, Any]:
        """Where β is, and what the objective has."""
        inner = {"objective": self.objective.state_dict()} if hasattr(self.objective, "state_dict") else {}
        return {"calls": self.calls, **inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Where β was, and what the objective had."""
        self.calls = state["calls"]
        if "objective" in state:
            self.objective.load_state_dict(state["objective"])

    def __repr__(self) -> str:
        return f"Annealed(steps={self.steps}, start={self.start:g}, objective={describe(self.objective)})"


class _Tempered(Target):
    """β·u."""

    def __init__(self, target: Target, beta: float):
        super().__init__()
        self.target, self.beta = target, beta
        self.event_shape, self.support = target.event_shape, target.support
        self.log_unit_volume, self.validate_args = target.log_unit_volume, target.validate_args

    def _energy(self, x: Tensor) -> Tensor:
        return self.beta * self.target._energy(x)


class FAB:
    """∫p²/q, minimal for q = p and infinite where a mode is missed, by −Σ w̄ᵢ·log q(xᵢ) with (x, w) from AIS to p²/q.

    Annealed importance sampling carries samples of the flow to where p²/q is large, so that modes which the flow knows
    little of are found and learned; no gradient goes through it.

    Args:
        levels: intermediate densities of `ais`.
        kernel: its Markov kernel, whose step size is tuned on the way; `HMC(leapfrog=5)` by default.
        steps: steps at every level.

    Source: Flow Annealed Importance Sampling Bootstrap, 2023, arXiv 2208.01893, Section 3 (without replay buffer).

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> loss, metrics = FAB(levels=2)(flows.NSF(2, transforms=1), boltzmann.DoubleWell(), 64)
        >>> sorted(metrics)
        ['ESS of AIS', 'nonfinite']
    """

    def __init__(self, levels: int = 4, kernel: Kernel | None = None, steps: int = 1):
        self.levels, self.steps = levels, steps
        self.kernel = HMC(leapfrog=5) if kernel is None else kernel

    def __call__(self, flow: Flow, target: Target, n: int, data: Tensor | None = None) -> Loss:
        x, log_w = ais(target, flow, (n,), levels=self.levels, kernel=self.kernel, steps=self.steps, alpha=2.0)
        good = log_w > -torch.inf
        weights = log_w.softmax(0).nan_to_num(0.0)
        log_q = flow(torch.where(_over_event(good, x), x, x[good.int().argmax()]))
        metrics = {"ESS of AIS": effective_sample_size(log_w), "nonfinite": (~good).sum()}
        return -(weights * log_q).sum(), metrics

    def state_dict(self) -> dict[str, Any]:
        """What was tuned."""
        return {"step_size": self.kernel.step_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What was tuned, back."""
        self.kernel.step_size = state["step_size"]

    def __repr__(self) -> str:
        return f"FAB(levels={self.levels}, steps={self.steps}, kernel={type(self.kernel).__name__})"


class SampleBase(nn.Module):
    """Equilibrium samples of another target as the base of a flow: q(z) = e^{−u₀(z) − log_unit_volume} = Z₀·p₀(z).

    `Flow(transform, SampleBase(target0, x))` maps samples of one target, or one temperature, to another. The density is
    not normalised: weights have the mean Z₁/Z₀, so log Z of such a flow is −ΔF. Rows are drawn with replacement; their
    energies are computed once.

    Args:
        target: u₀.
        x: samples (rows, *event) of e^{−u₀}.

    Raises:
        ValueError: x of the wrong shape, or with energies that are not finite.

    Source: Learned free energy perturbation, 2020, arXiv 2002.04913.

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> cold, warm = boltzmann.TetrahedralRotor(20.0), boltzmann.TetrahedralRotor(0.0)
        >>> x = torch.nn.functional.normalize(torch.randn(1000, 4), dim=-1)
        >>> flow = flows.Flow(flows.RotationFlow(transforms=2).transform, SampleBase(warm, x))
        >>> generator = boltzmann.BoltzmannGenerator(flow, cold)
    """

    def __init__(self, target: Target, x: Tensor):
        super().__init__()
        check_event_shape("x", x, tuple(target.event_shape))
        if x.dim() != len(target.event_shape) + 1 or len(x) == 0:
            raise ValueError(f"x must be rows (n, *{tuple(target.event_shape)}), n > 0, got {tuple(x.shape)}")
        self.target = target
        self.event_shape = torch.Size(target.event_shape)
        with torch.no_grad():
            log_prob = torch.cat([-target.energy(rows) for rows in x.split(1000)]) - target.log_unit_volume
        if not log_prob.isfinite().all():
            raise ValueError(f"x must have finite energies, but {(~log_prob.isfinite()).sum()} of {len(x)} have not")
        self.register_buffer("x", x.detach().clone(), persistent=False)
        self.register_buffer("x_log_prob", log_prob, persistent=False)

    @property
    def support(self) -> constraints.Constraint:
        """Where the target lives."""
        return self.target.support

    def distribution(self) -> Distribution:
        """The rows as a distribution."""
        return _Rows(self)

    def log_prob(self, z: Tensor) -> Tensor:
        """−u₀(z) − log_unit_volume."""
        return -self.target.energy(z) - self.target.log_unit_volume

    def extra_repr(self) -> str:
        return f"{len(self.x)} rows"


class _Rows(Distribution):
    """Rows of a `SampleBase`, which remembers the energies of those it drew last."""

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, base: SampleBase):
        super().__init__(event_shape=base.event_shape, validate_args=False)
        self.base = base
        self._drawn: tuple[Tensor, Tensor] | None = None

    @property
    def support(self):
        return self.base.support

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        i = torch.randint(len(self.base.x), tuple(sample_shape), device=self.base.x.device)
        self._drawn = self.base.x[i], self.base.x_log_prob[i]
        return self._drawn[0]

    sample = rsample

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        return self.base.log_prob(value)


def describe(objective: Objective) -> str:
    """An objective and its options in words, to tell runs apart."""
    options = getattr(objective, "keywords", None)
    if options is not None:  # a functools.partial
        told = ", ".join(f"{name}={value!r}" for name, value in sorted(options.items()))
        return f"{describe(objective.func)}({told})"
    if type(objective).__repr__ is object.__repr__:  # which tells where it is in memory
        return type(objective).__qualname__
    return getattr(objective, "__qualname__", None) or repr(objective)


def _over_event(scalars: Tensor, x: Tensor) -> Tensor:
    return scalars.reshape(scalars.shape + (1,) * (x.dim() - scalars.dim()))
