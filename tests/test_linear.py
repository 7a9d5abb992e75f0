"""Linear bijections and transforms against dense matrices."""

import itertools

import pytest
import torch

from flowgroup import bijections, flows
from flowgroup.linalg import matvec, solve_triangular

SHAPES = [((), ()), ((), (5,)), ((5,), ()), ((5,), (5,)), ((5,), (7, 5)), ((7, 1), (5,)), ((5,), (7, 1)), ((), (2, 0))]

LINEAR = {
    "lu": bijections.LULinear(4),
    "lu-no-bias": bijections.LULinear(3, bias=False),
    "qr": bijections.QRLinear(4),
    "qr-odd": bijections.QRLinear(5, bias=False),
    "householder": bijections.HouseholderLinear(4),
    "householder-odd": bijections.HouseholderLinear(4, reflections=3),
    "householder-many": bijections.HouseholderLinear(3, reflections=8),
    "givens": bijections.GivensLinear(4),
    "givens-odd": bijections.GivensLinear(5),
    "givens-one": bijections.GivensLinear(1),
}
every_linear = pytest.mark.parametrize("f", LINEAR.values(), ids=LINEAR.keys())
ROTATIONS = [bijections.HouseholderLinear(4), bijections.HouseholderLinear(5), bijections.GivensLinear(4)]


def random_params(f, *batch, scale=0.7):
    start = f.initial_params().double()
    return start + scale * torch.randn(*batch, *f.param_shape, dtype=torch.float64)


def dense(f, params):
    """(W, b) of one set of parameters."""
    b = f.forward(torch.zeros(f.features, dtype=params.dtype), params)[0]
    return (f.forward(torch.eye(f.features, dtype=params.dtype), params)[0] - b).mT, b


# Products and solves


@pytest.mark.parametrize("matrices, vectors", SHAPES)
def test_matvec(matrices, vectors, dtype):
    A, x = torch.randn(*matrices, 2, 3, dtype=dtype), torch.randn(*vectors, 3, dtype=dtype)
    torch.testing.assert_close(matvec(A, x), (A @ x.unsqueeze(-1)).squeeze(-1))


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("unitriangular", [True, False])
@pytest.mark.parametrize("matrices, vectors", SHAPES)
def test_solve_triangular(matrices, vectors, upper, unitriangular, dtype):
    A, y = torch.randn(*matrices, 3, 3, dtype=dtype), torch.randn(*vectors, 3, dtype=dtype)
    A = (A.triu() if upper else A.tril()) + 3 * torch.eye(3, dtype=dtype)
    x = solve_triangular(A, y, upper=upper, unitriangular=unitriangular)
    if unitriangular:
        A = A - torch.diag_embed(A.diagonal(dim1=-2, dim2=-1)) + torch.eye(3, dtype=dtype)
    assert x.shape == (*torch.broadcast_shapes(matrices, vectors), 3)
    torch.testing.assert_close((A @ x.unsqueeze(-1)).squeeze(-1), y.expand(x.shape))


@every_linear
def test_maps_keep_their_precision_under_autocast(f):
    """With parameters in bfloat16, as a network makes them there."""
    x, params = torch.randn(100, f.features), random_params(f, scale=0.3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        results = (*f.forward(x, params), *f.inverse(x, params))
    for got, expected in zip(results, (*f.forward(x, params.float()), *f.inverse(x, params.float()))):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected)


# What the maps are


@every_linear
def test_map_is_linear_with_the_determinant_it_says(f):
    params = random_params(f)
    W, b = dense(f, params)
    x = torch.randn(6, f.features, dtype=torch.float64)
    y, logdet = f.forward(x, params)
    torch.testing.assert_close(y, x @ W.mT + b)
    torch.testing.assert_close(logdet, torch.linalg.slogdet(W)[1].expand(6))
    torch.testing.assert_close(f.inverse(y, params)[0], x)


@every_linear
def test_one_matrix_for_many_and_one_for_each_agree(f):
    params = random_params(f, 3)
    x = torch.randn(5, 3, f.features, dtype=torch.float64)
    for function in (f.forward, f.inverse):
        together = function(x, params)
        apart = [function(x[:, i], params[i]) for i in range(3)]
        for got, expected in zip(together, zip(*apart)):
            torch.testing.assert_close(got, torch.stack(expected, 1))


@every_linear
def test_initial_params_are_the_identity_where_they_can_be(f):
    W, b = dense(f, f.initial_params())
    if isinstance(f, bijections.HouseholderLinear) and f.reflections % 2:
        assert torch.linalg.det(W) == -1 and torch.equal(W @ W.mT, torch.eye(f.features))
    else:
        torch.testing.assert_close(W, torch.eye(f.features))
    assert (b == 0).all()


def test_lu_is_the_product_of_its_factors():
    params = random_params(bijections.LULinear(4))
    M, b = params[:16].view(4, 4), params[16:]
    L = M.tril(-1) + torch.eye(4)
    U = M.triu(1) + M.diagonal().exp().diag()
    W, bias = dense(bijections.LULinear(4), params)
    torch.testing.assert_close(W, L @ U)
    torch.testing.assert_close(bias, b)


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_qr_factors_are_those_of_torch(n):
    """The decomposition with a positive diagonal is unique; Q comes out as a rotation."""
    params = random_params(bijections.QRLinear(n, bias=False))
    W, _ = dense(bijections.QRLinear(n, bias=False), params)
    Q, R = torch.linalg.qr(W)
    sign = R.diagonal().sign()
    M = params.view(n, n)
    torch.testing.assert_close(sign.unsqueeze(-1) * R, M.triu(1) + M.diagonal().exp().diag())
    torch.testing.assert_close(torch.linalg.det(Q * sign), torch.tensor(1.0, dtype=torch.float64))


def test_householder_is_the_product_of_its_reflections():
    f = bijections.HouseholderLinear(4, reflections=3)
    params = random_params(f)
    W = torch.eye(4, dtype=torch.float64)
    for v in params.view(3, 4):
        W = W @ (torch.eye(4) - 2 * torch.outer(v, v) / (v @ v))
    torch.testing.assert_close(dense(f, params)[0], W)


def test_a_reflection_along_nothing_is_none(dtype):
    f = bijections.HouseholderLinear(3, reflections=2)
    params = torch.zeros(6, dtype=dtype, requires_grad=True)
    x = torch.randn(5, 3, dtype=dtype)
    y, _ = f.forward(x, params)
    assert torch.equal(y, x)
    assert torch.isfinite(torch.autograd.grad(y.square().sum(), params)[0]).all()


def test_givens_is_a_product_of_plane_rotations_in_round_robin_order():
    n = 4
    f = bijections.GivensLinear(n)
    angles = random_params(f)
    seats = list(range(n))
    W = torch.eye(n, dtype=torch.float64)
    for round_angles in angles.view(n - 1, n // 2):
        for i, angle in enumerate(round_angles):
            a, b = seats[i], seats[n - 1 - i]
            G = torch.eye(n, dtype=torch.float64)
            G[a, a] = G[b, b] = angle.cos()
            G[a, b], G[b, a] = -angle.sin(), angle.sin()
            W = G @ W
        seats = [seats[0], seats[-1], *seats[1:-1]]
    torch.testing.assert_close(dense(f, angles)[0], W)


@pytest.mark.parametrize("n", [2, 3, 6, 7])
def test_givens_turns_every_pair_once(n):
    f = bijections.GivensLinear(n)
    planes = set()
    for angle in torch.eye(f.param_shape[0], dtype=torch.float64):
        moved = (dense(f, angle)[0] - torch.eye(n)).abs().sum(-1).nonzero().flatten()
        planes.add(tuple(moved.tolist()))
    assert planes == set(itertools.combinations(range(n), 2))


@pytest.mark.parametrize("f", ROTATIONS, ids=str)
def test_rotations_are_rotations_in_float32(f):
    W, _ = dense(f, random_params(f, scale=3.0).float())
    torch.testing.assert_close(W @ W.mT, torch.eye(f.features), atol=1e-6, rtol=0)
    assert torch.linalg.det(W) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("f", [bijections.HouseholderLinear(3), bijections.GivensLinear(3)], ids=str)
def test_every_rotation_is_within_reach(f):
    """Fitted to a random rotation, half a turn away from the start."""
    axis = torch.nn.functional.normalize(torch.randn(3, dtype=torch.float64), dim=0)
    target = 2 * torch.outer(axis, axis) - torch.eye(3)
    params = random_params(f, scale=0.1).requires_grad_()
    optimizer = torch.optim.LBFGS([params], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = (dense(f, params)[0] - target).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert loss() < 1e-8


# Transforms


@pytest.mark.parametrize("make", [flows.LULinear, flows.QRLinear, flows.HouseholderLinear, flows.GivensLinear])
@pytest.mark.parametrize("context", [0, 2])
def test_transform_starts_as_the_identity_or_near_it(make, context):
    x = torch.randn(10, 4)
    c = torch.randn(10, 2) if context else None
    y, logdet = make(4, context=context)(x, c)
    assert (y - x).abs().max() < (0.5 if context else 1e-6) and logdet.shape == (10,)


def test_permutation_orders():
    x = torch.arange(5.0).expand(2, 5)
    assert flows.Permutation(5)(x)[0][0].tolist() == [4, 3, 2, 1, 0]
    t = flows.Permutation(5, [2, 0, 1, 4, 3])
    y, logdet = t(x)
    assert y[0].tolist() == [2, 0, 1, 4, 3] and logdet.tolist() == [0, 0]
    assert torch.equal(t.inverse(y)[0], x)
    assert sorted(flows.Permutation(5, "random")(x)[0][0].tolist()) == [0, 1, 2, 3, 4]


def test_random_permutation_is_in_the_state_dict():
    a, b = flows.Permutation(50, "random"), flows.Permutation(50, "random")
    b.load_state_dict(a.state_dict())
    x = torch.randn(50)
    assert torch.equal(a(x)[0], b(x)[0])


@pytest.mark.parametrize("order", ["sideways", [0, 0, 1], [0, 1], [1, 2, 3], torch.tensor([2, 1])])
def test_bad_order_is_named(order):
    with pytest.raises(ValueError, match="order must be"):
        flows.Permutation(3, order)


@pytest.mark.parametrize("make", [flows.LULinear, flows.Permutation, flows.GivensLinear])
def test_wrong_shape_and_unexpected_context_are_named(make):
    with pytest.raises(ValueError, match="x must have shape"):
        make(3)(torch.randn(5, 4))
    with pytest.raises(ValueError, match="y must have shape"):
        make(3).inverse(torch.randn(5, 4))
    with pytest.raises(ValueError, match="context"):
        make(3)(torch.randn(5, 3), torch.randn(5, 2))
