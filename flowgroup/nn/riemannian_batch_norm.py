"""Riemannian batch normalization: one algorithm for every space with an addition, a subtraction and a scaling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import geoopt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowgroup._checks import check_event_shape, positive_integer, values_readable
from flowgroup.manifolds import Manifold
from flowgroup.nn.precision import full_precision


class RiemannianBatchNorm(nn.Module):
    """x̃ = β ⊕ (s/√(v² + ε) ⊙ (⊖μ ⊕ x)): the algorithm, for a subclass that says what ⊕, ⊖ and ⊙ are.

    The subclass gives `_require`, `_add`, `_subtract` and `_dilation`; `LieBN` says what the arguments are. All
    arithmetic is in `space.model`, where `space.to_model` and `space.from_model` lead; parameters and buffers are of
    `space` itself.

    Attributes:
        bias: β (*shape, *event), a `geoopt.ManifoldParameter` that starts at the origin of the space.
        scale: s (*shape), kept positive by holding its logarithm `log_scale`, the parameter.
        running_mean: μ (*shape, *event), a buffer that starts at the origin.
        running_var: v² (*shape), a buffer that starts at one.
        num_batches_tracked: how many batches made them.
        training_mean, training_var: the running statistics that normalize in training mode, as buffers, where there
            is a `training_momentum`.
    """

    def __init__(
        self,
        space: Manifold,
        shape: Sequence[int] = (),
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        karcher_steps: int | None = 1,
        affine: bool = True,
        variance: bool = True,
        track_running_stats: bool = True,
        training_momentum: Callable[[Tensor], Tensor] | None = None,
        parametrization: Literal["exp"] | None = None,
        process_group: dist.ProcessGroup | None = None,
        validate_args: bool = True,
        device=None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self._require(space)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], or None for the average of all batches, got {momentum}")
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps}")
        if karcher_steps is not None:
            positive_integer("karcher_steps", karcher_steps)
        if parametrization not in (None, "exp"):
            raise ValueError(f"parametrization must be None or 'exp', got {parametrization!r}")
        if training_momentum is not None and not track_running_stats:
            raise ValueError("training_momentum needs running statistics, and track_running_stats is False")
        self.space = space
        self.shape = torch.Size(positive_integer("every entry of shape", n) for n in shape)
        self.momentum, self.eps, self.karcher_steps = momentum, eps, karcher_steps
        self.affine, self.variance, self.track_running_stats = affine, variance, track_running_stats
        self.training_momentum = training_momentum
        self.process_group, self.validate_args = process_group, validate_args

        like = dict(device=device, dtype=dtype)
        origin = space.origin(*self.shape, *space.event_shape, **like)
        self.register_parameter("bias", geoopt.ManifoldParameter(origin, manifold=space) if affine else None)
        self.register_parameter(
            "log_scale", nn.Parameter(torch.zeros(self.shape, **like)) if affine and variance else None
        )
        if affine and parametrization == "exp":
            self.bias = nn.Parameter(origin)
            parametrize.register_parametrization(self, "bias", FromAlgebra(space))
        self.register_buffer("running_mean", origin.clone() if track_running_stats else None)
        one = torch.ones(self.shape, **like) if track_running_stats and variance else None
        self.register_buffer("running_var", one)
        counter = torch.zeros((), dtype=torch.long, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", counter)
        if training_momentum is not None:
            self.register_buffer("training_mean", origin.clone())
            self.register_buffer("training_var", None if one is None else one.clone())

    def _require(self, space: Manifold) -> None:
        """Raise unless the space has what the methods below need."""

    def _add(self, g: Tensor, y: Tensor) -> Tensor:
        """g ⊕ y."""
        raise NotImplementedError

    def _subtract(self, g: Tensor, y: Tensor) -> Tensor:
        """⊖g ⊕ y."""
        raise NotImplementedError

    def _dilation(self, y: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The squared distance of y to the origin, and t ↦ t ⊙ y."""
        raise NotImplementedError

    @property
    def scale(self) -> Tensor | None:
        """s, the exponential of `log_scale`."""
        return None if self.log_scale is None else self.log_scale.exp()

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (*batch, *shape, *event)."""
        self._check(x)
        points = x.reshape(-1, *x.shape[x.dim() - len(self.shape) - self.space.ndim :])
        out, new = self._normalize(points, dict(self.named_buffers(recurse=False)), Batch(self._all_reduce))
        for name, value in new.items():
            getattr(self, name)[...] = value  # compiled, copy_ to a float64 buffer without dimensions is lost
        return out.reshape(x.shape)

    def _normalize(self, x: Tensor, buffers: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """x̃ for x (n, *shape, *event), and new values of buffers; `batch` says which points share statistics."""
        y, points = self._enter(x, buffers)
        means: dict[str, Tensor] = {}
        rest: dict[str, Tensor] = {}
        if self.training or not self.track_running_stats:
            variance, dilate, means, rest = self._of_batch(y, points, buffers, batch)
        else:
            variance = buffers.get("running_var")
            centred = self._subtract(batch.at(points["running_mean"]), y)
            dilate = self._dilation(centred)[1] if self.variance else lambda t: centred
        t = 1.0
        if self.variance:
            t = (variance.to(y.dtype) + self.eps).rsqrt()
            if self.log_scale is not None:
                t = self.log_scale.to(y.dtype).exp() * t
            t = batch.at(t)
        out = dilate(t)
        out, means = self._leave(self._add(points["bias"], out) if "bias" in points else out, means)
        return out, means | rest

    def _of_batch(
        self, y: Tensor, points: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch
    ) -> tuple[Tensor | None, Callable[[Tensor], Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """The variance by which to scale, the dilation of the centred y, new means and other new values of buffers."""
        mean = batch.mean(self.space.model, y, self.karcher_steps)
        if not (self.training and self.track_running_stats):
            return *self._spread(mean, y, batch), {}, {}
        count = buffers["num_batches_tracked"] + 1
        means, rest = {}, {"num_batches_tracked": count}
        centre = mean
        if self.training_momentum is not None:
            s = self.training_momentum(count)
            centre = means["training_mean"] = self._moved_mean(points["training_mean"], s, mean)
        variance, dilate = self._spread(centre, y, batch)
        with torch.no_grad():
            t = 1 / count if self.momentum is None else self.momentum
            means["running_mean"] = self._moved_mean(points["running_mean"], t, mean)
            if self.variance:
                about = variance
                if self.training_momentum is not None:
                    about = self._spread(means["running_mean"], y, batch)[0]
                rest["running_var"] = self._moved_var(buffers["running_var"], t, about)
        if self.variance and self.training_momentum is not None:
            variance = rest["training_var"] = self._moved_var(buffers["training_var"], s, variance)
        return variance, dilate, means, {name: value.detach() for name, value in rest.items()}

    def _enter(self, x: Tensor, buffers: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """x (n, *shape, *event), and the bias and those buffers that are points, in the model.

        They go there together: maps between few points cost as much as those between many.
        """
        points = {} if self.bias is None else {"bias": self.bias.to(x.dtype)}
        # buffers are overwritten before a backward pass, so they are copied
        points |= {name: buffers[name].to(x.dtype, copy=True) for name in self._means()}
        return _mapped_together(self.space.to_model, self.space.model is self.space, x, points)

    def _leave(self, out: Tensor, means: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """x̃ and new means as points of the space."""
        means = {name: mean.detach() for name, mean in means.items()}
        out, means = _mapped_together(self.space.from_model, self.space.model is self.space, out, means)
        return out, {name: self.space.settled(mean.detach()) for name, mean in means.items()}

    def _means(self) -> tuple[str, ...]:
        """The names of the running means that the forward pass reads."""
        if not self.track_running_stats:
            return ()
        return ("running_mean", "training_mean") if self.training_momentum is not None else ("running_mean",)

    def _spread(self, mean: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor | None, Callable[[Tensor], Tensor]]:
        """The variance of y about a mean over all processes, and t ↦ t ⊙ (⊖mean ⊕ y)."""
        centred = self._subtract(batch.at(mean), y)
        if not self.variance:
            return None, lambda t: centred
        squared, dilate = self._dilation(centred)
        return batch.average(squared), dilate

    def _moved_mean(self, start: Tensor, t: Tensor | float, mean: Tensor) -> Tensor:
        """The point of the model on the geodesic from `start` to `mean` at the part t of the way."""
        return self.space.model.geodesic(start, mean, t.to(mean) if isinstance(t, Tensor) else t)

    def _moved_var(self, start: Tensor, t: Tensor | float, variance: Tensor) -> Tensor:
        """The buffer `start` moved along the line to `variance` by the part t."""
        t = torch.as_tensor(t, dtype=variance.dtype, device=variance.device)
        return torch.lerp(start.to(variance.dtype, copy=True), variance, t)

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Forget all batches: running means go to the origin, running variances to one."""
        for name, buffer in self.named_buffers(recurse=False):
            if name.endswith("_mean"):
                buffer.copy_(self.space.origin(*buffer.shape, dtype=buffer.dtype, device=buffer.device))
            else:
                buffer.fill_(name.endswith("_var"))

    @torch.no_grad()
    @full_precision
    def adapt(self, x: Tensor) -> None:
        """Let the running statistics be those of x alone (*batch, *shape, *event), its mean iterated to convergence.

        So a trained network meets a new domain of which it has unlabelled data.

        Source: SPD domain-specific batch normalization to crack interpretable unsupervised domain adaptation in EEG,
        2022, arXiv 2206.01323, Section 3.3.
        """
        if not self.track_running_stats:
            raise ValueError("adapt needs running statistics, and track_running_stats is False")
        self._check(x)
        y = self.space.to_model(x)
        y = y.reshape(-1, *y.shape[y.dim() - len(self.shape) - self.space.model.ndim :])
        mean = self.space.model.frechet_mean(y)
        variance = self._dilation(self._subtract(mean, y))[0].mean(0)
        mean = self.space.from_model(mean)
        for name in ("running",) if self.training_momentum is None else ("running", "training"):
            getattr(self, f"{name}_mean").copy_(mean)
            if self.variance:
                getattr(self, f"{name}_var").copy_(variance)
        self.num_batches_tracked.fill_(1)

    @property
    def _all_reduce(self) -> Callable[[Tensor], Tensor] | None:
        """The sum over processes in training; None where there is one."""
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return None
        if dist.get_world_size(self.process_group) == 1:
            return None
        return lambda x: _AllReduce.apply(x, self.process_group)

    def _check(self, x: Tensor) -> None:
        check_event_shape("x", x, (*self.shape, *self.space.event_shape))
        if self.training and x.numel() == 0 and self._all_reduce is None:
            raise ValueError(f"x must hold at least one point in training, got shape {tuple(x.shape)}")
        if self.validate_args and values_readable(x):
            why = self.space.why_not(x)
            if why is not None:
                raise ValueError(f"x must lie on {self.space}, but {why}")

    def extra_repr(self) -> str:
        return (
            f"shape={tuple(self.shape)}, momentum={self.momentum}, eps={self.eps}, "
            f"karcher_steps={self.karcher_steps}, affine={self.affine}, variance={self.variance}, "
            f"track_running_stats={self.track_running_stats}"
        )


@dataclass(frozen=True)
class Batch:
    """Statistics over all points of a batch, on all processes.

    Args:
        all_reduce: the sum over processes, None where there is one.
    """

    all_reduce: Callable[[Tensor], Tensor] | None

    def mean(self, manifold: Manifold, y: Tensor, steps: int | None) -> Tensor:
        """The Fréchet mean of points y (n, *shape, *event)."""
        more = {} if self.all_reduce is None else {"all_reduce": self.all_reduce}
        return manifold.frechet_mean(y, steps=steps, **more)

    def average(self, v: Tensor) -> Tensor:
        """The mean of numbers v (n, *shape)."""
        if self.all_reduce is None:
            return v.mean(0)
        count = self.all_reduce(v.new_full((), len(v)))
        return self.all_reduce(v.sum(0)) / count

    def at(self, statistic: Tensor) -> Tensor:
        """The statistic that every point is normalized by, broadcasting against points."""
        return statistic


def _mapped_together(
    function: Callable[[Tensor], Tensor], same: bool, x: Tensor, points: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """function(x) for x (n, *shape, *event) and function of points (*batch, *shape, *event), in one call of it.

    `same` says that the function is the identity, so that there is nothing to gain.
    """
    if same or not points:
        return function(x), {name: function(p) for name, p in points.items()}
    batches = [p.shape[: p.dim() - x.dim() + 1] for p in points.values()]
    y = function(torch.cat([x, *(p.reshape(-1, *x.shape[1:]) for p in points.values())]))
    y, *rest = y.split([len(x), *(batch.numel() for batch in batches)])
    return y, {name: p.reshape(*batch, *y.shape[1:]) for name, p, batch in zip(points, rest, batches)}


@dataclass(frozen=True)
class DecayingMomentum:
    """γ(k) = 1 − ρ^{max(K − k, 0)/(K − 1)} + ρ: from 1 for the first batch down to ρ from the K-th on.

    A `training_momentum`: at first every batch is normalized by its own statistics, later by ones that remember about
    1/ρ batches.

    Args:
        batches: K, at least 2.
        final: ρ in (0, 1]; the paper takes the batch size per domain over that which statistics need.

    Source: SPD domain-specific batch normalization to crack interpretable unsupervised domain adaptation in EEG, 2022,
        arXiv 2206.01323; after Momentum Batch Normalization for Deep Learning with Small Batch Size, 2020.

    Example:
        >>> momentum = DecayingMomentum(batches=11, final=0.25)
        >>> [momentum(torch.tensor(k)).item() for k in (1, 6, 11, 12)]
        [1.0, 0.75, 0.25, 0.25]
    """

    batches: int
    final: float

    def __post_init__(self):
        if positive_integer("batches", self.batches) < 2:
            raise ValueError("batches must be at least 2, got 1")
        if not 0 < self.final <= 1:
            raise ValueError(f"final must be in (0, 1], got {self.final}")

    def __call__(self, k: Tensor) -> Tensor:
        return 1 - self.final ** ((self.batches - k).clamp(min=0) / (self.batches - 1)) + self.final


class FromAlgebra(nn.Module):
    """exp(v), a point of a Lie group by free coordinates v (..., dim): for `torch.nn.utils.parametrize`.

    Example:
        >>> from flowgroup.groups import SO2
        >>> FromAlgebra(SO2())(torch.zeros(1))
        tensor([[1., -0.],
                [0., 1.]])
    """

    def __init__(self, group):
        super().__init__()
        self.group = group

    def forward(self, v: Tensor) -> Tensor:
        return self.group.exp(v)

    def right_inverse(self, g: Tensor) -> Tensor:
        return self.group.log(g)


class _AllReduce(torch.autograd.Function):
    """The sum of a tensor over processes, of which every process gets the gradients of all."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return _AllReduce.apply(gradient, ctx.group), None
