"""Logistic regression on Lie groups: its logits against the formulas of the papers, and training."""

import geoopt
import numpy as np
import pytest
import scipy.linalg
import torch

from flowgroup import groups
from flowgroup.linalg import unvech
from flowgroup.manifolds import SPD, Euclidean, Sphere
from flowgroup.nn import RiemannianMLR


def shaken(group, classes=3, **kwargs):
    """A head whose points are anywhere on the group."""
    head = RiemannianMLR(group, classes, **kwargs).double()
    with torch.no_grad():
        head.points = geoopt.ManifoldParameter(
            group.random(classes, *group.event_shape, dtype=torch.float64), manifold=group
        )
    return head


def apply(function, X):
    return np.stack([function(x) for x in X])


def test_euclidean_space_gives_a_linear_layer():
    head = shaken(Euclidean(4))
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = ((x[:, None] - head.points) * head.normals).sum(-1)
    torch.testing.assert_close(head(x), expected)


def test_log_euclidean_against_scipy():
    head = shaken(SPD(4, metric="log-euclidean"))
    X = SPD(4).random(5, 4, 4, dtype=torch.float64)
    log_X, log_P = (apply(scipy.linalg.logm, A.detach().numpy()) for A in (X, head.points))
    A = unvech(head.normals).detach().numpy()
    expected = ((log_X[:, None] - log_P) * A).sum((-2, -1))
    np.testing.assert_allclose(head(X).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("theta, alpha, beta", [(1.0, 1.0, 0.0), (0.5, 1.0, 0.0), (1.5, 2.0, 0.3)])
def test_affine_invariant_against_the_paper(theta, alpha, beta):
    """⟨log(P^{-θ/2} X^θ P^{-θ/2}), A⟩/θ with the normal A turned by what tells the root from the Cholesky factor."""
    n = 4
    group = SPD(n, theta=theta, alpha=alpha, beta=beta)
    head = shaken(group)
    X = SPD(n).random(5, n, n, dtype=torch.float64)
    got = head(X).detach().numpy()
    power = lambda A: scipy.linalg.fractional_matrix_power(A, theta)  # noqa: E731
    e = torch.eye(n, dtype=torch.float64)
    for k in range(head.classes):
        P = power(head.points[k].detach().numpy())
        root = np.real(scipy.linalg.sqrtm(P))
        turn = np.linalg.solve(root, np.linalg.cholesky(P))
        np.testing.assert_allclose(turn @ turn.T, np.eye(n), atol=1e-10)
        # a tangent vector at the identity of X ↦ X^θ is θ times itself there
        normal = theta * group.tangent(e, head.normals[k]).detach().numpy()
        normal = turn @ normal @ turn.T
        inverse = np.linalg.inv(root)
        log = apply(lambda x: scipy.linalg.logm(inverse @ power(x) @ inverse), X.numpy())  # noqa: B023
        product = alpha * (log * normal).sum((-2, -1)) + beta * np.trace(log, axis1=1, axis2=2) * np.trace(normal)
        np.testing.assert_allclose(got[:, k], product / theta**2, atol=1e-9)


@pytest.mark.parametrize(
    "group",
    [SPD(3), SPD(3, theta=0.5), SPD(3, metric="log-euclidean"), SPD(3, metric="log-cholesky"), groups.SO3()],
    ids=str,
)
def test_logits_are_inner_products_in_the_tangent_space_at_the_points(group):
    head = shaken(group)
    P, a = head.points.data, head.normals.data
    X = group.geodesic(P[0], group.random(5, *group.event_shape, dtype=torch.float64), 0.3)
    for k in range(head.classes):
        expected = group.inner(P[k], group.logmap(P[k], X), group.tangent(P[k], a[k]))
        torch.testing.assert_close(head(X)[:, k], expected, atol=1e-9, rtol=1e-9)
    assert head(P).diagonal().abs().max() < 1e-9


@pytest.mark.parametrize("metric", ["affine-invariant", "log-euclidean", "log-cholesky"])
@pytest.mark.parametrize("parametrization", [None, "exp"])
def test_learns_and_its_points_stay_positive_definite(metric, parametrization):
    # two clouds that differ in their centre
    group = SPD(3)
    centres = group.random(2, 3, 3)
    label = torch.arange(80) % 2
    X = group.expmap(centres[label], group.tangent(centres[label], 0.2 * torch.randn(80, group.dim)))
    head = RiemannianMLR(SPD(3, metric=metric), 2, parametrization)
    make = torch.optim.Adam if parametrization else geoopt.optim.RiemannianAdam
    optimizer = make(head.parameters(), lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(X), label)
        loss.backward()
        optimizer.step()
    assert (head(X).argmax(-1) == label).float().mean() > 0.95
    assert (torch.linalg.eigvalsh(head.points) > 0).all()
    assert (head.points - torch.eye(3)).abs().max() > 0.1


def test_bad_input():
    head = RiemannianMLR(SPD(3), 2)
    with pytest.raises(ValueError, match=r"X must have shape \(\.\.\., 3, 3\), got \(4, 4\)"):
        head(torch.eye(4))
    with pytest.raises(ValueError, match="X must be finite"):
        head(torch.full((3, 3), torch.nan))
    with pytest.raises(ValueError, match=r"at index \(1,\), .* positive definite: its smallest eigenvalue is -1"):
        head(torch.stack([torch.eye(3), -torch.eye(3)]))
    with pytest.raises(ValueError, match="classes must be a positive integer"):
        RiemannianMLR(SPD(3), 0)
    with pytest.raises(TypeError, match=r"group must be a flowgroup\.groups\.LieGroup"):
        RiemannianMLR(Sphere(2), 2)
