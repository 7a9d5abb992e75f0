"""Bijections against closed forms, higher precision and other people's root finders; the laws are tested elsewhere."""

import math

import mpmath
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F

from flowgroup import bijections
from flowgroup.bijections import (
    CircularShift,
    Exp,
    Inverse,
    LeakyReLU,
    Moebius,
    MoebiusMixture,
    Monotone,
    Sigmoid,
    Softplus,
    SphereMoebius,
    Tanh,
)
from flowgroup.bijections.monotone import bisect, differentiable_root, invert_increasing

NONE = torch.empty(0)


def close(got, expected, eps, units=4.0):
    """Within a few rounding units of the size of what is expected."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    error = (got.double() - expected).abs()
    assert (error <= units * eps * (1 + expected.abs())).all(), (got, expected)


# Maps of the line


@pytest.mark.parametrize(
    "bijection, function, derivative",
    [
        (Softplus(), lambda x: mpmath.log1p(mpmath.exp(x)), lambda x: 1 / (1 + mpmath.exp(-x))),
        (Exp(), mpmath.exp, mpmath.exp),
        (Sigmoid(), lambda x: 1 / (1 + mpmath.exp(-x)), lambda x: 1 / (4 * mpmath.cosh(x / 2) ** 2)),
        (Tanh(), mpmath.tanh, lambda x: 1 / mpmath.cosh(x) ** 2),
        (LeakyReLU(0.01), lambda x: x if x > 0 else 0.01 * x, lambda x: 1 if x > 0 else 0.01),
    ],
    ids=lambda v: type(v).__name__,
)
def test_map_agrees_with_50_digits(bijection, function, derivative, dtype):
    x = torch.tensor([-60.0, -20.5, -3.0, -1e-3, 1e-6, 0.7, 5.0, 21.0, 80.0], dtype=dtype)
    y, logdet = bijection.forward(x, NONE)
    with mpmath.workdps(50):
        exact = [mpmath.mpf(v) for v in x.tolist()]
        ys = [float(function(v)) for v in exact]
        logdets = [float(mpmath.log(derivative(v))) for v in exact]
    eps = torch.finfo(dtype).eps
    ys = torch.tensor(ys, dtype=torch.float64)
    # relative: small values of a softplus or a sigmoid keep their digits
    assert ((y.double() - ys).abs() <= 4 * eps * ys.abs()).all()
    close(logdet, logdets, eps)


@pytest.mark.parametrize("bijection", [Softplus(), Exp(), Sigmoid(), Tanh()], ids=str)
def test_saturated_values_invert_to_finite_numbers(bijection, dtype):
    x = torch.tensor([-1e4, -200.0, 200.0, 1e4], dtype=dtype)
    y, logdet = bijection.forward(x, NONE)
    assert bijection.codomain.check(y).all() and torch.isfinite(y).all() and torch.isfinite(logdet).all()
    back, inverse_logdet = bijection.inverse(y, NONE)
    assert torch.isfinite(back).all() and torch.isfinite(inverse_logdet).all()
    assert (back.sign() == x.sign()).all() and (back.abs() > 8).all()


def test_logit_takes_the_ends_of_the_interval(dtype):
    x, logdet = Inverse(Sigmoid()).forward(torch.tensor([0.0, 1.0], dtype=dtype), NONE)
    assert torch.isfinite(x).all() and torch.isfinite(logdet).all() and x[0] < -80 and x[1] > 15


def test_circular_shift_wraps(dtype):
    f = CircularShift(half_period=1.0)
    shift = torch.tensor([[0.75], [-7.5]], dtype=dtype)
    y, _ = f.forward(torch.tensor([0.5, 0.5], dtype=dtype), shift)
    assert y.tolist() == [-0.75, -1.0]
    assert f.inverse(y, shift)[0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: LeakyReLU(0.0), "slope"),
        (lambda: LeakyReLU(-1.0), "slope"),
        (lambda: CircularShift(0.0), "half_period"),
        (lambda: Moebius(math.inf), "half_period"),
        (lambda: MoebiusMixture(0), "components"),
        (lambda: MoebiusMixture(3, -1.0), "half_period"),
        (lambda: SphereMoebius(0), "dim"),
        (lambda: Monotone(torch.add, torch.zeros(2, 2)), "params"),
        (lambda: Monotone(torch.add, torch.zeros(1), lower=1.0, upper=1.0), "lower"),
        (lambda: bijections.LULinear(0), "features"),
        (lambda: bijections.HouseholderLinear(3, reflections=-1), "reflections"),
    ],
)
def test_bad_arguments_are_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()


# Möbius maps


def test_moebius_is_the_complex_formula():
    x = torch.linspace(-3.1, 3.1, 41, dtype=torch.float64)
    u = torch.randn(41, 2, dtype=torch.float64) * 2
    w = torch.complex(*(u / (1 + u.square().sum(-1, keepdim=True)).sqrt()).unbind(-1))
    z = torch.polar(torch.ones_like(x), x)
    image = (z - w) / (1 - w.conj() * z)
    y, logdet = Moebius().forward(x, u)
    torch.testing.assert_close(torch.polar(torch.ones_like(y), y), image)
    torch.testing.assert_close(logdet, ((1 - w.abs() ** 2) / (z - w).abs() ** 2).log())


def test_moebius_on_the_circle_is_the_one_on_the_sphere_of_dimension_one():
    x = torch.linspace(-3.1, 3.1, 41, dtype=torch.float64)
    u = torch.randn(41, 2, dtype=torch.float64)
    y, logdet = Moebius().forward(x, u)
    z, sphere_logdet = SphereMoebius(1).forward(torch.stack((x.cos(), x.sin()), -1), u)
    torch.testing.assert_close(z, torch.stack((y.cos(), y.sin()), -1))
    torch.testing.assert_close(sphere_logdet, logdet)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_sphere_moebius_is_the_reflection_formula(dim):
    x = F.normalize(torch.randn(20, dim + 1, dtype=torch.float64), dim=-1)
    u = torch.randn(20, dim + 1, dtype=torch.float64)
    q = u / (1 + u.square().sum(-1, keepdim=True)).sqrt()
    a = q - x
    projected = (a * x).sum(-1, keepdim=True) / a.square().sum(-1, keepdim=True) * a
    y, logdet = SphereMoebius(dim).forward(x, u)
    torch.testing.assert_close(y, 2 * projected - x)
    torch.testing.assert_close(logdet, dim * ((1 - q.square().sum(-1)) / a.square().sum(-1)).log())


def test_moebius_maps_start_as_the_identity_or_near_it(dtype):
    x = torch.linspace(-3.1, 3.1, 41, dtype=dtype)
    y, logdet = Moebius().forward(x, Moebius().initial_params().to(dtype))
    torch.testing.assert_close(y, x)
    assert (logdet == 0).all()
    p = F.normalize(torch.randn(7, 4, dtype=dtype), dim=-1)
    torch.testing.assert_close(SphereMoebius(3).forward(p, torch.zeros(4, dtype=dtype))[0], p)
    f = MoebiusMixture(8)
    assert (f.forward(x, f.initial_params().to(dtype))[0] - x).abs().max() < 1e-6


def test_moebius_gradient_is_right_where_it_is_the_identity():
    """∂y/∂u at u = 0, where |u| has a corner."""
    x = F.normalize(torch.randn(4, 3, dtype=torch.float64), dim=-1)
    u = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SphereMoebius(2).forward, (x, u))
    angle = torch.linspace(-3, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(Moebius().forward, (angle, u[:, :2].detach().requires_grad_()))


@pytest.mark.parametrize("length", [1.0, 10.0, 100.0, 1000.0])
def test_moebius_in_float32_near_the_boundary(length):
    """Where the point and the centre lie in one direction, |x − q| keeps its digits however close |q| is to 1."""
    eps = torch.finfo(torch.float32).eps
    # exactly: |x − q| = 1 − r for one direction and 1 + r for the opposite, (1 + r)/(1 − r) = exp(2 asinh(|u|))
    exact = 2 * math.asinh(length)
    pole = torch.eye(4)
    y, logdet = SphereMoebius(3).forward(pole, length * pole)
    close(logdet, torch.full((4,), 3 * exact), eps)
    torch.testing.assert_close(y, pole)
    close(SphereMoebius(3).forward(pole, -length * pole)[1], torch.full((4,), -3 * exact), eps)
    zero, u = torch.zeros(1), torch.tensor([length, 0.0])
    close(Moebius().forward(zero, u)[1], [exact], eps)
    close(Moebius().inverse(zero, u)[1], [-exact], eps)
    params = torch.cat((u, torch.zeros(1)))
    close(MoebiusMixture(1).forward(zero, params)[1], [exact], eps)


@pytest.mark.parametrize("length", [1.0, 10.0, 100.0])
def test_moebius_in_float32_agrees_with_float64(length):
    """Elsewhere errors are rounding times |log-det|′s sensitivity, which is at most 1/(1 − r) ≈ 2|u|²."""
    x = F.normalize(torch.randn(500, 3), dim=-1)
    u = length * F.normalize(x + torch.randn(500, 3) * torch.logspace(-4, 1, 500).unsqueeze(-1), dim=-1)
    f = SphereMoebius(2)
    for got, expected in zip(f.forward(x, u), f.forward(F.normalize(x.double(), dim=-1), u.double())):
        assert ((got.double() - expected).abs() <= 4 * torch.finfo(x.dtype).eps * (1 + 2 * length**2)).all()


def test_moebius_stack_stays_on_the_sphere(dtype):
    x = F.normalize(torch.randn(200, 3, dtype=dtype), dim=-1)
    f = SphereMoebius(2)
    for _ in range(50):
        x, logdet = f.forward(x, 30 * torch.randn(200, 3, dtype=dtype))
    assert f.domain.check(x).all() and torch.isfinite(logdet).all()
    assert ((x.norm(dim=-1) - 1).abs() < 4 * torch.finfo(dtype).eps).all()


@pytest.mark.parametrize("f", [Moebius(), MoebiusMixture(3), SphereMoebius(2)], ids=str)
def test_moebius_keeps_its_precision_under_autocast(f):
    """With parameters in bfloat16, as a network makes them there."""
    x = F.normalize(torch.randn(50, 3), dim=-1)
    x = x if f.event_dim else x[:, 0]
    params = torch.randn(50, *f.param_shape).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        results = (*f.forward(x, params), *f.inverse(x, params))
    for got, expected in zip(results, (*f.forward(x, params.float()), *f.inverse(x, params.float()))):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected)


def test_mixture_of_one_is_moebius():
    x = torch.linspace(-3.1, 3.1, 21, dtype=torch.float64)
    u = torch.randn(21, 2, dtype=torch.float64)
    params = torch.cat((u, torch.randn(21, 1, dtype=torch.float64)), -1)
    for direction in ("forward", "inverse"):
        for got, expected in zip(getattr(MoebiusMixture(1), direction)(x, params), getattr(Moebius(), direction)(x, u)):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_mixture_inverse_agrees_with_brentq(spread, dtype):
    params = spread * torch.randn(10, 9, dtype=torch.float64)
    params[:, 6:] /= spread
    y = torch.linspace(-3, 3, 10, dtype=torch.float64)

    def lifted(x, p):
        u, weight = p[:6].view(3, 2), p[6:].softmax(-1)
        w = torch.complex(*(u / (1 + u.square().sum(-1, keepdim=True)).sqrt()).unbind(-1))
        return float(x + (weight * 2 * torch.angle(1 - w * complex(math.cos(x), -math.sin(x)))).sum())

    roots = [
        scipy.optimize.brentq(lambda x, p=p, t=t: lifted(x, p) - t, t - math.pi, t + math.pi, xtol=1e-15)
        for p, t in zip(params, y.tolist())
    ]
    x, inverse_logdet = MoebiusMixture(3).inverse(y.to(dtype), params.to(dtype))
    slope = inverse_logdet.double().exp()
    error = bijections.base.constraints.wrap(x.double() - torch.tensor(roots, dtype=torch.float64)).abs()
    assert (error <= 30 * torch.finfo(dtype).eps * (1 + slope) * spread).all()


def test_mixture_inverse_has_exact_gradients():
    f = MoebiusMixture(2)
    y = torch.tensor([-1.0, 0.3], dtype=torch.float64, requires_grad=True)
    params = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f.inverse, (y, params))
    assert torch.autograd.gradgradcheck(f.inverse, (y, params))


# Root finding


def cubic(x, params):
    a, b = params.unbind(-1)
    return a + x + b.exp() * x**3


def test_monotone_inverse_agrees_with_brentq_on_the_whole_line():
    params = torch.randn(9, 2, dtype=torch.float64)
    y = torch.tensor([-1e30, -1e6, -3.0, -1e-9, 0.0, 1e-3, 2.0, 1e4, 1e20], dtype=torch.float64)
    x, _ = Monotone(cubic, torch.zeros(2)).inverse(y, params)
    for root, target, (a, b) in zip(x.tolist(), y.tolist(), params.tolist()):
        exact = scipy.optimize.brentq(
            lambda x, a=a, b=b, t=target: a + x + math.exp(b) * x**3 - t, -1e12, 1e12, xtol=1e-300, rtol=1e-15
        )
        assert root == pytest.approx(exact, rel=1e-12, abs=1e-15)


def test_monotone_inverse_and_its_gradients():
    f = Monotone(cubic, torch.zeros(2))
    y = torch.tensor([-2.0, 0.1, 3.0], dtype=torch.float64, requires_grad=True)
    params = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f.inverse, (y, params))
    assert torch.autograd.gradgradcheck(f.inverse, (y, params))


def test_root_has_three_derivatives():
    y = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    x, _ = invert_increasing(lambda x, p: (x**3, (3 * x**2).log()), y, NONE, lower=0.0)
    derivatives = [x]
    for _ in range(3):
        derivatives += torch.autograd.grad(derivatives[-1], y, create_graph=True)
    # of y^(1/3) at 8
    expected = [2, 1 / 3 / 4, -2 / 9 / 32, 10 / 27 / 256]
    torch.testing.assert_close(torch.stack(derivatives), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.jacfwd])
def test_root_under_torch_func(transform):
    f = Monotone(cubic, torch.zeros(2))
    params = torch.tensor([0.5, -0.2], dtype=torch.float64)
    ys = torch.linspace(-2, 2, 5, dtype=torch.float64)
    slope = torch.func.vmap(transform(lambda y: f.inverse(y, params)[0]))(ys)
    x, logdet = f.inverse(ys, params)
    torch.testing.assert_close(slope, logdet.exp())
    torch.testing.assert_close(slope, 1 / (1 + 3 * params[1].exp() * x**2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.tanh(1e4 * x) + 1e-4 * x,  # a cliff between two plains
        lambda x: x**9,  # flat at the root
        lambda x: torch.where(x < 1, x, 1 + 1e6 * (x - 1)),  # a kink
        torch.asinh,
        torch.exp,  # overflows far out
        lambda x: x + (x.exp() - x.exp()) + ((-x).exp() - (-x).exp()),  # NaN far out on both sides
    ],
)
def test_bisect_is_right_to_the_last_bit(function, dtype):
    x = torch.tensor([-8.0, -1.0, -1e-3, 1e-7, 0.5, 1.0, 1.5, 9.0], dtype=dtype)
    y = function(x)
    root = bisect(function, y)
    # the least x there is with f(x) ≥ y: f falls short one unit below
    assert (function(root) >= y).all() and (root <= x).all()
    below = torch.nextafter(root, torch.full_like(root, -math.inf))
    assert (function(below) < y).all()


def test_bisect_keeps_to_the_interval(dtype):
    y = torch.tensor([-math.inf, -5.0, 0.0, 0.25, 1.0, 7.0, math.inf], dtype=dtype)
    seen = []

    def square(x):
        seen.append((x.min().item(), x.max().item()))
        return x.square()

    assert bisect(square, y, 0.0, 1.0).tolist() == [0, 0, 0, 0.5, 1, 1, 1]
    assert min(low for low, _ in seen) >= 0 and max(high for _, high in seen) <= 1


def test_half_precision_is_bisected_too():
    y = torch.tensor([0.5, 8.0], dtype=torch.bfloat16)
    assert bisect(lambda x: x**3, y).tolist() == pytest.approx([0.5 ** (1 / 3), 2.0], rel=2**-7)


def test_root_in_a_flat_part_stays_where_it_is(dtype):
    """f′ underflows there: the value must not move, and nothing may become NaN."""
    f = Monotone(lambda x, p: torch.tanh(x), torch.empty(0), codomain=Tanh.codomain)
    y = torch.tensor([-1.0, 1.0], dtype=dtype, requires_grad=True)
    x, _ = f.inverse(y, NONE)
    assert torch.isfinite(x).all()
    x, _ = differentiable_root(
        lambda x, p: (x * 0 + 1, torch.full_like(x, -math.inf)), torch.ones(2, dtype=dtype), y, NONE
    )
    assert x.tolist() == [1, 1]
