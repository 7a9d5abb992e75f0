"""Cholesky factors, triangular functions, polar decomposition, Sylvester equations, geometric means."""

import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck, gradgradcheck

from flowgroup import linalg
from flowgroup.linalg import (
    Spectrum,
    cholesky,
    congruence,
    geometric_mean,
    inverse_congruence,
    lyapunov,
    polar,
    sylvester,
    tril_inverse,
    tril_log,
    unitriangular_exp,
    unitriangular_log,
)

STORED = Path(__file__).parent.parent.parent / "shared" / "oracles" / "spd.npz"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def symmetric(A: torch.Tensor) -> torch.Tensor:
    return 0.5 * (A + A.mT)


def random_spd(*shape: int, cond: float = 10.0, seed: int = 0) -> torch.Tensor:
    Q = torch.linalg.qr(normal(*shape, shape[-1], seed=seed)).Q
    w = cond ** torch.linspace(-0.5, 0.5, shape[-1], dtype=torch.float64)
    return symmetric((Q * w) @ Q.mT)


def random_tril(*shape: int, spread: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Lower triangular, with diagonals between e^−spread and e^spread."""
    n = shape[-1]
    diagonal = torch.exp(torch.linspace(-spread, spread, n, dtype=torch.float64))
    return normal(*shape, n, seed=seed).tril(-1) / (1 + n**0.5) + torch.diag(diagonal)


# ---- Cholesky


@pytest.mark.parametrize("n", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_cholesky_against_lapack(n, dtype):
    """Factor and gradient, at all scales; only the lower triangle is read."""
    for scale in (1e-6, 1.0, 1e6):
        A = (scale * random_spd(2, 3, n)).to(dtype)
        exact = A.double().requires_grad_()
        L, expected = cholesky(A), torch.linalg.cholesky(exact)
        bound = 50 * torch.finfo(dtype).eps
        torch.testing.assert_close(L.double(), expected, rtol=0, atol=bound * scale**0.5)
        assert torch.equal(L, L.tril())
        torch.testing.assert_close(cholesky(A.tril() + 7 * torch.ones_like(A).triu(1)), L, rtol=0, atol=0)
        G = normal(2, 3, n, n, seed=1)
        (expected_grad,) = torch.autograd.grad(expected, exact, G)
        A.requires_grad_()
        (grad,) = torch.autograd.grad(cholesky(A), A, G.to(dtype))
        torch.testing.assert_close(
            grad.double(), symmetric(expected_grad), rtol=0, atol=10 * bound * float(expected_grad.abs().max())
        )


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_two_derivatives_of_cholesky(n):
    A, X = random_spd(2, n).requires_grad_(), normal(2, n, n).requires_grad_()

    def several(A, X):
        L = cholesky(symmetric(A))
        return L, congruence(L, X), inverse_congruence(L, X)

    assert gradcheck(several, (A, X))
    assert gradgradcheck(several, (A, X))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_only_a_matrix_that_is_not_positive_definite_has_no_factor(n):
    A = random_spd(5, n)
    A[1, 0, 0] = -1.0
    A[2] = A[2] - torch.linalg.eigvalsh(A[2])[0] * 1.5 * torch.eye(n, dtype=A.dtype)
    A[3, n - 1, 0] = math.nan
    A.requires_grad_()
    L = cholesky(A)
    assert linalg.tril_vector(L[[1, 2, 3]]).isnan().all()
    torch.testing.assert_close(L[[0, 4]], torch.linalg.cholesky(A[[0, 4]]))
    (grad,) = torch.autograd.grad(L[[0, 4]].sum(), A)
    assert grad[[0, 4]].isfinite().all()
    assert cholesky(torch.zeros(n, n)).isnan().all()


def test_congruences():
    L, X = random_tril(1, 4), normal(5, 3, 4, 4)
    torch.testing.assert_close(inverse_congruence(L, congruence(L, X)), X)
    expected = np.linalg.inv(L.numpy()) @ X.numpy() @ np.linalg.inv(L.numpy()).swapaxes(-1, -2)
    torch.testing.assert_close(inverse_congruence(L, X), torch.as_tensor(expected))


# ---- triangular matrices


@pytest.mark.parametrize("n", [1, 2, 3, 4, 51])
def test_tril_inverse(n):
    L = random_tril(3, 2, n)
    torch.testing.assert_close(tril_inverse(L + normal(n, n).triu(1)) @ L, torch.eye(n, dtype=L.dtype).expand_as(L))
    torch.testing.assert_close(tril_inverse(L), torch.linalg.inv(L))
    if n < 5:
        L.requires_grad_()
        assert gradcheck(tril_inverse, L) and gradgradcheck(tril_inverse, L)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0, 8.0])
def test_tril_log(n, spread):
    """Against 40 digits; equal diagonal entries need no care, and float32 is right to its roundings."""
    L = random_tril(n, spread=spread)
    with mpmath.workdps(40):
        exact = mpmath.logm(mpmath.matrix(L.tolist())) if spread else None
    expected = np.array(exact.tolist()).astype(complex).real if spread else scipy.linalg.logm(L.numpy())
    expected = torch.as_tensor(np.tril(expected).reshape(n, n))
    size = float(expected.abs().max())
    torch.testing.assert_close(tril_log(L), expected, rtol=0, atol=1e-14 * size)
    torch.testing.assert_close(tril_log(L.float()), expected.float(), rtol=0, atol=2e-6 * size)


def test_tril_log_near_the_identity():
    """Nothing cancels: log(1 + N) = N − N²/2 + … to full relative precision."""
    N = 1e-9 * normal(4, 4).tril()
    L = torch.eye(4, dtype=torch.float64) + N
    N = L - torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(tril_log(L), N - N @ N / 2, rtol=1e-13, atol=0)


def test_two_derivatives_of_tril_log():
    L = random_tril(2, 3).requires_grad_()
    same = torch.eye(3, dtype=torch.float64).requires_grad_()
    for x in (L, same):
        assert gradcheck(tril_log, x) and gradgradcheck(tril_log, x)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20, 51])
def test_unitriangular_log_and_exp(n):
    N = normal(2, n, n).tril(-1) / n**0.5
    L = unitriangular_exp(N)
    expected = torch.stack([torch.as_tensor(scipy.linalg.expm(x)) for x in N.numpy()])
    torch.testing.assert_close(L, expected, rtol=0, atol=1e-14 * float(expected.abs().max()))
    torch.testing.assert_close(unitriangular_log(L), N, rtol=0, atol=1e-14 * float(expected.abs().max()))
    torch.testing.assert_close(unitriangular_log(L.tril(-1)), unitriangular_log(L), rtol=0, atol=0)
    if 1 < n < 20:
        N.requires_grad_()
        for f in (unitriangular_exp, unitriangular_log):
            assert gradcheck(f, N) and gradgradcheck(f, N)


# ---- polar decomposition


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 4), (5, 5)])
def test_polar(shape):
    A = normal(3, *shape)
    R, P = polar(A)
    for a, r, p in zip(A.numpy(), R, P):
        u, h = scipy.linalg.polar(a, side="left")
        torch.testing.assert_close(r, torch.as_tensor(u), rtol=0, atol=1e-13)
        torch.testing.assert_close(p, torch.as_tensor(h), rtol=0, atol=1e-13)
    A.requires_grad_()
    assert gradcheck(polar, A) and gradgradcheck(polar, A)


def test_polar_where_singular_values_are_equal():
    Q = torch.linalg.qr(normal(3, 3)).Q.requires_grad_()
    assert gradcheck(polar, Q) and gradgradcheck(polar, Q)
    R, P = polar(3 * Q.float())
    torch.testing.assert_close(R, Q.float())
    torch.testing.assert_close(P, 3 * torch.eye(3))


def test_polar_errors_and_bad_matrices():
    with pytest.raises(ValueError, match="transpose"):
        polar(torch.ones(3, 2))
    A = normal(3, 2, 2)
    A[1, 0, 0] = math.inf
    R, P = polar(A)
    assert R[1].isnan().all() and P[1].isnan().all()
    torch.testing.assert_close(R[[0, 2]] @ R[[0, 2]].mT, torch.eye(2, dtype=A.dtype).expand(2, 2, 2))


# ---- Sylvester equations


def test_sylvester():
    A, B, C = random_spd(4), symmetric(normal(3, 3)) + 4 * torch.eye(3), normal(5, 4, 3)
    X = sylvester(A, B, C)
    for c, x in zip(C.numpy(), X):
        torch.testing.assert_close(x, torch.as_tensor(scipy.linalg.solve_sylvester(A.numpy(), B.numpy(), c)))
    torch.testing.assert_close(sylvester(Spectrum(A), Spectrum(B), C), X)


def test_lyapunov():
    A, C = random_spd(4, cond=100.0), normal(4, 4)
    X = lyapunov(A, C)
    torch.testing.assert_close(X, torch.as_tensor(scipy.linalg.solve_continuous_lyapunov(A.numpy(), C.numpy())))
    torch.testing.assert_close(lyapunov(Spectrum(A), C), X)
    # of the equation X² = A, in which the derivative of the root is what AX + XA = C asks for
    root = Spectrum(A).sqrt()
    torch.testing.assert_close(lyapunov(root, symmetric(C)), linalg.jvp(linalg.sqrtm, A, symmetric(C)))


def test_two_derivatives_of_sylvester():
    A, B, C = (
        random_spd(2, 3).requires_grad_(),
        random_spd(2, seed=1).requires_grad_(),
        normal(2, 3, 2).requires_grad_(),
    )

    def solve(A, B, C):
        return sylvester(symmetric(A), symmetric(B), C), lyapunov(symmetric(A), C @ C.mT)

    assert gradcheck(solve, (A, B, C)) and gradgradcheck(solve, (A, B, C))
    eye = torch.eye(3, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda A: lyapunov(symmetric(A), C[0] @ C[0].mT), eye)


def test_sylvester_shapes():
    with pytest.raises(ValueError, match=r"C must have shape \(\.\.\., 2, 3\)"):
        sylvester(torch.eye(2), torch.eye(3), torch.ones(3, 2))


# ---- geometric means


def test_geometric_mean():
    A, B = random_spd(3, 4, cond=100.0), random_spd(3, 4, cond=30.0, seed=1)
    X = geometric_mean(A, B)
    torch.testing.assert_close(X @ torch.linalg.inv(A) @ X, B)
    torch.testing.assert_close(geometric_mean(B, A), X)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    curve = geometric_mean(A, B, t)
    torch.testing.assert_close(curve[[0, 2]], torch.stack([A[0], B[2]]))
    root = scipy.linalg.sqrtm(A[1].numpy())
    inner = np.linalg.inv(root) @ B[1].numpy() @ np.linalg.inv(root)
    expected = root @ scipy.linalg.fractional_matrix_power(inner, 0.3) @ root
    torch.testing.assert_close(curve[1], torch.as_tensor(expected))
    torch.testing.assert_close(geometric_mean(A[1], B[1], 0.3), curve[1])


@pytest.mark.skipif(not STORED.exists(), reason="the full set of reference values is not beside the repository")
@pytest.mark.parametrize("case, tolerance", [("n4", 1e-11), ("ill", 1e-5)])
def test_stored_geodesics(case, tolerance):
    stored = {k: torch.as_tensor(np.load(STORED)[f"{case}_{k}"]) for k in ("P", "Q", "geo_aim")}
    expected = stored["geo_aim"]
    got = geometric_mean(stored["P"], stored["Q"], 0.3)
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def test_two_derivatives_of_geometric_mean():
    A, B = random_spd(2, 3).requires_grad_(), random_spd(2, 3, seed=1).requires_grad_()
    t = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)

    def mean(A, B, t):
        return geometric_mean(symmetric(A), symmetric(B), t)

    assert gradcheck(mean, (A, B, t)) and gradgradcheck(mean, (A, B, t))
    assert gradgradcheck(lambda A: mean(A, A, t), A)  # A⁻¹B = 1: all its eigenvalues are equal


# ---- float32, compile, vmap


MAPS = {
    "cholesky": cholesky,
    "tril_inverse": lambda A: tril_inverse(A),
    "inverse_congruence": lambda A: inverse_congruence(cholesky(A), A.tril()),
    "tril_log": tril_log,
    "unitriangular": lambda A: unitriangular_exp(A) @ unitriangular_log(A),
    "polar": lambda A: torch.stack(polar(A)),
    "wide polar": lambda A: polar(A[..., 1:, :])[0],
    "lyapunov": lambda A: lyapunov(A, A.triu()),
    "sylvester": lambda A: sylvester(A, A[..., :2, :2], A[..., :2]),
    "geometric_mean": lambda A: geometric_mean(A, A.diagonal(dim1=-2, dim2=-1).diag_embed()),
}


@pytest.mark.parametrize("name", [k for k in MAPS if k != "unitriangular"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_float32_at_all_scales(name, scale):
    """Values and gradients against float64, relatively to the largest entry and the condition number."""
    f = MAPS[name]
    for n in (3, 8):
        for cond in (3.0, 1e3):
            A = (scale * random_spd(20, n, cond=cond)).float()
            if name in ("tril_log", "tril_inverse"):
                A = torch.linalg.cholesky(A)
            single, double = A.requires_grad_(), A.detach().double().requires_grad_()
            y, expected = f(single), f(double)
            G = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
            grads = torch.autograd.grad(y, single, G)[0], torch.autograd.grad(expected, double, G.double())[0]
            for got, right, factor in ((y, expected, 20), (*grads, 200)):
                assert (got - right).abs().max() <= factor * cond * torch.finfo(A.dtype).eps * right.abs().max(), (
                    n,
                    cond,
                )


@pytest.mark.parametrize("name", MAPS)
def test_vmap(name):
    f, A = MAPS[name], random_spd(4, 3)
    torch.testing.assert_close(torch.func.vmap(f)(A), f(A) if name != "polar" else f(A).movedim(0, 1))

    def loss(A):
        return f(A).sin().sum()

    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(A), torch.func.grad(loss)(A))


@pytest.mark.parametrize("name", MAPS)
def test_compiles(name):
    """Values, gradients, and gradients compiled inside a functorch transform, where custom gradients do not count."""
    torch._dynamo.reset()
    f, A = MAPS[name], random_spd(3, 4).requires_grad_()

    def loss(A):
        return f(A).sin().sum()

    (expected,) = torch.autograd.grad(loss(A), A)
    y = torch.compile(f, fullgraph=True, backend="aot_eager")(A)
    torch.testing.assert_close(y, f(A))
    torch.testing.assert_close(torch.autograd.grad(y.sin().sum(), A)[0], expected)
    inside = torch.compile(torch.func.grad(loss), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(inside(A.detach()), expected)


@pytest.mark.parametrize("f", [cholesky, tril_inverse, lambda A: sylvester(A, 2 * A, A.triu())])
def test_second_derivatives_compile(f):
    torch._dynamo.reset()
    A = random_spd(3)

    def loss(A):
        return torch.func.grad(lambda A: f(A).sin().sum())(A).cos().sum()

    compiled = torch.compile(torch.func.grad(loss), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(A), torch.func.grad(loss)(A))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # by inductor
def test_compiles_with_inductor():
    torch._dynamo.reset()
    A = random_spd(4, 3).float().requires_grad_()
    y = torch.compile(cholesky, fullgraph=True)(A)
    torch.testing.assert_close(y, cholesky(A))
    torch.testing.assert_close(*(torch.autograd.grad(x.sin().sum(), A)[0] for x in (y, cholesky(A))))


@pytest.mark.parametrize("f", [cholesky, tril_inverse, tril_log, unitriangular_exp, unitriangular_log])
def test_matrices_need_to_be_square(f):
    with pytest.raises(ValueError, match="square"):
        f(torch.ones(3, 2))
