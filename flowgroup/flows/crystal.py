"""Crystals of rigid bodies: maps of how bodies are displaced and turned at their sites."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from flowgroup._checks import check_constraint, check_event_shape, check_spd
from flowgroup.flows.pose_coordinates import split_sites
from flowgroup.flows.transform import Transform
from flowgroup.groups import UnitQuaternions
from flowgroup.linalg import matvec
from flowgroup.manifolds import MeanFree, RigidBodies, constraints

ROTATIONS = UnitQuaternions()


class CrystalTransform(Transform):
    """y = φ⁻¹(t(φ(x))), φ the displacements of N bodies from their sites less their mean, and the turns of the bodies.

    φ(x) has 6N − 3 coordinates, in nm and radians: an orthonormal basis of the displacements with mean zero, and for
    each body the vector 2·tan(θ/2)·axis of its turn from the orientation at its site. So t may be any map of vectors,
    one that mixes all bodies in a matrix for instance, as normal modes do. The mean displacement stays: where energy
    does not depend on it, it is uniform before and after.

    In a periodic box all is invariant under moving the whole crystal and single bodies to other images. Displacements
    relative to the first body are exact up to a quarter of the box, from there to half of it they are stretched to
    infinity, and so are turns up to half a turn: so what t gives is a crystal always. φ is smooth but for bodies that
    are displaced by half a box against the first one or turned by half a turn. Quaternions q and −q are treated alike.

    Args:
        transform: t, of vectors (6N − 3,): the displacements come first.
        sites: poses (N, 7) of the bodies at rest, N ≥ 2.
        box: edges (3,) of the periodic box in nm; None for a cluster in open space.

    Raises:
        TypeError, ValueError: sites that are no poses, or a transform of another space or size.

    Source: the idea to move what a crystal does at its sites is that of Targeted Free Energy Perturbation, 2002, doi
        10.1103/PhysRevLett.88.250602 (scaled displacements); the vectors of turns are Rodrigues parameters.

    Example:
        >>> from flowgroup import flows
        >>> sites = torch.tensor([[0.0, 0, 0, 1, 0, 0, 0], [0.5, 0, 0, 1, 0, 0, 0]])
        >>> t = CrystalTransform(flows.LULinear(9), sites, box=(1.0, 1.0, 1.0))
        >>> x = sites + torch.tensor([0.1, 0, 0, 0, 0, 0, 0])  # a crystal at rest, moved as a whole
        >>> torch.allclose(t(x)[0], x, atol=1e-6)
        True
    """

    def __init__(self, transform: Transform, sites: Tensor, box: tuple[float, float, float] | None = None):
        super().__init__()
        check_event_shape("sites", sites, (None, 7))
        n = sites.shape[-2]
        self.manifold = RigidBodies(n, box)
        check_constraint("sites", sites, self.manifold.constraint)
        self.displacements = MeanFree(n, 3)
        if not isinstance(transform, Transform):
            raise TypeError(f"transform must be a flowgroup.flows.Transform, got {transform!r}")
        for shape in (transform.in_shape, transform.out_shape):
            if shape != (6 * n - 3,):
                raise ValueError(f"transform must map vectors of size {6 * n - 3} for {n} bodies, got {shape}")
        for space in (transform.domain, transform.codomain):
            if not constraints.joins(space, constraints.real):
                raise ValueError(f"transform must map vectors of numbers, got {space!r}")
        self.transform = transform
        self.domain = self.codomain = self.manifold.constraint
        self.in_shape = self.out_shape = (n, 7)
        self.context_features = transform.context_features
        self.register_buffer("sites", sites.detach().clone())

    def coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """φ(x) (*batch, 6N − 3) of poses (*batch, N, 7), and log|det ∂φ/∂x|."""
        check_event_shape("x", x, self.in_shape)
        v, logdet, _, _ = self._coordinates(x)
        return v, logdet

    def poses(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The poses (*batch, N, 7) with φ(x) = v and mean displacement zero, and log|det ∂φ⁻¹/∂v|."""
        check_event_shape("v", v, self.transform.in_shape)
        x, logdet = self._poses(v, v.new_zeros(3), v.new_ones(1))
        return x, -logdet

    def _coordinates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """φ(x), log|det|, the mean displacement and the signs of quaternions."""
        places, orientations = split_sites(self.sites, x)
        moved = x[..., :3] - places
        first = moved[..., :1, :]
        d, stretch = self._to_line(self.manifold.wrap(moved - first))
        q = ROTATIONS.left_divide(orientations, x[..., 3:])
        sign = torch.where(q[..., :1] < 0, -1.0, 1.0).to(q)
        cos = (sign * q[..., :1]).clamp(min=torch.finfo(q.dtype).eps)
        turn = 2 * sign * q[..., 1:] / cos
        v = torch.cat((self.displacements.to_model(d), turn.flatten(-2)), -1)
        return v, stretch - _log_volume(turn), first + d.mean(-2, keepdim=True), sign

    def _poses(self, v: Tensor, mean: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
        """x with φ(x) = v, and log|det| of φ there."""
        n = self.in_shape[0]
        d = self.displacements.from_model(v[..., : 3 * n - 3])
        first = mean + d[..., :1, :]
        d, stretch = self._from_line(d - d[..., :1, :])
        turn = v[..., 3 * n - 3 :].unflatten(-1, (n, 3))
        half = turn / 2
        cos = (1 + half.square().sum(-1, keepdim=True)).rsqrt()
        places, orientations = split_sites(self.sites, v)
        q = ROTATIONS.compose(orientations, sign * torch.cat((cos, cos * half), -1))
        return torch.cat((places + first + d, q), -1), stretch - _log_volume(turn)

    def _to_line(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Displacements in the box, stretched to the whole line beyond a quarter of it, and log|det|."""
        if self.manifold.box is None:
            return d, d.new_zeros(d.shape[:-2])
        quarter = d.new_tensor(self.manifold.box) / 4
        unit = 2 / math.pi * quarter
        angle = ((d.abs() - quarter) / unit).clamp(0, math.pi / 2 * (1 - 4 * torch.finfo(d.dtype).eps))
        tan = angle.tan()
        far = d.abs() > quarter
        return torch.where(far, d.sign() * (quarter + unit * tan), d), torch.log1p(tan * tan).sum((-2, -1))

    def _from_line(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `_to_line`, and log|det| of `_to_line` there."""
        if self.manifold.box is None:
            return d, d.new_zeros(d.shape[:-2])
        quarter = d.new_tensor(self.manifold.box) / 4
        unit = 2 / math.pi * quarter
        tan = ((d.abs() - quarter) / unit).clamp(min=0)
        far = d.abs() > quarter
        return torch.where(far, d.sign() * (quarter + unit * tan.atan()), d), torch.log1p(tan * tan).sum((-2, -1))

    def _map(self, x: Tensor, context: Tensor | None, t) -> tuple[Tensor, Tensor]:
        v, before, mean, sign = self._coordinates(x)
        v, logdet = t(v, context)
        y, after = self._poses(v, mean, sign)
        return y, before + logdet - after

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(self._checked("x", x, context), context, self.transform)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        return self._map(y, context, self.transform.inverse)

    def extra_repr(self) -> str:
        return f"{self.manifold}"


def _log_volume(turn: Tensor) -> Tensor:
    """log of the volume on S³, per Lebesgue volume of 2·tan(θ/2)·axis (..., N, 3), up to a constant: summed over N."""
    return -2 * torch.log1p(turn.square().sum(-1) / 4).sum(-1)


class Whitening(Transform):
    """y = Λ^{−1/2} Vᵀ(x − μ), VΛVᵀ = C: coordinates along principal axes, the longest first, in units of their lengths.

    Nothing of it is trained. `Whitening(…).inv` goes from such coordinates to vectors with mean μ and covariance C: a
    Gaussian of one mean and covariance to that of another is `Sequential(Whitening(μ, C), Whitening(ν, D).inv)`, and to
    the same with all lengths shrunk by half `Sequential(t, t.scaled(0.25).inv)`.

    Args:
        mean: μ (n,).
        covariance: C (n, n), symmetric positive definite.

    Raises:
        ValueError: a covariance that is not that, or of another size.

    Example:
        >>> t = Whitening(torch.zeros(2), torch.diag(torch.tensor([1.0, 4.0])))
        >>> y, logdet = t(torch.tensor([0.0, 2.0]))
        >>> y.abs(), logdet
        (tensor([1., 0.]), tensor(-0.6931))
    """

    def __init__(self, mean: Tensor, covariance: Tensor):
        super().__init__()
        check_spd("covariance", covariance)
        n = covariance.shape[-1]
        if mean.shape != (n,) or covariance.dim() != 2:
            raise ValueError(
                f"mean and covariance must have shapes (n,) and (n, n), got {tuple(mean.shape)} and "
                f"{tuple(covariance.shape)}"
            )
        self.in_shape = self.out_shape = (n,)
        w, V = torch.linalg.eigh(covariance.detach().double())
        length, V = w.sqrt().flip(-1), V.flip(-1)
        self.register_buffer("mean", mean.detach().clone())
        # one matrix, and its inverse where it is needed: two that are rounded on their own are not inverse
        self.register_buffer("from_axes", (V * length).to(mean).contiguous())

    @property
    def to_axes(self) -> Tensor:
        """Λ^{−1/2} Vᵀ."""
        return torch.linalg.inv(self.from_axes)

    @property
    def log_volume(self) -> Tensor:
        """½ log det C."""
        return torch.linalg.slogdet(self.from_axes).logabsdet

    def scaled(self, factor: float) -> Whitening:
        """That of the covariance factor·C, with the same axes also where lengths of axes coincide.

        Example:
            >>> from flowgroup.flows import Sequential
            >>> t = Whitening(torch.zeros(2), torch.eye(2))
            >>> Sequential(t, t.scaled(4.0).inv)(torch.ones(2))[0]
            tensor([2., 2.])
        """
        if not 0 < factor < math.inf:
            raise ValueError(f"factor must be positive and finite, got {factor}")
        other = copy.deepcopy(self)
        other.from_axes *= math.sqrt(factor)
        return other

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        return matvec(self.to_axes, x - self.mean), -self.log_volume.expand(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        return matvec(self.from_axes, y) + self.mean, self.log_volume.expand(y.shape[:-1])

    def extra_repr(self) -> str:
        return f"{self.in_shape[0]}"
