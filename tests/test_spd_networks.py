"""SPDNet and TSMNet: what they compute, that they learn, and that degenerate covariances do them no harm."""

from pathlib import Path

import geoopt
import numpy as np
import pytest
import torch
from torch import nn

from flowgroup.manifolds import SPD
from flowgroup.nn import DomainBatchNorm, LieBN, RiemannianMLR, SPDNet, TSMNet

UAV = Path(__file__).parents[2] / "shared" / "data" / "uav_human_cov.npz"
METRICS = ("affine-invariant", "log-euclidean", "log-cholesky")


def train(net, x, label, steps, batch=30):
    """Losses of each step, with every gradient looked at."""
    optimizer = geoopt.optim.RiemannianAdam(net.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        chosen = torch.randint(len(x), (batch,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x[chosen]), label[chosen])
        loss.backward()
        assert all(p.grad.isfinite().all() for p in net.parameters()), f"a gradient of step {step} is not finite"
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    return losses


def degenerate_covariances(batch, n=51, rank=32, classes=3):
    """C + 1e-3·tr(C)·1 with C of low rank: n − rank equal eigenvalues, and traces over four orders of magnitude."""
    label = torch.arange(batch) % classes
    decay = 0.7 ** torch.arange(rank).double()
    factors = torch.randn(batch, n, rank, dtype=torch.float64) * decay
    common = torch.randn(classes, n, 2, dtype=torch.float64)
    factors[:, :, :2] += 2 * common[label]
    C = factors @ factors.mT
    C = C + 1e-3 * C.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] * torch.eye(n, dtype=torch.float64)
    C = C / C.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] * 10 ** (4 * torch.rand(batch, 1, 1).double() - 3)
    return C.float(), label


def test_spdnet_is_its_layers():
    net = SPDNet((6, 4, 3), 2, threshold=0.2).double()
    X = torch.randn(5, 6, 20, dtype=torch.float64)
    X = X @ X.mT / 20
    Y = X.numpy()
    for bimap in (net[0], net[2]):
        W = bimap.weight.detach().numpy()
        Y = W.T @ Y @ W
        w, V = np.linalg.eigh(Y)
        w = np.maximum(w, 0.2 * w.mean(-1, keepdims=True))
        Y = (V * w[:, None]) @ V.swapaxes(1, 2)
    w, V = np.linalg.eigh(Y)
    log = (V * np.log(w)[:, None]) @ V.swapaxes(1, 2)
    i, j = np.tril_indices(3)
    features = log[:, i, j] * np.where(i == j, 1, 2**0.5)
    expected = features @ net[-1].weight.detach().numpy().T + net[-1].bias.detach().numpy()
    np.testing.assert_allclose(net(X).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_training_on_degenerate_covariances(metric):
    X, label = degenerate_covariances(60)
    w = torch.linalg.eigvalsh(X.double())
    assert ((w[:, 18] - w[:, 0]) < 1e-4 * w[:, 19]).all()  # nineteen equal eigenvalues
    # the first map turns the matrices, so gradients go through equal eigenvalues to its weight
    net = SPDNet((51, 51, 12), 3, norm=lambda n: LieBN(SPD(n, metric=metric)))
    losses = train(net, X, label, steps=40)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.slow
@pytest.mark.skipif(not UAV.exists(), reason="needs the UAV-Human covariances")
@pytest.mark.parametrize("metric", METRICS)
def test_a_thousand_steps_on_uav_human(metric):
    with np.load(UAV) as data:
        upper, label, split = (data[k] for k in ("cov_triu", "label", "split"))
    X = np.zeros((len(upper), 51, 51), np.float32)
    i, j = np.triu_indices(51)
    X[:, i, j] = X[:, j, i] = upper
    train_set = torch.from_numpy(split == 0)
    X, label = torch.from_numpy(X)[train_set], torch.from_numpy(label.astype(np.int64))[train_set]
    net = SPDNet((51, 51, 20), 30, norm=lambda n: LieBN(SPD(n, metric=metric)))
    losses = train(net, X, label, steps=1000)
    assert np.mean(losses[-50:]) < 0.75 * np.log(30)


def eeg_like(batch, channels=6, samples=100):
    """Two classes: which of two hidden sources is the louder, in noise."""
    label = torch.arange(batch) % 2
    mixing = torch.randn(channels, 2, generator=torch.Generator().manual_seed(0))
    loudness = torch.stack([1.0 + label, 2.0 - label], 1)
    sources = loudness[..., None] * torch.randn(batch, 2, samples)
    return mixing @ sources + 0.3 * torch.randn(batch, channels, samples), label


def small_tsmnet(norm=None, **kwargs):
    return TSMNet(6, 2, norm, temporal_filters=2, kernel_size=5, spatial_filters=8, subspace=4, **kwargs)


def test_tsmnet_features_by_hand():
    net = small_tsmnet().double()
    x = torch.randn(3, 6, 30, dtype=torch.float64)
    kernel, spatial = (m.weight.detach().numpy() for m in (net.temporal, net.spatial))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=-1)
    filtered = np.einsum("bctk,fk->bfct", windows, kernel[:, 0, 0])
    signals = np.einsum("bfct,sfc->bst", filtered, spatial[..., 0])
    W = net.bimap.weight.detach().numpy()
    for got, y in zip(net.features(x).detach().numpy(), signals):
        w, V = np.linalg.eigh(W.T @ np.cov(y) @ W)
        log = (V * np.log(np.maximum(w, 1e-4 * w.mean()))) @ V.T
        i, j = np.tril_indices(4)
        np.testing.assert_allclose(got, log[i, j] * np.where(i == j, 1, 2**0.5), atol=1e-10)


def test_tsmnet_learns_which_source_is_louder():
    x, label = eeg_like(200)
    net = small_tsmnet(lambda n: LieBN(SPD(n)))
    train(net, x, label, steps=40)
    net.eval()
    x, label = eeg_like(200)
    assert (net(x).argmax(-1) == label).float().mean() > 0.9


def test_tsmnet_normalizes_by_domain():
    x, _ = eeg_like(80)
    domain = torch.arange(80) // 40
    far = torch.where(domain[:, None, None] == 1, 30.0, 1.0)
    net = small_tsmnet(lambda n: DomainBatchNorm(LieBN(SPD(n), momentum=1.0, karcher_steps=None), domains=[0, 1]))
    features = net.features(far * x, domain)
    torch.testing.assert_close(features, net.features(x, domain), atol=2e-3, rtol=1e-3)  # a scale is a translation
    torch.testing.assert_close(features[:40].mean(0), features[40:].mean(0), atol=0.3, rtol=0)
    net(far * x, domain).sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_another_head():
    x, label = eeg_like(60)
    net = small_tsmnet()
    net.logeig, net.linear = nn.Identity(), RiemannianMLR(SPD(4), 2)
    losses = train(net, x, label, steps=30)
    assert losses[-1] < 0.6 * losses[0]


def test_bad_input():
    net = small_tsmnet()
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 6, any\), got \(2, 5, 30\)"):
        net(torch.zeros(2, 5, 30))
    with pytest.raises(ValueError, match="x must have more samples than half a kernel, 2"):
        net(torch.zeros(2, 6, 2))
    with pytest.raises(ValueError, match="x must be finite"):
        net(torch.full((2, 6, 30), torch.nan))
    with pytest.raises(ValueError, match="built without a norm"):
        net(torch.randn(2, 6, 30), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="subspace must be at most spatial_filters=8, got 9"):
        TSMNet(6, 2, spatial_filters=8, subspace=9)
    net = SPDNet((6, 4), 2)
    with pytest.raises(ValueError, match="holds NaN"):
        net(torch.full((1, 6, 6), torch.nan))
