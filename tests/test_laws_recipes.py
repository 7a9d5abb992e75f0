"""Every recipe, and every base distribution under a transform, keeps the laws of flows."""

import math

import pytest
import registry
import torch

from flowgroup import flows, testing
from flowgroup.manifolds import RigidBodies, constraints
from flowgroup.manifolds.product import ProductManifold

every_recipe = pytest.mark.parametrize("entry", registry.RECIPES, ids=str)
every_base = pytest.mark.parametrize("entry", registry.BASES, ids=str)


def permutation(base):
    """It reverses the order of features, on the circle or manifold that the base lives on; of a product it keeps it."""
    if isinstance(getattr(base.support, "manifold", None), RigidBodies):
        return flows.RigidCoupling(base.support.manifold.n, "rotations", base.support.manifold.box, width=8, blocks=1)
    if len(base.event_shape) == 2:
        chart = flows.SPDChart(base.support.manifold)
        return flows.Sequential(chart, flows.Permutation(*chart.out_shape), chart.inv)
    curved = isinstance(base.support, constraints.Circle | constraints.OnManifold)
    order = (
        range(*base.event_shape) if isinstance(getattr(base.support, "manifold", None), ProductManifold) else "reverse"
    )
    return flows.Permutation(*base.event_shape, order, base.support if curved else constraints.real)


def over_base(entry, dtype, device):
    """A flow that only permutes what the base gives: its laws are those of the base."""
    base = registry.shake_(entry.make())
    flow = flows.Flow(permutation(base), base).to(device=device, dtype=dtype)
    x = entry.points(5, dtype=dtype, device=device)
    return flow, flow.transform.inverse(x)[0], None


LAWS_OF_FLOWS = [
    testing.assert_vmap,
    testing.assert_gradients_finite,
    testing.assert_pickle,
    testing.assert_deepcopy,
]


@every_recipe
@pytest.mark.parametrize(
    "law",
    [
        testing.assert_invertible,
        testing.assert_log_det,
        testing.assert_log_dets_cancel,
        testing.assert_batch_broadcasting,
    ],
)
def test_law_of_its_transform(entry, law, dtype, device):
    flow, x, context = registry.built(entry, dtype, device)
    law(flow.transform, x, context)


@every_recipe
@pytest.mark.parametrize("law", LAWS_OF_FLOWS)
def test_law(entry, law, dtype, device):
    law(*registry.built(entry, dtype, device))


@every_recipe
def test_sampling(entry, dtype, device):
    flow, _, context = registry.built(entry, dtype, device)
    testing.assert_sampling(flow, context)
    assert flow.sample((2,), context).dtype == dtype


@pytest.mark.parametrize("entry", [e for e in registry.RECIPES if e.context], ids=str)
def test_context_broadcasts(entry, dtype, device):
    flow, x, context = registry.built(entry, dtype, device)
    testing.assert_context_broadcasting(flow.transform, x, context)
    pairs = flow.log_prob(x[:, None], context[None, :])
    assert pairs.shape == (len(x), len(context))
    torch.testing.assert_close(pairs.diagonal(), flow.log_prob(x, context))
    torch.testing.assert_close(pairs[:, 1], flow.distribution(context[1]).log_prob(x))
    assert flow.sample((2,), context[:, None]).shape == (2, len(context), 1, *flow.event_shape)


@every_recipe
def test_state_dict_round_trip(entry, dtype, device):
    flow, x, context = registry.built(entry, dtype, device)
    testing.assert_state_dict_round_trip(flow, entry.make().to(x), x, context)


def has_context_elsewhere(entry):
    """Whether another entry is the same recipe with a context, whose graph holds this one's."""
    return any(e.context and (e.of, e.label) == (entry.of, entry.label) for e in registry.RECIPES)


# it takes many seconds for each
@pytest.mark.parametrize("entry", [e for e in registry.RECIPES if e.context or not has_context_elsewhere(e)], ids=str)
def test_compiles(entry, device):
    testing.assert_compiles(*registry.built(entry, torch.float32, device), backend="aot_eager")


@every_base
@pytest.mark.parametrize("law", LAWS_OF_FLOWS)
def test_law_of_base(entry, law, dtype, device):
    law(*over_base(entry, dtype, device))


@every_base
def test_sampling_from_base(entry, dtype, device):
    flow, _, _ = over_base(entry, dtype, device)
    testing.assert_sampling(flow)
    x = flow.base.distribution().sample((4, 2))
    assert x.dtype == dtype and flow.base.log_prob(x).shape == (4, 2)


@every_base
def test_state_dict_round_trip_of_base(entry, dtype, device):
    flow, x, _ = over_base(entry, dtype, device)
    fresh = flows.Flow(permutation(flow.base), entry.make()).to(x)
    testing.assert_state_dict_round_trip(flow, fresh, x)


@every_base
def test_base_compiles(entry, device):
    testing.assert_compiles(*over_base(entry, torch.float32, device), backend="eager")


def grid(lower, upper, n):
    """Midpoints of n cells a side in two dimensions, and the area of a cell."""
    side = lower + (upper - lower) * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return torch.cartesian_prod(side, side), ((upper - lower) / n) ** 2


@pytest.mark.parametrize("make", [flows.NICE, flows.RealNVP, flows.MAF, flows.IAF, flows.Glow, flows.NSF])
def test_density_on_the_plane_integrates_to_one(make):
    flow = registry.shake_(make(2, transforms=3, hidden_features=(16,))).double()
    flow(torch.randn(256, 2, dtype=torch.float64))
    x, area = grid(-14, 14, 500)
    with torch.no_grad():
        assert abs(flow(x).exp().sum() * area - 1) < 2e-3


@pytest.mark.parametrize("autoregressive", [False, True])
def test_density_on_the_torus_integrates_to_one(autoregressive):
    flow = flows.NCSF(2, transforms=3, hidden_features=(16,), autoregressive=autoregressive)
    x, area = grid(-math.pi, math.pi, 500)
    with torch.no_grad():
        assert abs(registry.shake_(flow).double()(x).exp().sum() * area - 1) < 2e-3


@pytest.mark.parametrize("circle", ["spline", "moebius"])
def test_density_on_the_sphere_integrates_to_one(circle):
    flow = registry.shake_(flows.SphereFlow(2, transforms=3, hidden_features=(16,), circle=circle)).double()
    # angle and height: the cylinder has the area of the sphere
    cell, area = grid(-1, 1, 500)
    phi, h = math.pi * cell[:, 0], cell[:, 1]
    radius = (1 - h.square()).sqrt()
    x = torch.stack((radius * phi.cos(), radius * phi.sin(), h), -1)
    with torch.no_grad():
        assert abs(flow(x).exp().sum() * math.pi * area - 1) < 2e-3


@pytest.mark.parametrize("make", [flows.NSF, flows.RealNVP])
def test_compiles_to_kernels(make, device):
    flow = registry.shake_(make(2, transforms=1, hidden_features=(8,))).to(device)
    x = torch.randn(64, 2, device=device)
    flow(x)
    testing.assert_compiles(flow, x, backend="inductor")
