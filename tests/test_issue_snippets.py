"""The first page of the documentation, word for word, on small data."""

import torch

from flowgroup import flows
from flowgroup.training import fit_to_data


def test_first_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x_train, x_val, x_test = torch.randn(256, 2), torch.randn(64, 2), torch.randn(10, 2)

    flow = flows.NSF(features=2, transforms=5, bins=8, hidden_features=(128, 128))
    history = fit_to_data(flow, x_train, validation=x_val, epochs=2)
    assert flow.log_prob(x_test).shape == (10,)
    x = flow.sample((1000,))
    assert x.shape == (1000, 2)
    x, logp = flow.rsample_and_log_prob((1000,))
    assert x.shape == (1000, 2) and logp.shape == (1000,)
    assert x.requires_grad and logp.requires_grad
    assert len(history.train) == 2 and not list(tmp_path.iterdir())


def test_posterior():
    theta, c = torch.randn(7, 3), torch.randn(7, 16)

    posterior = flows.NSF(features=3, context=16, autoregressive=True)
    assert posterior.log_prob(theta, context=c).shape == (7,)
    assert posterior.sample((100,), context=c).shape == (100, *c.shape[:-1], 3)

    assert posterior.log_prob(theta[:, None], context=c[0]).shape == (7, 1)
    assert posterior.log_prob(theta[0], context=c).shape == (7,)


def test_composition():
    x6 = 3 * torch.randn(50, 6) + 1

    mine = flows.Flow(
        flows.Sequential(
            flows.ActNorm(6), flows.LULinear(6),
            flows.Coupling(flows.RationalQuadraticSpline(bins=8, bound=4.0), features=6, mask="checkerboard"),
            flows.Autoregressive(flows.Affine(), features=6),
        ),
        base=flows.DiagonalNormal(6),
    )  # fmt: skip
    y, logdet = mine.transform(x6)
    x6b, logdet_inv = mine.transform.inverse(y)
    torch.testing.assert_close(x6b, x6, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logdet_inv, -logdet, rtol=1e-5, atol=1e-5)


def test_earth():
    earth = flows.SphereFlow(dim=2, transforms=6)
    points = torch.nn.functional.normalize(torch.randn(20, 3), dim=-1)
    assert earth.log_prob(points).shape == (20,)
    x = earth.sample((20,))
    assert x.shape == (20, 3)
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(20))
