"""Batch normalization on Lie groups."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from flowgroup.groups import LieGroup
from flowgroup.manifolds import Manifold
from flowgroup.nn.riemannian_batch_norm import RiemannianBatchNorm


class LieBN(RiemannianBatchNorm):
    """x̃ = β·exp(s/√(v² + ε)·log(μ⁻¹x)), μ the mean of the batch and v² = mean d²(μ, x) its variance (Algorithm 1).

    With the exact mean (`karcher_steps=None`) and ε → 0 the output has the Fréchet mean β and the variance s². exp and
    log are those of the metric at the identity, and one scalar variance stands for all directions: on `Euclidean(n)`
    v² is the sum of the n variances.

    Gradients go through the statistics of the batch. In training mode under `torch.distributed` these are the ones of
    the joint batch of all processes, whatever its parts are, and all processes must call the layer, also under
    `DistributedDataParallel`. In evaluation mode the running statistics take their place: the running mean moves along
    the geodesic to the mean of each batch, the running variance along the line. Inputs in half precision, and all
    inputs under autocast, are worked on and returned in float32.

    `variance=False` leaves out the scaling and so gives the mean-only normalization of Brooks et al. (2019). Theirs
    translates SPD matrices by symmetric square roots G^{-1/2} X G^{-1/2}, the group of the affine-invariant metric by
    Cholesky factors L⁻¹ X L⁻ᵀ; the two differ by a rotation, X ↦ RXRᵀ, that depends on G.

    Args:
        space: the Lie group, for example `manifolds.SPD(n, metric=…)`, `groups.SO3()` or one of yours.
        shape: the last dimensions before the event that have statistics, a bias and a scale of their own, such as
            channels; all dimensions before them are averaged over.
        momentum: how far running statistics move, between 0 and 1; None makes them the average of all batches.
        eps: ε, added to the variance.
        karcher_steps: steps of the iteration for the mean where it has no closed form; None iterates to convergence,
            which cannot be compiled.
        affine: whether there are a bias and a scale to learn; otherwise they are the identity and one.
        variance: whether to scale.
        track_running_stats: whether there are running statistics; if not, those of the batch serve in evaluation too.
        training_momentum: None to normalize a batch in training by its own statistics. Else by running statistics
            too, but others: they move to those of the batch by the part that this function gives for the number k of
            the batch, counted from 1, and both variances are then about the running means. With a `DecayingMomentum`
            this is the momentum batch normalization of Kobler et al. (2022).
        parametrization: None for a bias that is a `geoopt.ManifoldParameter`, to be trained by
            `geoopt.optim.RiemannianAdam` or `RiemannianSGD`: a plain optimizer would leave the group. With "exp" it is
            the exponential of free coordinates in the Lie algebra, and any optimizer will do; `bias` is a point all
            the same, by `torch.nn.utils.parametrize`.
        process_group: the processes that share a batch; None for all.
        validate_args: whether to look at values (NaN, points off the group) and raise; that costs a wait on a GPU.
        device, dtype: of parameters and buffers.

    Raises:
        TypeError: `space` is no Lie group.
        ValueError: a point of the wrong shape, off the group, or not finite; the statistics are then left as they
            were.

    Source: A Lie Group Approach to Riemannian Batch Normalization, 2024, arXiv 2403.11261.
        Riemannian batch normalization for SPD neural networks, 2019, arXiv 1909.02414.
        SPD domain-specific batch normalization to crack interpretable unsupervised domain adaptation in EEG, 2022,
        arXiv 2206.01323.

    Example:
        >>> import torch
        >>> from flowgroup.groups import SO2
        >>> layer = LieBN(SO2())
        >>> x = SO2().exp(0.1 * torch.rand(100, 1) + 2.0)
        >>> angles = SO2().log(layer(x))
        >>> torch.allclose(angles.mean(), torch.tensor(0.0), atol=1e-5), bool((angles.std() - 1).abs() < 0.01)
        (True, True)
    """

    def _require(self, space: Manifold) -> None:
        if not isinstance(space, LieGroup):
            raise TypeError(
                f"LieBN needs a flowgroup.groups.LieGroup, such as groups.SO3() or manifolds.SPD(n), got {space!r}"
            )

    def _add(self, g: Tensor, y: Tensor) -> Tensor:
        return self.space.model.compose(g, y)

    def _subtract(self, g: Tensor, y: Tensor) -> Tensor:
        return self.space.model.left_divide(g, y)

    def _dilation(self, y: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return self.space.model.dilation(y)
