"""Log-Cholesky coordinates: closed forms entry by entry, LAPACK's, and autograd's must be one."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from flowgroup.linalg import cholesky, exp_cholesky, log_cholesky


def random_spd(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    *batch, n = shape
    x = torch.randn(*batch, n, 2 * n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (x @ x.mT / (2 * n)).to(dtype)


def coordinates(P: torch.Tensor) -> torch.Tensor:
    """By torch's own Cholesky factor."""
    n = P.shape[-1]
    L = torch.linalg.cholesky(P)
    i, j = torch.tril_indices(n, n, -1)
    return torch.cat([L.diagonal(dim1=-2, dim2=-1).log(), L[..., i, j]], -1)


# 200 matrices up to 3×3 take closed forms
@pytest.mark.parametrize(
    "shape", [(1,), (3,), (200, 1), (2, 100, 2), (200, 3), (4, 3), (5, 5), (2, 3, 20), (0, 3)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients(shape, dtype):
    eps = torch.finfo(dtype).eps
    for scale in (1e-6, 1.0, 1e6):
        P = (scale * random_spd(*shape, dtype=dtype)).requires_grad_()
        v = log_cholesky(P)
        exact = P.detach().double().requires_grad_()
        expected = coordinates(exact)
        torch.testing.assert_close(v.double(), expected, rtol=1e3 * eps, atol=1e3 * eps * max(scale**0.5, 1))
        back = exp_cholesky(v)
        torch.testing.assert_close(back, P, rtol=0, atol=1e2 * eps * scale)
        g = torch.randn_like(v)
        (got,) = torch.autograd.grad(v, P, g)
        (wanted,) = torch.autograd.grad(expected, exact, g.double())
        wanted = 0.5 * (wanted + wanted.mT)
        assert ((got - wanted).norm() <= 1e5 * eps * wanted.norm()).all()
        assert got.equal(got.mT)


@pytest.mark.parametrize("shape", [(3,), (130, 2), (2, 5)], ids=str)
def test_derivatives(shape):
    P = random_spd(*shape).requires_grad_()
    v = log_cholesky(P).detach().requires_grad_()
    if shape == (130, 2):  # all of gradcheck would take long: three of them at once
        P = random_spd(3, 2).requires_grad_()
        v = log_cholesky(P).detach().requires_grad_()

        def many(f):
            return lambda x: f(torch.cat([x, random_spd(127, 2) if x.dim() == 3 else torch.zeros(127, 3).to(x)]))[:3]
    else:

        def many(f):
            return f

    for f, x in ((log_cholesky, P), (cholesky, P), (exp_cholesky, v)):
        g = many((lambda P, f=f: f(0.5 * (P + P.mT))) if x is P else f)
        assert gradcheck(g, x, check_batched_grad=True) and gradgradcheck(g, x)


def test_not_positive_definite_is_nan():
    P = torch.eye(3).repeat(200, 1, 1)
    P[7] = -P[7]
    bad = log_cholesky(P).isnan().any(-1)
    assert bad[7] and bad.sum() == 1
    assert log_cholesky(-torch.eye(5)).isnan().any()


@pytest.mark.parametrize("shape", [(200, 3), (4, 5)], ids=str)
def test_compiles_and_vmaps(shape):
    P = random_spd(*shape)
    v = log_cholesky(P)
    for f, x in ((log_cholesky, P), (exp_cholesky, v)):
        torch._dynamo.reset()
        torch.testing.assert_close(torch.func.vmap(f)(x), f(x))
        loss = lambda x, f=f: f(x).sin().sum()  # noqa: E731
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf), leaf)
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x), expected)
        compiled = torch.compile(torch.func.grad(loss), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected)
