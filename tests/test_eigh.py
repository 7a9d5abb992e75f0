"""Symmetric eigen-decompositions: as accurate as LAPACK where matrices are nasty, in every batch, on every path."""

import multiprocessing
import threading

import mpmath
import numpy as np
import pytest
import torch

from flowgroup.linalg import _parallel, eigh

B = 300


def spectrum(*eigenvalues):
    """Symmetric float64 matrices with given eigenvalues, numbers or (B,) tensors, in random bases."""
    w = torch.stack([torch.as_tensor(x, dtype=torch.float64).expand(B) for x in eigenvalues], -1)
    Q = torch.linalg.qr(torch.randn(B, len(eigenvalues), len(eigenvalues), dtype=torch.float64))[0]
    A = (Q * w[:, None]) @ Q.mT
    return (A + A.mT) / 2


def matrices(n):
    """Name -> batch of symmetric n×n float64 matrices (n = 2 or 3) that algorithms stumble over."""
    X, noise = torch.randn(B, n, n, dtype=torch.float64), torch.randn(B, dtype=torch.float64)
    exponents = torch.rand(B, n, dtype=torch.float64)
    whole = torch.randint(-2, 3, (B, n, n)).double()
    middle = [1.0] * (n - 2)
    cases = {
        "random": X + X.mT,
        "positive": X @ X.mT,
        "zero": torch.zeros(B, n, n, dtype=torch.float64),
        "multiple of one": noise[:, None, None] * torch.eye(n, dtype=torch.float64),
        "diagonal": torch.diag_embed(X[..., 0]),
        "whole numbers": whole + whole.mT,
        "repeated on the diagonal": torch.diag_embed(whole[..., 0]),
        "no diagonal": (X + X.mT) * (1 - torch.eye(n, dtype=torch.float64)),
        "rank one": X[..., :1] @ X[..., :1].mT,
        "graded": 10 ** (-6 * exponents[:, :, None]) * (X @ X.mT) * 10 ** (-6 * exponents[:, None, :]),
        "all scales": 10 ** (-15 * torch.rand(B, n, n, dtype=torch.float64)),
        "tiny eigenvalue": spectrum(*[10 ** (-8 * exponents[:, i]) for i in range(n - 1)], 1.0),
    }
    for gap in (1e-15, 1e-12, 1e-8, 1e-7, 1e-5, 1e-3):
        cases[f"low ones {gap} apart"] = spectrum(1 + gap * noise, *middle, 2.0)
        cases[f"high ones {gap} apart"] = spectrum(-1.0, *middle, 1 + gap * noise)
        cases[f"all {gap} apart"] = spectrum(*(1 + gap * torch.randn(n, B, dtype=torch.float64)))
    return cases


def assert_decomposes(A, w, V, bound):
    """|A − V diag(w) Vᵀ| ≤ bound ε |A|, |VᵀV − 1| ≤ bound ε, |w − w_exact| ≤ bound ε |A|, in ascending order."""
    eps = torch.finfo(A.dtype).eps
    assert w.dtype == V.dtype == A.dtype and w.shape == A.shape[:-1] and V.shape == A.shape
    assert (w.diff(dim=-1) >= 0).all()
    A, w, V = A.double(), w.double(), V.double()
    A = A.tril() + A.tril(-1).mT
    size = torch.linalg.matrix_norm(A)[..., None, None]
    assert ((A - (V * w[..., None, :]) @ V.mT).abs() <= bound * eps * size).all()
    assert ((V.mT @ V - torch.eye(A.shape[-1], dtype=A.dtype)).abs() <= bound * eps).all()
    exact = torch.from_numpy(np.linalg.eigvalsh(A.numpy()))
    assert ((w - exact).abs() <= bound * eps * size[..., 0]).all()


@pytest.mark.parametrize("scale", [1.0, 1e-24, 1e30])
@pytest.mark.parametrize("n", [2, 3])
def test_closed_forms_are_exact_to_a_few_roundings(n, scale, dtype):
    for name, A in matrices(n).items():
        A = (A * scale).to(dtype)
        try:
            w, V = eigh(A)
            assert_decomposes(A, w, V, bound=10)
            assert w.is_contiguous() and V.is_contiguous()
        except AssertionError as error:
            raise AssertionError(name) from error


@pytest.mark.parametrize("n", [1, 4, 8, 20])
def test_other_sizes(n, dtype):
    A = torch.randn(30, n, n, dtype=dtype)
    assert_decomposes(A, *eigh(A), bound=10 * n)


@pytest.mark.parametrize("n", [2, 3])
def test_small_eigenvalues_keep_what_the_condition_leaves(n, dtype):
    eps = torch.finfo(dtype).eps
    A = matrices(n)["tiny eigenvalue"].to(dtype)
    w, _ = eigh(A)
    with mpmath.workdps(40):
        for matrix, got in zip(A[:40].double().tolist(), w.double()):
            exact = mpmath.eigsy(mpmath.matrix(matrix), eigvals_only=True)
            condition = float(max(exact) / min(exact))
            assert abs(float(got[0].item() / min(exact)) - 1) <= 6 * eps * condition


@pytest.mark.parametrize("n", [2, 3])
def test_graded_matrices_keep_every_digit_of_every_eigenvalue(n):
    """diag(s) C diag(s) with C near 1 has eigenvalues near s², however small: to a float32 rounding of themselves."""
    C = torch.eye(n) + 0.1 * (torch.ones(n, n) - torch.eye(n))
    for s in ([1.0, 1e-3, 1e-5][:n], [1e-5, 1.0, 1e-3][:n], [1e-3, 1e-5, 1.0][:n]):
        A = torch.tensor(s)[:, None] * C * torch.tensor(s)
        with mpmath.workdps(40):
            exact = sorted(mpmath.eigsy(mpmath.matrix(A.double().tolist()), eigvals_only=True))
        torch.testing.assert_close(eigh(A)[0], torch.tensor([float(x) for x in exact]), rtol=5e-3, atol=0)
    w, V = eigh(torch.diag(torch.tensor([1e-20, 1.0, 1e-10][:n])))
    torch.testing.assert_close(w, torch.tensor([1e-20, 1e-10, 1.0] if n == 3 else [1e-20, 1.0]), rtol=1e-6, atol=0)
    assert V.abs().round().equal(torch.eye(n)[:, [0, 2, 1] if n == 3 else [0, 1]])


def test_only_the_lower_triangle_is_read(dtype):
    for n in (1, 2, 3, 5):
        A = torch.randn(10, n, n, dtype=dtype)
        spoiled = torch.where(torch.ones(n, n).triu(1).bool(), torch.nan, A)
        for got, expected in zip(eigh(spoiled), eigh(A.tril() + A.tril(-1).mT)):
            assert got.equal(expected)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3)])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5])
def test_batch_shapes_and_strides(shape, n, dtype):
    A = torch.randn(*shape, n, n, dtype=dtype)
    assert_decomposes(A, *eigh(A), bound=50)
    assert_decomposes(A.mT, *eigh(A.mT), bound=50)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_matrix_that_is_not_finite_spoils_itself_alone(n, bad, dtype):
    good = torch.randn(n * n, n, n, dtype=dtype)
    A = good.clone()
    rows, columns = torch.tril_indices(n, n)
    for k, (i, j) in enumerate(zip(rows.tolist(), columns.tolist())):
        A[k, i, j] = bad
    spoiled = len(rows)
    for f in (eigh, torch.vmap(eigh)):
        for got, expected in zip(f(A), f(good)):
            assert got[:spoiled].isnan().all()
            assert got[spoiled:].equal(expected[spoiled:])


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_vmap_and_compile(n, dtype):
    torch._dynamo.reset()
    A = torch.randn(4, 6, n, n, dtype=dtype)
    assert_decomposes(A, *torch.vmap(torch.vmap(eigh), in_dims=1, out_dims=1)(A), bound=50)
    assert_decomposes(A, *torch.compile(eigh, fullgraph=True, backend="eager")(A), bound=50)


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
)  # inductor, when imported
def test_compiles_through_inductor():
    torch._dynamo.reset()
    for n in (3, 5):
        A = torch.randn(50, n, n)
        assert_decomposes(A, *torch.compile(eigh, fullgraph=True)(A), bound=50)


def test_carries_no_gradient():
    for n in (2, 3, 4):
        A = torch.randn(5, n, n, requires_grad=True)
        assert not any(x.requires_grad for x in eigh(A))
        grad = torch.func.grad(lambda A: (A * eigh(A)[1]).sum())(A.detach())
        torch.testing.assert_close(grad, eigh(A)[1], rtol=1e-4, atol=1e-5)  # V taken to be a constant


def test_half_precision_is_computed_in_float32():
    for kind in (torch.float16, torch.bfloat16):
        A = torch.randn(5, 3, 3).to(kind)
        for got, expected in zip(eigh(A), eigh(A.float())):
            assert got.equal(expected)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_give_what_one_gives(two_threads, dtype):
    A = torch.randn(31, 5, 5, dtype=dtype)
    expected = torch.linalg.eigh(A)
    seen = []

    def solve(A):
        seen.append((len(A), threading.get_ident(), torch.is_grad_enabled()))
        return torch.linalg.eigh(A)

    for got, value in zip(_parallel.parallel(solve, A, least=2), expected):
        assert got.equal(value)
    assert sorted((size, grad) for size, _, grad in seen) == [(15, False), (16, False)]
    assert torch.get_num_threads() == 2 and torch.is_grad_enabled()
    seen.clear()
    _parallel.parallel(solve, A, least=32)
    assert seen == [(31, threading.get_ident(), True)]
    big = torch.randn(2000, 5, 5, dtype=dtype)  # large enough for eigh itself to split
    assert_decomposes(big, *eigh(big), bound=50)


def test_an_error_in_a_thread_arrives(two_threads):
    with pytest.raises(RuntimeError, match="square"):
        _parallel.parallel(torch.linalg.eigh, torch.ones(8, 2, 3), least=2)


def _child(A, results):
    # torch's own threads do not survive a fork: nothing else here may be large enough for them
    results.put([x.numpy() for x in _parallel.parallel(torch.linalg.eigh, A, least=2)])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_threads_survive_a_fork(two_threads):
    A = torch.randn(100, 5, 5)
    expected = _parallel.parallel(torch.linalg.eigh, A, least=2)  # the parent has its threads
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_child, args=(A, results))
    process.start()
    got = results.get(timeout=30)
    process.join(30)
    assert process.exitcode == 0
    for x, y in zip(got, expected):
        np.testing.assert_allclose(np.abs(x), y.abs().numpy(), atol=1e-5)


def test_bad_input():
    with pytest.raises(ValueError, match=r"A must be square, got shape \(2, 3\)"):
        eigh(torch.ones(2, 3))
    with pytest.raises(ValueError, match="A must have shape"):
        eigh(torch.ones(3))
    with pytest.raises(TypeError, match="floating-point"):
        eigh(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="must be a torch"):
        eigh([[1.0]])
