"""The exponential by squares: its series, its accuracy beside float64, its derivatives, and where it is used."""

import math

import pytest
import torch

from flowgroup.linalg import Spectrum, expm, symmetric_exponential

EPS = torch.finfo(torch.float32).eps


def symmetric(batch: int, n: int, size: float, centre: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Random symmetric float32 matrices, whose eigenvalues are as far as `size` from `centre`."""
    X = torch.randn(batch, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    X = X + X.mT
    X = X * (size / torch.linalg.eigvalsh(X).abs().amax(-1)[:, None, None]) + centre * torch.eye(n)
    return X.float()


def exact(A: torch.Tensor) -> torch.Tensor:
    """exp A in float64, by torch's eigenvectors."""
    w, V = torch.linalg.eigh(A.double())
    return (V * w.exp().unsqueeze(-2)) @ V.mT


@pytest.fixture
def used(monkeypatch) -> list[bool]:
    """Whether each call of expm went by squares."""
    calls = []
    original = symmetric_exponential._by_squares

    def watched(A):
        result = original(A)
        calls.append(result is not None)
        return result

    monkeypatch.setattr(symmetric_exponential, "_by_squares", watched)
    return calls


def test_series():
    """p(x) = x + x²/2! + … + x¹¹/11! + (more by less than x¹²/12! at |x| = 1.3)."""

    def combination(coefficients, terms):
        total = [0.0] * 17
        for c, term in zip(coefficients, terms):
            total = [t + c * x for t, x in zip(total, term)]
        return total

    def square(p):
        return [sum(p[i] * p[k - i] for i in range(k + 1)) for k in range(17)]

    x = [0.0, 1.0] + [0.0] * 15
    powers = [x]
    for row in symmetric_exponential.SQUARES:
        powers.append(square(combination(row, powers)))
    series = combination([*symmetric_exponential.SUM, 1.0], powers)
    assert series[0] == 0
    for k in range(1, 12):
        assert series[k] * math.factorial(k) == pytest.approx(1, rel=1e-12)
    for x in (-symmetric_exponential.REACH, symmetric_exponential.REACH):
        assert abs(sum(c * x**k for k, c in enumerate(series)) - math.expm1(x)) <= EPS / 2 * abs(x) * math.exp(x)


@pytest.mark.parametrize("n, batch", [(8, 128), (13, 60), (20, 21), (51, 5), (64, 2)])
@pytest.mark.parametrize("size, centre", [(1e-6, 0), (0.1, 0), (1, -3), (4, 30), (30, -30), (20, -85)])
def test_float32_is_right_to_a_few_roundings(n, batch, size, centre, used):
    """Errors of exp A and of its gradient, over their largest entry, are a few ε·max(1, |A − centre|)."""
    A = symmetric(batch, n, size, centre).requires_grad_()
    G = torch.randn(A.shape, generator=torch.Generator().manual_seed(1))
    y = expm(A)
    assert used == [True]
    (grad,) = torch.autograd.grad(y, A, G)
    double = A.detach().double()
    H = 0.5 * (G + G.mT).double()
    # exp[[A, H], [0, A]] holds the derivative
    block = torch.cat([torch.cat([double, H], -1), torch.cat([torch.zeros_like(H), double], -1)], -2)
    derivative = torch.linalg.matrix_exp(block)[..., :n, n:]
    bound = 6 * EPS * max(1.0, size)
    for got, expected in ((y, exact(A.detach())), (grad, derivative)):
        scale = expected.abs().amax((-2, -1))
        assert ((got - expected).abs().amax((-2, -1)) <= bound * scale).all()
    assert (grad - grad.mT).abs().max() <= 2 * EPS * grad.abs().max()


def test_gradient_is_that_of_the_symmetric_part(used):
    A = symmetric(128, 8, 2.0)
    skew = torch.randn(A.shape).tril(-1)
    inputs = [X.requires_grad_() for X in (A, A + (skew - skew.mT))]
    y, other = (expm(X) for X in inputs)
    G = torch.randn(A.shape)
    grad, other_grad = (torch.autograd.grad(f, X, G)[0] for f, X in zip((y, other), inputs))
    assert used == [True, True]
    for got, right in ((other, y), (other_grad, grad)):
        assert (got - right).abs().max() <= 20 * EPS * right.abs().max()


def test_second_derivative(used):
    A = symmetric(130, 8, 1.5).requires_grad_()
    H = symmetric(130, 8, 1.0, seed=1)

    def second(A, f):
        (first,) = torch.autograd.grad((f(A) * H.to(A)).sum(), A, create_graph=True)
        return first, torch.autograd.grad(first.sin().sum(), A)[0]

    expected = second(A.detach().double().requires_grad_(), torch.linalg.matrix_exp)
    for got, right in zip(second(A, expm), expected):
        torch.testing.assert_close(got.double(), 0.5 * (right + right.mT), rtol=1e-4, atol=1e-4)
    assert used == [True]


def test_batches_of_any_shape_and_gradients_in_batches(used):
    A = symmetric(132, 8, 2.0)
    shaped = A.reshape(3, 4, 11, 8, 8).transpose(0, 1).requires_grad_()
    y = expm(shaped)
    torch.testing.assert_close(y.transpose(0, 1).reshape(A.shape), expm(A))
    G = torch.randn(2, *y.shape)
    (together,) = torch.autograd.grad(y, shaped, G, is_grads_batched=True, retain_graph=True)
    apart = torch.stack([torch.autograd.grad(y, shaped, g, retain_graph=True)[0] for g in G])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
    assert used == [True, True]


def test_within_transforms():
    """Inside vmap, grad and torch.compile eigenvalues are taken; matrices from outside may go by squares."""
    A = symmetric(128, 8, 1.0)
    expected = expm(A)
    torch.testing.assert_close(torch.func.vmap(expm)(A), expected, rtol=1e-4, atol=1e-4)
    c = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(torch.func.vmap(lambda c: c * expm(A))(c), c[:, None, None, None] * expected)
    torch._dynamo.reset()
    compiled = torch.compile(expm, fullgraph=True, backend="aot_eager")(A)
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4)
    grad = torch.func.grad(lambda A: expm(A).square().sum())(A)
    torch.testing.assert_close(grad, 2 * expm(2 * A), rtol=1e-4, atol=1e-3)


def test_large_and_bad_matrices_take_eigenvalues(used):
    large = symmetric(128, 8, 85.0)
    torch.testing.assert_close(expm(large), Spectrum(large).exp())
    bad = symmetric(128, 8, 1.0)
    bad[3, 2, 2] = math.nan
    y = expm(bad)
    assert used == [False, False]
    assert y[3].isnan().all() and y[[0, 1, 2, 4]].isfinite().all()
    expm(large.double()), expm(large[:2]), expm(torch.eye(5).expand(500, 5, 5))
    assert len(used) == 2
