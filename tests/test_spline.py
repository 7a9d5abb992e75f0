"""Rational-quadratic splines: reference values, float32 accuracy, derivatives, edges."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from flowgroup.bijections import RationalQuadraticSpline
from flowgroup.manifolds.constraints import wrap

HERE = Path(__file__).parent
STORED = HERE.parent.parent / "shared" / "oracles" / "splines.npz"
CASES = json.loads((HERE / "data" / "splines.json").read_text())


def check_against_reference(case: dict, stiff: bool, circular: bool):
    values = {k: torch.tensor(v, dtype=torch.float64) for k, v in case.items()}
    spline = RationalQuadraticSpline(
        values["uw"].shape[-1], float(values["bound"]), tails="circular" if circular else "linear"
    )
    params = torch.cat((values["uw"], values["uh"], values["ud"]), -1)
    y, logdet = spline.forward(values["x"], params)
    x, logdet_inverse = spline.inverse(values["y"], params)
    for got, name, tolerance in [
        (y, "fwd", 1e-11),
        (logdet, "fwd_logdet", 1e-8 if stiff else 1e-10),
        (x, "inv", 1e-11),
        (logdet_inverse, "inv_logdet", 1e-8 if stiff else 1e-10),
    ]:
        torch.testing.assert_close(got, values[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_reference_values(name):
    """Values computed with 40 digits from the definition."""
    check_against_reference(CASES[name], "stiff" in name, name.startswith("circ"))


@pytest.mark.skipif(not STORED.exists(), reason="the full set of reference values is not beside the repository")
@pytest.mark.parametrize("name", CASES)
def test_all_reference_values(name):
    stored = np.load(STORED)
    case = {k: stored[f"{name}_{k}"].tolist() for k in CASES[name]}
    check_against_reference(case, "stiff" in name, name.startswith("circ"))


@pytest.mark.parametrize("std", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("tails", ["linear", "circular", "bounded"])
def test_float32_round_trip(std, tails, device):
    """|f(f⁻¹(y)) − y| ≤ 2e-6·bound for every y that is some f(x), however steep the spline."""
    spline = RationalQuadraticSpline(bins=8, bound=3.0, tails=tails)
    params = std * torch.randn(200_000, *spline.param_shape, device=device)
    y, logdet = spline.forward(6 * torch.rand(200_000, device=device) - 3, params)
    x, logdet_inverse = spline.inverse(y, params)
    again, _ = spline.forward(x, params)
    assert torch.isfinite(torch.stack((y, x, logdet, logdet_inverse))).all()
    error = wrap(again - y, spline.bound) if tails == "circular" else again - y  # −bound and bound are one point
    assert error.abs().max() <= 2e-6 * spline.bound


@pytest.mark.parametrize("std", [1.0, 5.0, 20.0])
def test_float32_inverse_of_any_y(std, device):
    """For y anywhere the rounding of x itself moves f(x) by f′(x)·ulp(x)/2; the rest is ≤ 2e-6·bound."""
    spline = RationalQuadraticSpline(bins=8, bound=3.0)
    params = std * torch.randn(200_000, *spline.param_shape, device=device)
    y = 6 * torch.rand(200_000, device=device) - 3
    x, _ = spline.inverse(y, params)
    again, logdet = spline.forward(x, params)
    ulp = torch.nextafter(x.abs(), torch.full_like(x, torch.inf)) - x.abs()
    assert ((again - y).abs() - logdet.exp() * ulp / 2).max() <= 2e-6 * spline.bound


@pytest.mark.parametrize("tails", ["linear", "circular", "bounded"])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_first_and_second_derivatives(tails, direction):
    spline = RationalQuadraticSpline(bins=4, bound=2.0, tails=tails)
    params = 1.5 * torch.randn(3, 1, *spline.param_shape, dtype=torch.float64)
    x = 3.6 * torch.rand(3, 2, dtype=torch.float64) - 1.8
    arguments = (x.requires_grad_(), params.requires_grad_())
    assert torch.autograd.gradcheck(getattr(spline, direction), arguments)
    assert torch.autograd.gradgradcheck(getattr(spline, direction), arguments)


def test_gradients_agree_with_plain_autograd():
    """The closed-form backward pass against autograd through a straightforward spline."""
    spline = RationalQuadraticSpline(bins=5, bound=2.0)
    x = (3.8 * torch.rand(64, dtype=torch.float64) - 1.9).requires_grad_()
    params = torch.randn(64, *spline.param_shape, dtype=torch.float64, requires_grad=True)

    def plain(x, params):
        widths, heights, slopes = params.split((5, 5, 4), -1)
        one = torch.ones_like(x)[:, None]
        d = torch.cat((one, 1e-3 + torch.nn.functional.softplus(slopes), one), -1)
        knots = [
            -2 + 4 * torch.nn.functional.pad((1e-3 + (1 - 5e-3) * u.softmax(-1)).cumsum(-1), (1, 0))
            for u in (widths, heights)
        ]
        k = torch.searchsorted(knots[0].detach(), x.detach()[:, None]).clamp(1, 5)
        (x0, y0), (x1, y1) = ([q.gather(-1, i)[:, 0] for q in knots] for i in (k - 1, k))
        d0, d1 = d.gather(-1, k - 1)[:, 0], d.gather(-1, k)[:, 0]
        s, z = (y1 - y0) / (x1 - x0), (x - x0) / (x1 - x0)
        den = s + (d0 + d1 - 2 * s) * z * (1 - z)
        y = y0 + (y1 - y0) * (s * z**2 + d0 * z * (1 - z)) / den
        slope = s**2 * (d1 * z**2 + 2 * s * z * (1 - z) + d0 * (1 - z) ** 2) / den**2
        return y, slope.log()

    expected, got = plain(x, params), spline.forward(x, params)
    for e, g in zip(expected, got):
        torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-12)
        for de, dg in zip(
            torch.autograd.grad(e.sum(), (x, params), retain_graph=True),
            torch.autograd.grad(g.sum(), (x, params), retain_graph=True),
        ):
            torch.testing.assert_close(dg, de, rtol=1e-9, atol=1e-9)


def test_identity_outside_and_at_the_start():
    spline = RationalQuadraticSpline(bins=8, bound=2.0)
    x = torch.tensor([-50.0, -2.0001, 2.0001, 1e30])
    y, logdet = spline.forward(x, torch.randn(4, 23))
    assert torch.equal(y, x) and torch.equal(logdet, torch.zeros(4))
    x = 4 * torch.rand(100) - 2
    y, logdet = spline.forward(x, spline.initial_params())
    torch.testing.assert_close(y, x, rtol=0, atol=1e-6)
    torch.testing.assert_close(logdet, torch.zeros(100), rtol=0, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_bounded_stays_inside(direction):
    spline = RationalQuadraticSpline(bins=8, bound=1.0, tails="bounded")
    x = torch.cat((1 - 1e-6 * torch.rand(50_000), -1 + 1e-6 * torch.rand(50_000), torch.tensor([-1.0, 1.0])))
    y, _ = getattr(spline, direction)(x, 3 * torch.randn(len(x), *spline.param_shape))
    assert spline.codomain.check(y).all()


def test_nan_stays_nan():
    spline = RationalQuadraticSpline(bins=4, bound=2.0)
    assert spline.forward(torch.tensor([torch.nan]), torch.zeros(1, 11))[0].isnan().all()


def test_circle_is_periodic_and_smooth_at_its_end():
    spline = RationalQuadraticSpline(bins=5, bound=math.pi, tails="circular")
    params = torch.randn(50, *spline.param_shape, dtype=torch.float64)
    x = 2 * math.pi * torch.rand(50, dtype=torch.float64) - math.pi
    y, logdet = spline.forward(x, params)
    later, logdet_later = spline.forward(x + 2 * math.pi, params)
    torch.testing.assert_close(later, y, rtol=0, atol=1e-10)
    torch.testing.assert_close(logdet_later, logdet, rtol=0, atol=1e-8)
    ends = torch.tensor([[-math.pi + 1e-9], [math.pi - 1e-9]], dtype=torch.float64)
    _, logdet = spline.forward(ends, params)
    torch.testing.assert_close(logdet[0], logdet[1], rtol=0, atol=1e-4)


def test_half_precision_is_computed_in_float32():
    spline = RationalQuadraticSpline(bins=8, bound=3.0)
    x, params = torch.randn(100), torch.randn(100, 23).bfloat16()
    x = x.bfloat16()
    for got, expected in zip(spline.forward(x, params), spline.forward(x.float(), params.float())):
        assert got.dtype == torch.float32 and torch.equal(got, expected)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"bins": 1}, "bins"),
        ({"bins": 1000}, "bins"),
        ({"bound": 0.0}, "bound"),
        ({"tails": "quadratic"}, "tails must be one of"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        RationalQuadraticSpline(**options)


def test_bad_parameter_count():
    with pytest.raises(ValueError, match=r"params must have shape \(..., 23\), got \(5, 22\)"):
        RationalQuadraticSpline(bins=8).forward(torch.zeros(5), torch.zeros(5, 22))
