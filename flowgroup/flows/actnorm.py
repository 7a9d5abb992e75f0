"""Activation normalization: an affine map that starts from the statistics of its first batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flowgroup._checks import check_finite, values_readable
from flowgroup.flows.transform import Transform


class ActNorm(Transform):
    """y = (x + shift)·exp(log_scale), at first (x − mean)/std of the first batch of two or more seen in training mode.

    A feature that is constant in that batch is centred and keeps its scale. Under `torch.distributed` the statistics
    are those of all processes, which must all bring a batch. Until that batch the map is the identity, in both
    directions. It has to pass before the module is compiled, vmapped or differentiated by torch.func: a traced
    function cannot look at values.

    Args:
        features: size of x (channels of an image).
        event_dim: 1 for vectors (features,), 3 for images (features, height, width).

    Raises:
        ValueError: when the first batch holds NaN or infinite values; nothing is set then.

    Source: Glow: Generative Flow with Invertible 1×1 Convolutions, 2018, arXiv 1807.03039, Section 3.1.

    Example:
        >>> t = ActNorm(2)
        >>> y, logdet = t(torch.randn(100, 2) * 3 + 5)
        >>> bool(y.mean(0).abs().max() < 1e-5), bool((y.std(0, correction=0) - 1).abs().max() < 1e-5)
        (True, True)
    """

    def __init__(self, features: int, event_dim: int = 1):
        super().__init__()
        if event_dim not in (1, 3):
            raise ValueError(f"event_dim must be 1 (vectors) or 3 (images), got {event_dim}")
        self.in_shape = self.out_shape = (features,) + (None,) * (event_dim - 1)
        shape = (features,) + (1,) * (event_dim - 1)
        self.shift = nn.Parameter(torch.zeros(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))
        self.register_buffer("initialized", torch.tensor(False))
        self._seen: Tensor | None = None  # the buffer, once it was seen to be true: no second look at the device

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        if self.training and values_readable(x) and values_readable(self.shift):
            self._start(x)
        return (x + self.shift) * self.log_scale.exp(), self._logdet(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        return y * (-self.log_scale).exp() - self.shift, -self._logdet(y)

    def _logdet(self, x: Tensor) -> Tensor:
        n = len(self.in_shape)
        pixels = x.shape[x.dim() - n + 1 :].numel()
        return (self.log_scale.sum() * pixels).expand(x.shape[: x.dim() - n])

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        if self._seen is self.initialized:
            return
        if self.initialized:
            self._seen = self.initialized
            return
        check_finite("x", x)
        rows = x.unsqueeze(0).movedim(-len(self.in_shape), -1).flatten(0, -2).to(self.shift.dtype)
        count = rows.new_tensor([len(rows)])
        sums = _sum_over_processes(torch.cat((rows.sum(0), count)))
        if sums[-1] < 2:  # one row has no scale
            return
        mean = sums[:-1] / sums[-1]
        squares = _sum_over_processes(torch.cat(((rows - mean).square().sum(0), count)))
        std = (squares[:-1] / squares[-1]).sqrt()
        constant = std <= 16 * torch.finfo(std.dtype).eps * mean.abs()
        self.shift.copy_(-mean.view_as(self.shift))
        self.log_scale.copy_(-torch.where(constant, 1.0, std).log().view_as(self.log_scale))
        self.initialized.fill_(True)
        self._seen = self.initialized

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._seen = None

    def extra_repr(self) -> str:
        return f"{self.in_shape[0]}, event_dim={len(self.in_shape)}"


def _sum_over_processes(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(x)
    return x
