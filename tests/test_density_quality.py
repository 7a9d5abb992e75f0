"""A flow trained on points of a known density: near in likelihood, and its samples where the density is."""

import math

import torch

from flowgroup import flows
from flowgroup.distributions.toy import EightGaussians
from flowgroup.training import fit_to_data

# The Gaussians of scale 0.2 hardly overlap: the entropy is that of the choice and of one Gaussian. 1.698 nats, where
# one Gaussian fitted to all eight has a negative log-likelihood of log(2πe·(2²/2 + 0.2²)) = 3.55.
ENTROPY = math.log(8) + math.log(2 * math.pi * math.e * 0.2**2)


def quality(flow):
    """NLL, mean true log-density of samples, and the smallest and largest share of them nearest to one mode."""
    target = EightGaussians()
    with torch.no_grad():
        nll = -flow.log_prob(target.sample((5000,))).mean().item()
    y = flow.sample((5000,))
    mode = (torch.atan2(y[:, 1], y[:, 0]) / (math.pi / 4)).round().long() % 8
    shares = torch.bincount(mode, minlength=8) / len(y)
    return nll, target.log_prob(y).mean().item(), shares.min().item(), shares.max().item()


def test_spline_flow_learns_eight_gaussians_in_both_directions():
    x = EightGaussians().sample((5000,))
    flow = flows.NSF(features=2, transforms=4, bins=8, hidden_features=(64, 64))
    before = quality(flow)
    fit_to_data(flow, x, epochs=40, batch_size=250, lr=5e-3, progress=False)
    nll, reverse, smallest, largest = quality(flow)

    assert before[0] > ENTROPY + 1 and before[1] < -ENTROPY - 5, "untrained, it must miss both bounds by far"
    assert ENTROPY - 0.05 < nll < ENTROPY + 0.1
    assert -ENTROPY - 0.4 < reverse < -ENTROPY + 0.1  # points between the modes would cost 50 nats each
    assert smallest > 0.1 and largest < 0.15  # 0.125 each, ± 0.005 for the number of samples


def test_a_gaussian_does_not_pass_for_eight():
    flow = flows.Flow(flows.Sequential(flows.ActNorm(2), flows.LULinear(2)), base=flows.DiagonalNormal(2))
    fit_to_data(flow, EightGaussians().sample((5000,)), epochs=5, batch_size=500, lr=1e-2, progress=False)
    nll, reverse, _, _ = quality(flow)

    assert abs(nll - math.log(2 * math.pi * math.e * 2.04)) < 0.05
    assert reverse < -ENTROPY - 5
