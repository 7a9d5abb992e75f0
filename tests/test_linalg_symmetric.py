"""Functions of symmetric matrices: closed forms, scipy, mpmath, float32 accuracy, derivatives, transforms."""

import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck, gradgradcheck

from flowgroup import linalg
from flowgroup.linalg import Spectrum, expm, funm, invsqrtm, jvp, logm, powm, scalar_functions, sqrtm
from flowgroup.linalg.scalar_functions import EXP, INV, INV_SQRT, LOG, SQRT, rectifier

STORED = Path(__file__).parent.parent.parent / "shared" / "oracles" / "spd.npz"

FUNCTIONS = {
    "log": (logm, LOG, mpmath.log),
    "exp": (expm, EXP, mpmath.exp),
    "sqrt": (sqrtm, SQRT, mpmath.sqrt),
    "invsqrt": (invsqrtm, INV_SQRT, lambda x: 1 / mpmath.sqrt(x)),
    "inv": (lambda A: Spectrum(A).inv(), INV, lambda x: 1 / x),
    "power 0.3": (lambda A: powm(A, 0.3), scalar_functions.power(0.3), lambda x: x ** mpmath.mpf(0.3)),
    "power 1.7": (lambda A: powm(A, 1.7), scalar_functions.power(1.7), lambda x: x ** mpmath.mpf(1.7)),
    "power 3": (lambda A: powm(A, 3), scalar_functions.power(3.0), lambda x: x**3),
    "power -2": (lambda A: powm(A, -2), scalar_functions.power(-2.0), lambda x: x**-2),
    "sin": (lambda A: funm(A, torch.sin, torch.cos), scalar_functions.smooth(torch.sin, torch.cos), mpmath.sin),
}


def symmetric(A: torch.Tensor) -> torch.Tensor:
    return 0.5 * (A + A.mT)


def random_spd(*shape: int, cond: float = 10.0, seed: int = 0) -> torch.Tensor:
    """Matrices with eigenvalues spread evenly in logarithm between 1/√cond and √cond."""
    generator = torch.Generator().manual_seed(seed)
    n = shape[-1]
    Q = torch.linalg.qr(torch.randn(*shape, n, generator=generator, dtype=torch.float64)).Q
    w = cond ** torch.linspace(-0.5, 0.5, n, dtype=torch.float64)
    return symmetric((Q * w) @ Q.mT)


HADAMARD = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float64) / 2


def with_eigenvalues(*w: float) -> torch.Tensor:
    """A dense 4×4 matrix without rounding, for eigenvalues that are short binary fractions."""
    return (HADAMARD * torch.tensor(w, dtype=torch.float64)) @ HADAMARD.mT


REPEATED = {
    "identity": torch.eye(4, dtype=torch.float64),
    "three equal": with_eigenvalues(0.5, 0.5, 0.5, 3.0),
    "two pairs": with_eigenvalues(0.25, 2.0, 0.25, 2.0),
    "close": with_eigenvalues(1.0, 1.0 + 2.0**-30, 2.0, 2.0 + 2.0**-46),
}


# ---- against independent values


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_values_against_scipy(name, n):
    A = random_spd(3, n, cond=100.0)
    reference = {
        "log": scipy.linalg.logm,
        "exp": scipy.linalg.expm,
        "sqrt": scipy.linalg.sqrtm,
        "invsqrt": lambda A: np.linalg.inv(scipy.linalg.sqrtm(A)),
        "inv": np.linalg.inv,
        "sin": scipy.linalg.sinm,
    }.get(name) or (lambda A: scipy.linalg.fractional_matrix_power(A, float(name.split()[1])))
    expected = torch.stack([torch.as_tensor(np.real(reference(M.numpy()))).to(A) for M in A])
    torch.testing.assert_close(FUNCTIONS[name][0](A), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_derivatives_with_projectors(name):
    """f(aP + bQ) = f(a)P + f(b)Q for projectors P + Q = 1, and Df[H] = f′(a)PHP + f′(b)QHQ + f[a, b](PHQ + QHP)."""
    f, scalar, exact = FUNCTIONS[name]
    a, b = 0.5, 3.0
    v = HADAMARD[:, 3:]
    Q = v @ v.mT
    P = torch.eye(4, dtype=torch.float64) - Q
    H = symmetric(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    with mpmath.workdps(40):
        fa, fb, da, db = (float(x) for x in (exact(a), exact(b), mpmath.diff(exact, a), mpmath.diff(exact, b)))
    A = a * P + b * Q
    torch.testing.assert_close(f(A), fa * P + fb * Q, rtol=1e-14, atol=1e-14 * abs(fa - fb))
    cross = P @ H @ Q
    expected = da * P @ H @ P + db * Q @ H @ Q + (fa - fb) / (a - b) * (cross + cross.mT)
    for got in (Spectrum(A).derivative(scalar, H), jvp(f, A, H)):
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.skipif(not STORED.exists(), reason="the full set of reference values is not beside the repository")
@pytest.mark.parametrize("case", ["n4", "ill", "n12"])
def test_stored_values(case):
    stored = np.load(STORED)
    X, S, H = (torch.as_tensor(stored[f"{case}_{k}"]) for k in "XSH")

    def close(got, name, tolerance):
        expected = torch.as_tensor(stored[f"{case}_{name}"])
        assert (got - expected).abs().max() <= tolerance * expected.abs().max(), name

    value, slope = (1e-9, 1e-8) if case == "ill" else (1e-12, 1e-10)
    spectrum = Spectrum(X)
    close(spectrum.log(), "log", value)
    close(spectrum.sqrt(), "sqrt", value)
    close(spectrum.inv_sqrt(), "invsqrt", value)
    close(expm(S), "exp", value)
    for name, p in (("p03", 0.3), ("pm05", -0.5), ("p17", 1.7)):
        close(spectrum.power(p), f"pow_{name}", value)
        close(spectrum.power(torch.tensor(p, dtype=X.dtype)), f"pow_{name}", value)
    close(jvp(logm, X, H), "dlog", slope)
    close(jvp(sqrtm, X, H), "dsqrt", slope)
    close(jvp(expm, S, H), "dexp", slope)
    close(spectrum.derivative(scalar_functions.power(1.7), H), "dpow_p17", slope)


@pytest.mark.skipif(not STORED.exists(), reason="the full set of reference values is not beside the repository")
@pytest.mark.parametrize("case", ["id", "two_plus_ones", "diag1122", "hadamard", "near_1em9", "near_1em14"])
def test_stored_values_at_repeated_eigenvalues(case):
    stored = np.load(STORED)
    X, H, log, dlog, dsqrt = (torch.as_tensor(stored[f"rep_{case}_{k}"]) for k in ("X", "H", "log", "dlog", "dsqrt"))
    for got, expected in ((logm(X), log), (jvp(logm, X, H), dlog), (jvp(sqrtm, X, H), dsqrt)):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13 * max(1e-2, float(expected.abs().max())))


# ---- divided differences


def steps(a: float) -> list[float]:
    """a, its neighbour, and numbers from close to very far above it."""
    return [
        a,
        np.nextafter(a, np.inf),
        *(a * (1 + 10.0**-k) for k in (12, 8, 5, 3, 2, 1)),
        *(a * 10.0**k for k in range(1, 31)),
    ]


@pytest.mark.parametrize("name", [k for k in FUNCTIONS if k != "sin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_divided_differences_to_a_few_roundings(name, dtype):
    _, scalar, exact = FUNCTIONS[name]
    info = torch.finfo(dtype)
    lower = [-80.0, -20.0, -1.0, 1e-3, 1.0, 7.0, 60.0] if name == "exp" else [1e-15, 1e-6, 0.3, 1.0, 7.0, 1e6]
    pairs = torch.tensor([(a, b) for a in lower for b in steps(a)], dtype=torch.float64).to(dtype)
    if name == "exp":
        pairs = pairs[(pairs.abs() <= 85).all(-1)]
    got = scalar.divided_difference(*pairs.unbind(-1)).tolist()
    torch.testing.assert_close(got, scalar.divided_difference(*pairs.flip(-1).unbind(-1)).tolist(), rtol=0, atol=0)
    with mpmath.workdps(60):
        for (a, b), x in zip(pairs.tolist(), got):
            a, b = mpmath.mpf(a), mpmath.mpf(b)
            expected = (
                mpmath.diff(exact, a, h=abs(a) * mpmath.mpf(10) ** -20) if a == b else (exact(a) - exact(b)) / (a - b)
            )
            if info.tiny < abs(expected) < info.max:
                # a power rounds its exponent, which is amplified by the logarithm of the base
                roundings = 4 + (0.5 * abs(mpmath.log(max(a, b))) + 0.5 * abs(mpmath.log(min(a, b)))) * (
                    "power" in name
                )
                assert abs(x - expected) <= roundings * info.eps * abs(expected), (float(a), float(b))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_divided_differences(name):
    """Over nearly equal arguments to rounding, else to what one subtraction of f[a, b] and f[b, c] leaves."""
    _, scalar, exact = FUNCTIONS[name]
    with mpmath.workdps(60):
        for a in (0.4, 1.0, 2.5):
            for b in (a, a * (1 + 1e-12), a * (1 + 1e-5), 1.03 * a, 1.2 * a):
                for c in (a, b, a * (1 - 1e-9), 0.96 * a, 0.8 * a, 5 * a):
                    x, y, z = (mpmath.mpf(v) for v in (a, b, c))
                    # distinct arguments nearby stand for equal ones: the error is 10⁻²⁰
                    y, z = y + mpmath.mpf(10) ** -20, z - 2 * mpmath.mpf(10) ** -20
                    expected = (exact(x) / (x - y) / (x - z) + exact(y) / (y - x) / (y - z)) + exact(z) / (z - x) / (
                        z - y
                    )
                    arguments = (torch.tensor(v, dtype=torch.float64) for v in (c, a, b))
                    got = scalar.second_divided_difference(*arguments).item()
                    assert abs(got - expected) <= 2e-13 * max(1, abs(expected)), (a, b, c)


def test_rectifier():
    """Divided differences of max(x, 1): 0 below, 1 above, in between the rise over the distance."""
    a, b = torch.tensor([0.5, 2.0, 3.0, 1.5, 0.5, 1.0]), torch.tensor([0.25, 2.0, 2.0, 0.5, 0.5, 1.0])
    expected = torch.tensor([0.0, 1.0, 1.0, 0.5, 0.0, 0.0])
    torch.testing.assert_close(rectifier(1.0).divided_difference(a, b), expected)
    A = with_eigenvalues(0.25, 0.25, 2.0, 5.0)
    torch.testing.assert_close(Spectrum(A).apply(rectifier(1.0)), with_eigenvalues(1.0, 1.0, 2.0, 5.0))
    B = random_spd(2, 5, cond=50.0).requires_grad_()
    assert gradcheck(lambda B: Spectrum(symmetric(B)).apply(rectifier(1.1)), B)


# ---- derivatives


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("point", REPEATED)
def test_two_derivatives_at_repeated_eigenvalues(name, point):
    f = FUNCTIONS[name][0]
    A = REPEATED[point].clone().requires_grad_()
    assert gradcheck(lambda A: f(symmetric(A)), A)
    assert gradgradcheck(lambda A: f(symmetric(A)), A, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_two_derivatives_in_batches(n):
    A = random_spd(2, n).requires_grad_()
    p = torch.tensor([0.7, -1.3], dtype=torch.float64, requires_grad=True)
    H = symmetric(
        torch.randn(3, 1, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ).requires_grad_()

    def several(A, p, H):
        spectrum = Spectrum(symmetric(A))
        return spectrum.log() @ spectrum.power(p), spectrum.derivative(SQRT, symmetric(H))

    assert gradcheck(several, (A, p, H))
    assert gradgradcheck(lambda A, p: several(A, p, H)[0], (A, p))
    assert gradgradcheck(lambda H: several(A.detach(), p, H)[1], H)


def test_gradient_of_the_spectrum():
    A = random_spd(3, 4, cond=30.0).requires_grad_()
    weights = torch.arange(4.0, dtype=torch.float64)
    assert gradcheck(lambda A: Spectrum(symmetric(A)).values() @ weights, A)
    (grad,) = torch.autograd.grad(Spectrum(A).values().square().sum(), A)
    torch.testing.assert_close(grad, 2 * A)


def test_a_third_derivative_is_refused():
    A = random_spd(3).requires_grad_()
    (first,) = torch.autograd.grad(logm(A).square().sum(), A, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), A, create_graph=True)
    with pytest.raises(NotImplementedError, match="two derivatives"):
        torch.autograd.grad(second.sum(), A)


def test_jvp_of_derivatives():
    """The directional derivative of a directional derivative, against differences."""
    A, H = random_spd(4), symmetric(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    h = 1e-4
    expected = (logm(A + h * H) - 2 * logm(A) + logm(A - h * H)) / h**2
    for first in (lambda A: Spectrum(A).derivative(LOG, H), lambda A: jvp(logm, A, H)):
        torch.testing.assert_close(jvp(first, A, H), expected, rtol=1e-5, atol=1e-5)


# ---- closed forms of small matrices, where there are many


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_many_small_matrices(name, n):
    """As alone, where no closed form is taken: values, and both gradients of gradients that are not symmetric."""
    f = FUNCTIONS[name][0]
    A = random_spd(2, 65, n, cond=50.0).requires_grad_()
    A.data[0, :3] = torch.eye(n, dtype=A.dtype)
    A.data[1, :3] = 2 * torch.eye(n, dtype=A.dtype) + torch.ones(n, n, dtype=A.dtype)
    generator = torch.Generator().manual_seed(7)
    G, K = (torch.randn(2, 65, n, n, dtype=A.dtype, generator=generator) for _ in range(2))

    def all_of_it(A, G, K):
        y = f(A)
        (plain,) = torch.autograd.grad(y, A, G, retain_graph=True)
        (first,) = torch.autograd.grad(y, A, G, create_graph=True)
        (second,) = torch.autograd.grad(first, A, K)
        assert y.is_contiguous() and plain.is_contiguous()
        return torch.stack([y, plain, first, second]).detach()

    each = [all_of_it(A.detach()[i].requires_grad_(), G[i], K[i]) for i in np.ndindex(2, 65)]
    expected = torch.stack(each, 1).unflatten(1, (2, 65))
    torch.testing.assert_close(all_of_it(A, G, K), expected, rtol=1e-12, atol=1e-12)


def test_derivatives_of_many_small_matrices():
    A = random_spd(128, 2, cond=5.0).requires_grad_()
    p = torch.linspace(-1, 1, 128, dtype=A.dtype).requires_grad_()
    assert gradcheck(lambda A: logm(symmetric(A)), A, fast_mode=True)
    assert gradgradcheck(lambda A: sqrtm(symmetric(A)), A, fast_mode=True)
    assert gradcheck(lambda A, p: Spectrum(symmetric(A)).power(p), (A, p), fast_mode=True)
    assert gradcheck(lambda A: Spectrum(symmetric(A)).values().square(), A, fast_mode=True)


def test_batched_gradients_of_many_small_matrices():
    A = random_spd(130, 3).requires_grad_()
    G = torch.randn(2, 130, 3, 3, dtype=A.dtype, generator=torch.Generator().manual_seed(8))
    y = logm(A)
    (together,) = torch.autograd.grad(y, A, G, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(together, torch.stack([torch.autograd.grad(y, A, g, retain_graph=True)[0] for g in G]))
    torch.testing.assert_close(torch.func.vmap(logm)(A), y)
    # directions at one matrix, and one direction at many
    spectrum = Spectrum(A[0])
    expected = torch.stack([spectrum.derivative(LOG, H) for H in G[0]])
    torch.testing.assert_close(spectrum.derivative(LOG, G[0]), expected)
    expected = torch.stack([Spectrum(X).derivative(LOG, G[0, 0]) for X in A])
    torch.testing.assert_close(Spectrum(A).derivative(LOG, G[0, 0]), expected)


def test_one_bad_matrix_among_many_spoils_no_other():
    A = random_spd(130, 3)
    for bad in (math.nan, math.inf):
        spoilt = A.clone()
        spoilt[2, 1, 1] = bad
        spoilt.requires_grad_()
        good = A.clone().requires_grad_()
        others = [i for i in range(130) if i != 2]
        for f, _, _ in FUNCTIONS.values():
            y = f(spoilt)
            assert y[2].isnan().all()
            torch.testing.assert_close(y[others], f(good)[others])
            got, expected = (torch.autograd.grad(f(X)[others].sum(), X)[0][others] for X in (spoilt, good))
            torch.testing.assert_close(got, expected)


# ---- float32


def matrices_for_float32(scale: float) -> dict[str, torch.Tensor]:
    batches = {
        f"n={n}, cond={cond:g}": random_spd(32, n, cond=cond) for n in (2, 3, 4, 8, 20) for cond in (3.0, 100.0, 1e4)
    }
    batches |= {name: A[None] for name, A in REPEATED.items() if name != "close"}
    binary = 2.0 ** round(math.log2(scale))  # keeps equal eigenvalues equal
    return {name: (A * (binary if name in REPEATED else scale)).float() for name, A in batches.items()}


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", [k for k in FUNCTIONS if k != "sin"])
def test_float32_at_all_scales(name, scale):
    """Against float64: forward within 20ε·cond, backward within 200ε·cond of the largest entry, matrix by matrix."""
    if name == "exp" and scale > 1:
        pytest.skip("exp overflows")
    f = FUNCTIONS[name][0]
    for which, A in matrices_for_float32(scale).items():
        # exp(100) is as far as it is finite and its condition number, |A|, is still below that of A
        if name == "exp" and torch.linalg.matrix_norm(A, 2).max() > 80:
            continue
        G = torch.randn(A.shape, generator=torch.Generator().manual_seed(4))
        single, double = A.requires_grad_(), A.detach().double().requires_grad_()
        w = torch.linalg.eigvalsh(double.detach())
        bound = torch.finfo(torch.float32).eps * w[:, -1] / w[:, 0]
        y, expected = f(single), f(double)
        (grad,), (expected_grad,) = torch.autograd.grad(y, single, G), torch.autograd.grad(expected, double, G.double())
        for got, right, factor in ((y, expected, 20), (grad, expected_grad, 200)):
            error = (got - right).abs().amax((-2, -1)) / right.abs().amax((-2, -1)).clamp(min=1e-300)
            assert (error <= factor * bound).all(), (which, factor, (error / bound).max().item())


def test_one_bad_matrix_spoils_no_other():
    A = random_spd(5, 4).requires_grad_()
    spoilt = A.detach().clone()
    spoilt[2, 1, 1] = math.nan
    spoilt.requires_grad_()
    others = [0, 1, 3, 4]
    for f, _, _ in FUNCTIONS.values():
        (good,), (bad,) = (torch.autograd.grad(f(X)[others].sum(), X) for X in (A, spoilt))
        torch.testing.assert_close(f(spoilt)[others], f(A)[others])
        torch.testing.assert_close(bad[others], good[others])
        assert f(spoilt)[2].isnan().all()


def test_singular_matrices():
    """Eigenvalues that are noise count as ε·max|w|: nothing is infinite, and nothing is clamped at a fixed value."""
    for scale in (1e-30, 1.0, 1e30):
        A = (scale * torch.diag(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))).requires_grad_()
        eps = torch.finfo(A.dtype).eps
        expected = torch.tensor([2 * eps * scale, scale, 2 * scale], dtype=A.dtype).log()
        torch.testing.assert_close(logm(A).diagonal(), expected)
        torch.testing.assert_close(sqrtm(A).diagonal(), A.diagonal().sqrt())
        for f in (logm, sqrtm, invsqrtm):
            (grad,) = torch.autograd.grad(f(A).sum(), A)
            assert grad.isfinite().all()


# ---- compile, vmap, gradients of functions


def everything(A: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    spectrum = Spectrum(A)
    functions = (spectrum.log(), spectrum.exp(), spectrum.sqrt(), spectrum.inv_sqrt(), spectrum.inv())
    more = (spectrum.power(0.3), spectrum.power(p), spectrum.derivative(LOG, A), funm(A, torch.sin, torch.cos))
    return torch.stack(functions + more)


def loss(A: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    spectrum = Spectrum(A)
    return (spectrum.log().sin() @ spectrum.power(p)).sum() + spectrum.derivative(SQRT, A).square().sum()


def test_compiles():
    """Also inside a compiled gradient, where custom gradients do not count."""
    torch._dynamo.reset()
    A, p = random_spd(4, 5).requires_grad_(), torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    expected = torch.autograd.grad(loss(A, p), (A, p))
    y = torch.compile(loss, fullgraph=True, backend="aot_eager")(A, p)
    torch.testing.assert_close(y, loss(A, p))
    torch.testing.assert_close(torch.autograd.grad(y, (A, p)), expected)
    inside = torch.compile(torch.func.grad(loss, (0, 1)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(inside(A.detach(), p.detach()), expected)


def test_every_function_compiles():
    torch._dynamo.reset()
    A, p = random_spd(4, 3), torch.linspace(-1, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(everything, fullgraph=True, backend="eager")(A, p), everything(A, p))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # by inductor
def test_compiles_with_inductor():
    torch._dynamo.reset()
    A = random_spd(4, 5).float().requires_grad_()
    y = torch.compile(logm, fullgraph=True)(A)
    torch.testing.assert_close(y, logm(A))
    torch.testing.assert_close(*(torch.autograd.grad(x.square().sum(), A)[0] for x in (y, logm(A))))


def test_vmap():
    A, p = random_spd(6, 3), torch.linspace(-1, 1, 6, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(everything, out_dims=1)(A, p), everything(A, p))

    each = torch.func.vmap(torch.func.grad(loss, (0, 1)))(A, p)
    torch.testing.assert_close(each, torch.func.grad(loss, (0, 1))(A, p))


def test_matrices_need_to_be_square():
    with pytest.raises(ValueError, match="square"):
        logm(torch.ones(2, 3))
    with pytest.raises(TypeError, match="Tensor"):
        logm(np.eye(2))


# ---- vectors of symmetric and triangular matrices


@pytest.mark.parametrize("n", [1, 2, 5])
def test_vectors_of_matrices(n):
    X = symmetric(torch.randn(3, 2, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(6)))
    v = linalg.vech(X)
    assert v.shape == (3, 2, n * (n + 1) // 2)
    torch.testing.assert_close(torch.linalg.vector_norm(v, dim=-1), torch.linalg.matrix_norm(X))
    torch.testing.assert_close(linalg.unvech(v), X)
    i, j = np.tril_indices(n)
    torch.testing.assert_close(linalg.tril_vector(X), X[..., i, j])
    torch.testing.assert_close(linalg.from_tril_vector(linalg.tril_vector(X)), X.tril())
    torch.testing.assert_close(linalg.vech(X.tril()), v)
    torch.testing.assert_close(torch.func.vmap(linalg.unvech)(v), X)
    for f, x in ((linalg.vech, X), (linalg.unvech, v), (linalg.tril_vector, X), (linalg.from_tril_vector, v)):
        x = x[0].clone().requires_grad_()
        assert gradcheck(f, x) and gradgradcheck(f, x)
        torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(x), f(x))


def test_vectors_of_a_wrong_length():
    with pytest.raises(ValueError, match=r"n\(n\+1\)/2"):
        linalg.unvech(torch.ones(4))
