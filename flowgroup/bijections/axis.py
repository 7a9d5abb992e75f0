"""Rotations turned further about an axis, by an angle that depends on how far they are turned already."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from flowgroup.bijections.base import Bijection, promoted
from flowgroup.bijections.moebius import MoebiusMixture
from flowgroup.bijections.spline import MIN_SLOPE, RationalQuadraticSpline
from flowgroup.groups.rotations import quaternion_to_matrix
from flowgroup.linalg import matvec
from flowgroup.manifolds import Sphere, constraints
from flowgroup.manifolds.constraints import wrap

SIDES = ("space", "body")


class _AxisMap(Bijection):
    """y = p·(cos φ/2, 0, 0, sin φ/2)·p⁻¹·x: the rotation x, then a turn by φ about n, the z axis of the frame p.

    Rotations with one direction R(x)⁻¹n of the axis in the body differ by turns about n. These are a circle, which the
    map takes to itself; the uniform measure is uniform on it.

    A subclass gives `_angle`, and `_own_params` to start from.
    """

    event_dim = 1

    def __init__(self, side: str):
        if side not in SIDES:
            raise ValueError(f"side must be one of {SIDES}, got {side!r}")
        self.side = side
        self.domain = self.codomain = constraints.OnManifold(Sphere(3))

    @property
    def param_shape(self) -> tuple[int]:
        return (4 + len(self._own_params()),)

    def initial_params(self) -> Tensor:
        return torch.cat((torch.tensor([1.0, 0.0, 0.0, 0.0]), self._own_params()))

    def couple(
        self, x: Tensor, frame: Tensor, own: Callable[[Tensor], Tensor], inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The map with parameters that depend on x, by the direction of the axis as the body sees it.

        This direction, a unit vector (..., 3), is the same for x, for −x and for their images, so the map stays odd and
        invertible. For side "body" it is that of the body's axis as space sees it.

        Args:
            x: unit quaternions (..., 4).
            frame: p (..., 4), of any length but zero.
            own: takes directions to the parameters after the frame.
            inverse: whether to invert the map.

        Returns:
            y and log|det|.
        """
        P = _left_product(F.normalize(promoted(frame, x), dim=-1))
        x = matvec(P.mT, _conjugate(x) if self.side == "body" else x)
        R = quaternion_to_matrix(x)
        angle, logdet = self._angle(R, own(R[..., 2, :]), inverse)
        half = (angle / 2).unsqueeze(-1)
        w, i, j, k = x.unbind(-1)
        y = matvec(P, half.cos() * x + half.sin() * torch.stack((-k, -j, i, w), -1))
        return _conjugate(y) if self.side == "body" else y, logdet

    def _angle(self, R: Tensor, own: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """φ and log|det| for rotation matrices R in the frame of the axis, or those of the inverse."""
        raise NotImplementedError

    def _own_params(self) -> Tensor:
        """The parameters after the frame, to start training from."""
        raise NotImplementedError

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        params = promoted(params, x)
        return self.couple(x, params[..., :4], lambda _: params[..., 4:])

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        params = promoted(params, y)
        return self.couple(y, params[..., :4], lambda _: params[..., 4:], inverse=True)


class AxisMoebius(_AxisMap):
    """y = exp(φ/2·n)·x on unit quaternions, φ = Σₖ ρₖ 2 arg(1 − z̄ₖ): a mixture of Möbius maps of the angle about n.

    zₖ is the complex number that mₖ = wₖ/√(1+|wₖ|²), wₖ = (1+|uₖ|²)uₖ, a vector of the body, turned by x, shows in the
    plane across the axis: every component carries mₖ away from the x axis of the frame, or towards it in the inverse,
    and the more the longer mₖ is. So the map is analytic also where mₖ lies along the axis and has no angle, and odd,
    f(−x) = −f(x). Densities between narrow modes go like |wₖ|⁻²; the cube lets u stay small where they are very low.
    params = (p, u₁, …, u_K, logits of ρ); n and the origin of its angles are the z axis and x axis of the rotation p.

    `forward` is a formula, `inverse` is found by bisection to the last bit and has exact gradients.

    Args:
        components: K.
        side: "space" turns about an axis fixed in space, after x; "body" about one of the body, before x.

    Source: Normalizing Flows on Tori and Spheres, 2020, arXiv 2002.02428, Section 2.1.1, for the circle.

    Example:
        >>> f = AxisMoebius(components=1)
        >>> x, params = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
        >>> y, logdet = f.forward(x, params)  # φ = 2 arg(1 + 2i/√5)
        >>> y, logdet
        (tensor([0.7454, 0.0000, 0.0000, 0.6667]), tensor(-2.1972))
    """

    def __init__(self, components: int, side: str = "space"):
        super().__init__(side)
        self.components = components
        self._mixture = MoebiusMixture(components)

    def _own_params(self) -> Tensor:
        # on a small sphere: near the identity, but no two alike, which training could not tell apart
        k = torch.arange(self.components) + 0.5
        height, angle = 1 - 2 * k / self.components, math.pi * (1 + 5**0.5) * k
        across = (1 - height.square()).sqrt()
        u = 0.3 * torch.stack((across * angle.cos(), across * angle.sin(), height), -1)
        return torch.cat((u.flatten(), torch.zeros(self.components)))

    def _angle(self, R: Tensor, own: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        K = self.components
        u, logits = own[..., : 3 * K].unflatten(-1, (K, 3)), own[..., 3 * K :]
        w = u * (1 + u.square().sum(-1, keepdim=True))
        x, y, z = (w @ R.mT).unbind(-1)
        across = 1 + z.square()
        if inverse:
            # the mixture takes centres c = z̄ of the disk as c/√(1−|c|²), and counts angles from where x is
            centres = torch.stack((x, -y), -1) * across.rsqrt().unsqueeze(-1)
            params = torch.cat((centres.flatten(-2), logits.expand(*x.shape[:-1], K)), -1)
            return self._mixture.inverse(params.new_zeros(params.shape[:-1]), params)
        # 1 − z̄ₖ = (real + i·y)/√(1+|w|²), real = √(1+|w|²) − x without cancellation
        squared = across + y.square()
        far = (squared + x.square()).sqrt() + x.abs()
        real = torch.where(x > 0, squared / far, far)
        turn = 2 * torch.atan2(y, real)
        slope = across / (real.square() + y.square())  # (1−|z|²)/|1−z|²
        weight = logits.softmax(-1)
        return (weight * turn).sum(-1), (weight * slope).sum(-1).log()


class AxisSpline(_AxisMap):
    """y = exp(φ/2·n)·x on unit quaternions, φ = g(θ) − θ + shift: a circular spline g of the angle θ about n.

    θ is the angle in the plane across the axis of the vector u of the body, turned by x; with z the part of it in that
    plane, the parameters of g fade by |z|²/(1+|z|²) to those of the identity where u lies along the axis and has no
    angle. So the map is as smooth as splines are, and odd, f(−x) = −f(x).
    params = (p, u, unnormalised parameters of g less those of the identity, shift); n and the origin of its angles are
    the z axis and x axis of the rotation p.

    Args:
        bins: bins of the spline.
        side: "space" turns about an axis fixed in space, after x; "body" about one of the body, before x.

    Source: Neural Spline Flows, 2019, arXiv 1906.04032; Normalizing Flows on Tori and Spheres, 2020, arXiv 2002.02428,
        Section 2.1.2, for the circle.

    Example:
        >>> f = AxisSpline(bins=4)
        >>> params = f.initial_params()
        >>> params[-1] = torch.pi / 2  # a quarter turn about z
        >>> f.forward(torch.tensor([1.0, 0.0, 0.0, 0.0]), params)[0]
        tensor([0.7071, 0.0000, 0.0000, 0.7071])
    """

    def __init__(self, bins: int, side: str = "space"):
        super().__init__(side)
        self.bins = bins
        self._spline = RationalQuadraticSpline(bins, math.pi, tails="circular")
        # to float64: anything else than the identity is not smooth where the angle is undefined
        self._identity = [0.0] * (2 * bins) + [math.log(math.expm1(1 - MIN_SLOPE))] * bins

    def _own_params(self) -> Tensor:
        return torch.cat((torch.tensor([1.0, 0.0, 0.0]), torch.zeros(self._spline.param_shape[0] + 1)))

    def _angle(self, R: Tensor, own: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        u, raw, shift = own[..., :3], own[..., 3:-1], own[..., -1]
        z = (u.unsqueeze(-2) @ R.mT)[..., 0, :2]
        squared = z.square().sum(-1)
        a, b = torch.where((squared == 0).unsqueeze(-1), 1, z).unbind(-1)
        angle = torch.atan2(b, a)
        fade = (squared / (1 + squared)).unsqueeze(-1)
        params = fade * raw + raw.new_tensor(self._identity)
        # a whole turn more or less would change the sign of the quaternion
        if inverse:
            angle = wrap(angle - shift).clamp(-math.pi, math.pi)  # which rounding may lead out of
            turned, logdet = self._spline.inverse(angle, params)
            return turned - angle - shift, logdet
        turned, logdet = self._spline.forward(angle, params)
        return turned - angle + shift, logdet


def _left_product(p: Tensor) -> Tensor:
    """The matrix (..., 4, 4) of q ↦ pq."""
    w, x, y, z = p.unbind(-1)
    return torch.stack((w, -x, -y, -z, x, w, -z, y, y, z, w, -x, z, -y, x, w), -1).unflatten(-1, (4, 4))


def _conjugate(q: Tensor) -> Tensor:
    return q * q.new_tensor([1.0, -1.0, -1.0, -1.0])
