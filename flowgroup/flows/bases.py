"""Base distributions as modules: their parameters move, train and save with the flow."""

# ruff: noqa: N802  (the constructors bear the names of the distributions they make)
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, transform_to
from torch.distributions.constraints import Constraint

from flowgroup import distributions, manifolds
from flowgroup.manifolds import Manifold, Sphere
from flowgroup.manifolds._space import space_of
from flowgroup.manifolds.constraints import OnManifold


class Base(nn.Module):
    """A distribution made anew from tensors of the module at every call.

    Args:
        make: gives the distribution from the arguments below, by name, and `validate_args`: a class of
            torch.distributions, say.
        trainable: whether the tensors are parameters, kept inside the constraints that the distribution names for
            them in `arg_constraints` (points on a manifold by its projection).
        arguments: of `make`: tensors, or another Base for an argument that is a distribution itself.

    Raises:
        ValueError: arguments that the distribution does not take, or that cannot start training.

    Example:
        >>> base = Base(distributions.VonMises, trainable=True, loc=torch.zeros(2), concentration=torch.ones(2))
        >>> base.distribution().concentration.detach()
        tensor([1., 1.])
    """

    def __init__(self, make: Callable[..., Distribution], trainable: bool = False, **arguments: Tensor | Base):
        super().__init__()
        self.make = make
        self.trainable = trainable
        self._names = tuple(arguments)
        self._constraints: dict[str, Constraint] = {}
        values = {name: a.distribution() if isinstance(a, Base) else a for name, a in arguments.items()}
        first = make(**values, validate_args=True)
        self.event_shape = first.event_shape
        self._kind = type(first).__name__
        for name, value in arguments.items():
            if isinstance(value, Base):
                self.add_module(name, value)
            elif trainable:
                self._constraints[name] = constraint = first.arg_constraints[name]
                raw = value if isinstance(constraint, OnManifold) else transform_to(constraint).inv(value)
                if not raw.isfinite().all():
                    raise ValueError(f"{name} must start inside {constraint}, not on its edge, got {value}")
                self.register_parameter(name, nn.Parameter(raw.clone()))
            else:
                self.register_buffer(name, value.clone())

    def distribution(self) -> Distribution:
        """The distribution, with gradients to the parameters."""
        arguments = {}
        for name in self._names:
            value = getattr(self, name)
            if isinstance(value, Base):
                value = value.distribution()
            elif self.trainable:
                constraint = self._constraints[name]
                to = constraint.manifold.projx if isinstance(constraint, OnManifold) else transform_to(constraint)
                value = to(value)
            arguments[name] = value
        return self.make(**arguments, validate_args=False)  # valid by construction, and a look at values costs a wait

    @property
    def support(self) -> Constraint:
        """Where the entries of an event live, or the event itself where that is a point of a manifold."""
        support = self.distribution().support
        while hasattr(support, "base_constraint"):  # of several independent entries, of a mixture
            support = support.base_constraint
        return support

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density at latent z."""
        return self.distribution().log_prob(z)

    def extra_repr(self) -> str:
        return f"{self._kind}, event_shape={tuple(self.event_shape)}, trainable={self.trainable}"


def DiagonalNormal(features: int, trainable: bool = False) -> Base:
    """N(0, I), or N(μ, diag σ²) with trainable μ and σ, starting there.

    Example:
        >>> DiagonalNormal(2).log_prob(torch.zeros(2))
        tensor(-1.8379)
    """
    return Base(distributions.DiagonalNormal, trainable, loc=torch.zeros(features), scale=torch.ones(features))


def MultivariateNormal(features: int, trainable: bool = True) -> Base:
    """N(μ, LLᵀ) with trainable mean μ and Cholesky factor L, starting from N(0, I).

    Example:
        >>> MultivariateNormal(2).log_prob(torch.zeros(2)).detach()
        tensor(-1.8379)
    """
    return Base(distributions.MultivariateNormal, trainable, loc=torch.zeros(features), scale_tril=torch.eye(features))


def BoxUniform(low: Tensor | Sequence[float], high: Tensor | Sequence[float]) -> Base:
    """Uniform on the box low ≤ x ≤ high, both of shape (features,).

    Example:
        >>> BoxUniform([0.0, 0.0], [2.0, 2.0]).log_prob(torch.ones(2))
        tensor(-1.3863)
    """
    return Base(distributions.BoxUniform, low=torch.as_tensor(low), high=torch.as_tensor(high))


def TorusUniform(features: int) -> Base:
    """Uniform on the torus of `features` angles.

    Example:
        >>> TorusUniform(2).log_prob(torch.zeros(2))
        tensor(-3.6758)
    """
    return Base(partial(_like, distributions.TorusUniform, features), like=torch.zeros(()))


def SphereUniform(dim: int) -> Base:
    """Uniform on the sphere S^dim of unit vectors (dim + 1,).

    Example:
        >>> SphereUniform(2).log_prob(torch.tensor([0.0, 0.0, 1.0]))  # −log 4π
        tensor(-2.5310)
    """
    return Base(partial(_like, distributions.SphereUniform, dim), like=torch.zeros(()))


def _like(make: Callable[..., Distribution], size: int, like: Tensor, validate_args: bool = True):
    """A distribution without parameters, of the dtype and device of a tensor that moves with the module."""
    return make(size, dtype=like.dtype, device=like.device)


def FreeBodies(bodies: int, box: Sequence[float] | None = None, scale: float = 1.0) -> Base:
    """Independent rigid bodies (bodies, 7): positions uniform in a box or N(0, scale²), orientations uniform.

    Example:
        >>> FreeBodies(2, box=(1.0, 1.0, 1.0)).distribution().sample((5,)).shape
        torch.Size([5, 2, 7])
    """
    return Base(partial(_free_bodies, bodies, box, scale), like=torch.zeros(()))


def _free_bodies(bodies: int, box, scale: float, like: Tensor, validate_args: bool = True):
    return distributions.FreeBodies(bodies, box, scale, like.dtype, like.device, validate_args)


def VonMises(features: int, concentration: float = 1.0, trainable: bool = False) -> Base:
    """Independent von Mises angles on the torus, starting from mean 0 and one concentration > 0.

    Example:
        >>> VonMises(2).log_prob(torch.zeros(2))
        tensor(-2.1476)
    """
    loc, kappa = torch.zeros(features), torch.full((features,), float(concentration))
    return Base(distributions.VonMises, trainable, loc=loc, concentration=kappa)


def VonMisesFisher(dim: int, concentration: float = 1.0, trainable: bool = False) -> Base:
    """Von Mises–Fisher on the sphere S^dim, starting from the mean direction (1, 0, …, 0) and a concentration > 0.

    Example:
        >>> VonMisesFisher(2).log_prob(torch.tensor([1.0, 0.0, 0.0]))
        tensor(-1.6925)
    """
    loc, kappa = Sphere(dim).origin(), torch.tensor(float(concentration))
    return Base(distributions.VonMisesFisher, trainable, loc=loc, concentration=kappa)


def WrappedNormal(manifold: Manifold, scale: float = 1.0, trainable: bool = False) -> Base:
    """Wrapped normal on a manifold, starting from its origin and the covariance scale²·I.

    Example:
        >>> from flowgroup.manifolds import SPD
        >>> WrappedNormal(SPD(2)).log_prob(torch.eye(2))
        tensor(-2.7568)
    """
    scale_tril = float(scale) * torch.eye(manifold.dim)
    make = partial(_on, distributions.WrappedNormal, manifold)
    return Base(make, trainable, loc=manifold.origin(), scale_tril=scale_tril)


def RotationNormal(scale: float = 1.0, trainable: bool = False) -> Base:
    """Wrapped normal on unit quaternions, the same at q and −q: rotation vectors from N(0, scale²·I), in radians.

    Trainable, it starts so and learns the mean rotation and a covariance. Turns by 2π about any axis end at the mean
    rotation, so there the density of a wide one is infinite: in a spike of finite mass, about 1e-3 rad wide at scale 1,
    0.1 rad at scale 2, and not to be seen at scale 0.5.

    Example:
        >>> RotationNormal(0.1).log_prob(torch.tensor([[1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]]))
        tensor([5.5372, 5.5372])
    """
    return Base(distributions.Even, law=WrappedNormal(Sphere(3), 0.5 * scale, trainable))


def RiemannianGaussian(manifold: Manifold, scale: float = 1.0, trainable: bool = False) -> Base:
    """Riemannian Gaussian on a manifold, starting from its origin and one scale > 0.

    Example:
        >>> from flowgroup.manifolds import SPD
        >>> RiemannianGaussian(SPD(2)).log_prob(torch.eye(2))
        tensor(-2.9262)
    """
    make = partial(_on, distributions.RiemannianGaussian, manifold)
    return Base(make, trainable, loc=manifold.origin(), scale=torch.tensor(float(scale)))


def _on(make: Callable[..., Distribution], manifold: Manifold, **arguments) -> Distribution:
    """A distribution on a manifold."""
    return make(manifold, **arguments)


def Mixture(components: Base, trainable: bool = True) -> Base:
    """Σₖ wₖ pₖ, the weights trainable or equal; `components` has one batch dimension, the components.

    Mixtures cannot be sampled by reparametrization.

    Example:
        >>> three = Base(distributions.VonMisesFisher, True, loc=torch.eye(3), concentration=torch.ones(3))
        >>> Mixture(three).distribution().sample((5,)).shape
        torch.Size([5, 3])
    """
    batch_shape = components.distribution().batch_shape
    if len(batch_shape) != 1:
        raise ValueError(f"components must have one batch dimension, got batch shape {tuple(batch_shape)}")
    return Base(distributions.Mixture, trainable, logits=torch.zeros(batch_shape), components=components)


def MixtureNormal(features: int, components: int, trainable: bool = True) -> Base:
    """Mixture of diagonal normal distributions, starting with unit scales at random means from N(0, I).

    Example:
        >>> MixtureNormal(2, components=8).distribution().sample((5,)).shape
        torch.Size([5, 2])
    """
    loc = torch.randn(components, features)
    return Mixture(Base(distributions.DiagonalNormal, trainable, loc=loc, scale=torch.ones_like(loc)), trainable)


def MixtureVonMisesFisher(dim: int, components: int, concentration: float = 1.0, trainable: bool = True) -> Base:
    """Mixture of von Mises–Fisher distributions on S^dim, starting at mean directions drawn uniformly.

    Example:
        >>> MixtureVonMisesFisher(2, components=8).distribution().sample((5,)).shape
        torch.Size([5, 3])
    """
    loc = Sphere(dim).random_uniform(components, dim + 1)
    kappa = torch.full((components,), float(concentration))
    return Mixture(Base(distributions.VonMisesFisher, trainable, loc=loc, concentration=kappa), trainable)


def Product(*parts: Base) -> Base:
    """Independent parts, joined to one vector.

    Example:
        >>> Product(TorusUniform(1), DiagonalNormal(2)).log_prob(torch.zeros(3))
        tensor(-3.6758)
    """
    each = [part.distribution() for part in parts]
    manifold = manifolds.Product(*(space_of(f"part {i}", p.event_shape, p.support) for i, p in enumerate(each)))
    return Base(partial(_joined, manifold), **{f"part{i}": part for i, part in enumerate(parts)})


def _joined(manifold: Manifold, validate_args: bool = True, **parts: Distribution) -> Distribution:
    return distributions.Product(manifold, *parts.values())
