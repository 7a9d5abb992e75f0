"""Long training on real degenerate covariances, where the file of them is there."""

from pathlib import Path

import geoopt
import numpy as np
import pytest
import torch

from flowgroup import nn as fnn
from flowgroup.manifolds import SPD

FILE = Path(__file__).parents[2] / "shared" / "data" / "uav_human_cov.npz"


@pytest.mark.slow
@pytest.mark.skipif(not FILE.exists(), reason=f"needs {FILE.name}, covariances of skeletons")
def test_a_thousand_steps_in_float32_stay_finite():
    """The smallest eigenvalue of these matrices is repeated 19 times or more, exactly, and traces span four decades."""
    with np.load(FILE, allow_pickle=False) as file:
        train = file["split"] == 0
        triangles, y = (torch.as_tensor(file[name][train]) for name in ("cov_triu", "label"))
    X = torch.zeros(len(y), 51, 51)
    i, j = torch.triu_indices(51, 51)
    X[:, i, j] = X[:, j, i] = triangles
    net = torch.nn.Sequential(
        fnn.LieBN(SPD(51, metric="affine-invariant")),  # on the raw matrices: their spectra as they are
        fnn.BiMap(51, 20),
        fnn.LieBN(SPD(20, metric="affine-invariant")),
        fnn.ReEig(),
        fnn.LogEig(),
        torch.nn.Linear(210, 30),
    )
    optimizer = geoopt.optim.RiemannianAdam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(1000):
        batch = torch.randint(len(y), (16,))
        loss = torch.nn.functional.cross_entropy(net(X[batch]), y[batch].long())
        optimizer.zero_grad()
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in net.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert all(value.isfinite().all() for value in net.state_dict().values())
    assert SPD(51).why_not(net[0].running_mean) is None and SPD(20).why_not(net[2].bias.detach()) is None
    start, end = np.mean(losses[:20]), np.mean(losses[-100:])
    assert start > 3 and end < 1.7, (start, end)  # log 30 = 3.4 is what knows nothing
