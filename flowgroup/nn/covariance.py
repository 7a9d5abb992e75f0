"""Signals to covariance matrices."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from flowgroup._checks import check_event_shape, check_finite
from flowgroup.nn.precision import full_precision


class CovariancePooling(nn.Module):
    """C = (1 − a)·S + a·tr(S)/n·1, S = Σₜ (xₜ − x̄)(xₜ − x̄)ᵀ/(T − correction): covariance with shrinkage.

    The target is the identity at the scale of the data, so the layer does the same at every scale. With a > 0 the
    result is positive definite unless a signal is constant, also for fewer samples T than channels n.

    Args:
        shrinkage: a, a number from 0 to 1, or what estimates the a of least expected error from each signal:
            "ledoit-wolf" (whatever the distribution) or "oas" (for Gaussian samples; as in scikit-learn, which leaves
            out terms of relative size 2/n of the paper's equation 23).
        learnable: whether a is a parameter, sigmoid(`logit`), that starts at `shrinkage`, strictly between 0 and 1.
        correction: 1 for the unbiased S, 0 for the average over samples.
        validate_args: whether to look if the input is finite.

    Shape: (..., channels, samples) -> (..., channels, channels).

    Raises:
        ValueError: no more samples than `correction`, or not finite.

    Source: A well-conditioned estimator for large-dimensional covariance matrices, 2004, Ledoit and Wolf, section 3.3;
        Shrinkage algorithms for MMSE covariance estimation, 2010, arXiv 0907.4698.

    Example:
        >>> signals = torch.randn(5, 8, 6)
        >>> C = CovariancePooling("oas")(signals)
        >>> C.shape, bool((torch.linalg.eigvalsh(C) > 0).all())
        (torch.Size([5, 8, 8]), True)
    """

    def __init__(
        self,
        shrinkage: float | Literal["ledoit-wolf", "oas"] = 0.0,
        learnable: bool = False,
        correction: int = 1,
        validate_args: bool = True,
    ):
        super().__init__()
        if isinstance(shrinkage, str):
            if shrinkage not in _ESTIMATORS or learnable:
                names = ", ".join(map(repr, _ESTIMATORS))
                raise ValueError(f"shrinkage must be {names} (not learnable), or a number, got {shrinkage!r}")
        elif not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage must be in [0, 1], got {shrinkage!r}")
        if correction not in (0, 1):
            raise ValueError(f"correction must be 0 or 1, got {correction!r}")
        self._shrinkage, self.correction, self.validate_args = shrinkage, correction, validate_args
        if learnable and not 0 < shrinkage < 1:
            raise ValueError(f"a learnable shrinkage must start strictly between 0 and 1, got {shrinkage!r}")
        start = torch.tensor(math.log(shrinkage / (1 - shrinkage))) if learnable else None
        self.register_parameter("logit", nn.Parameter(start) if learnable else None)

    @property
    def shrinkage(self) -> float | str | Tensor:
        """a, or the name of its estimator."""
        return self._shrinkage if self.logit is None else self.logit.sigmoid()

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        check_event_shape("x", x, (None, None))
        n, T = x.shape[-2:]
        if T <= self.correction:
            raise ValueError(f"x must hold more than {self.correction} samples (..., channels, samples), got {T}")
        if self.validate_args:
            check_finite("x", x)
        x = x - x.mean(-1, keepdim=True)
        S = x @ x.mT / (T - self.correction)
        mean = S.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        a = self.shrinkage
        if isinstance(a, str):
            # relative to the mean variance: fourth powers of the data itself would overflow first
            scale = torch.where(mean > 0, mean, 1)
            squares = (x * x).sum(-2) / (scale[..., 0] * ((T - self.correction) / T))
            a = _ESTIMATORS[a](squares, S / scale)[..., None, None]
        elif not isinstance(a, Tensor) and a == 0:
            return S
        return (1 - a) * S + a * mean * torch.eye(n, dtype=x.dtype, device=x.device)

    def extra_repr(self) -> str:
        shown = "learnable" if self.logit is not None else repr(self._shrinkage)
        return f"{shown}, correction={self.correction}"


def _ledoit_wolf(squares: Tensor, S: Tensor) -> Tensor:
    """min(1, b²/d²), d² = |S − 1|² and b² = (mean |xₜ|⁴ − |S|²)/T, for samples xₜ of covariance S with trace n."""
    d = _squared_distance(S)
    b = (squares.square().mean(-1) - S.square().sum((-2, -1))).clamp(min=0) / squares.shape[-1]
    return _ratio(b, d)


def _oas(squares: Tensor, S: Tensor) -> Tensor:
    """min(1, (|S|² + n²)/((T + 1)·d²)), d² = |S − 1|², for T samples of covariance S with trace n."""
    n = S.shape[-1]
    d = _squared_distance(S)
    return _ratio(d + n + n * n, (squares.shape[-1] + 1) * d)


def _squared_distance(S: Tensor) -> Tensor:
    """|S − 1|²."""
    return (S - torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)).square().sum((-2, -1))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """min(1, a/b), which is 1 at b = 0."""
    return torch.where(a < b, a / torch.where(a < b, b, 1), 1)


_ESTIMATORS = {"ledoit-wolf": _ledoit_wolf, "oas": _oas}
