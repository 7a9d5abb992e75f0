"""Bad input gives one error that names the argument, what was expected and what came, and changes nothing."""

import copy

import pytest
import registry
import torch

from flowgroup import bijections, distributions, flows
from flowgroup.manifolds import Product, Sphere, Torus

WITH_CONTEXT = [e for e in registry.TRANSFORMS + registry.RECIPES if e.context]
WITHOUT_CONTEXT = [e for e in registry.TRANSFORMS + registry.RECIPES if not e.context]

every_module = pytest.mark.parametrize("entry", registry.TRANSFORMS + registry.RECIPES, ids=str)
every_recipe = pytest.mark.parametrize("entry", registry.RECIPES, ids=str)


def as_transform(module):
    return module.transform if isinstance(module, flows.Flow) else module


def calls(module, x, context):
    """(name of the argument, function of it and the context, a good value) for everything that takes data."""
    transform = as_transform(module)
    y = transform(x, context)[0].detach()
    listed = [("x", transform, x), ("y", transform.inverse, y)]
    return [*listed, ("x", module.log_prob, x)] if isinstance(module, flows.Flow) else listed


def new(entry):
    """As constructed, so that what initialises itself from data has not done so yet."""
    context = torch.randn(5, entry.context) if entry.context else None
    return entry.make(), entry.points(5), context


class Unchanged:
    """A block after which the state dict of the module is what it was."""

    def __init__(self, module):
        self.module = module

    def __enter__(self):
        self.before = copy.deepcopy(self.module.state_dict())

    def __exit__(self, *_):
        for name, value in self.module.state_dict().items():
            assert torch.equal(value, self.before[name]), f"{name} changed"


@every_module
def test_wrong_number_of_features(entry):
    module, x, context = new(entry)
    for name, function, good in calls(copy.deepcopy(module), x, context):
        one_more = torch.cat((good, good[:, :1]), 1)
        if entry.of is flows.Squeeze:  # takes images of any even size
            one_more = one_more[0, 0]
        with Unchanged(module), pytest.raises(ValueError, match=rf"^{name} must have shape \(\.\.\., .*\), got \(\d, "):
            function(one_more, context)
        with pytest.raises(ValueError, match=rf"^{name} must have shape \(\.\.\., .*\), got \(\)"):
            function(torch.tensor(1.0), context)


@every_module
def test_what_is_no_float_tensor(entry):
    module, x, context = new(entry)
    for name, function, good in calls(copy.deepcopy(module), x, context):
        with pytest.raises(TypeError, match=rf"^{name} must be a torch.Tensor, got list"):
            function(good.tolist(), context)
        with pytest.raises(TypeError, match=rf"^{name} must be of a floating-point dtype, got torch.int64"):
            function(good.long(), context)


@pytest.mark.parametrize("entry", WITH_CONTEXT, ids=str)
def test_context_missing_or_of_the_wrong_shape(entry):
    module, x, context = new(entry)
    untouched = copy.deepcopy(module)
    functions = [(function, good) for _, function, good in calls(module, x, context)]
    if isinstance(module, flows.Flow):
        functions += [(lambda shape, c: module.sample(shape, c), (2,)), (module.rsample_and_log_prob, (2,))]
    for function, good in functions:
        with pytest.raises(ValueError, match=r"^context is missing: expected a tensor of shape \(\.\.\., 3\)"):
            function(good, None)
        with pytest.raises(ValueError, match=r"^context must have shape \(\.\.\., 3\), got \(5, 4\)"):
            function(good, torch.randn(5, 4))
        with pytest.raises(TypeError, match=r"^context must be a torch.Tensor, got list"):
            function(good, [0.0, 0.0, 0.0])
    with Unchanged(untouched), pytest.raises(ValueError, match=r"^batch shapes of x and context must broadcast"):
        as_transform(untouched)(x, torch.randn(4, 3))


@pytest.mark.parametrize("entry", WITHOUT_CONTEXT, ids=str)
def test_unexpected_context(entry):
    module, x, _ = new(entry)
    functions = [(function, good) for _, function, good in calls(copy.deepcopy(module), x, None)]
    if isinstance(module, flows.Flow):
        functions += [(module.sample, (2,)), (module.rsample_and_log_prob, (2,))]
    for function, good in functions:
        with Unchanged(module), pytest.raises(ValueError, match=r"^context was given, but .* built without one"):
            function(good, torch.randn(5, 3))


@every_recipe
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinite_data(entry, bad):
    flow, x, context = new(entry)
    x.view(-1)[1] = bad
    with Unchanged(flow), pytest.raises(ValueError, match=r"^x must be finite, got 1 NaN or infinite of \d+ values"):
        flow.log_prob(x, context)


@pytest.mark.parametrize("entry", [e for e in registry.RECIPES if e.context], ids=str)
def test_nan_in_the_context(entry):
    flow, x, context = new(entry)
    context[0, 0] = torch.nan
    for function in (lambda: flow.log_prob(x, context), lambda: flow.sample((), context)):
        with Unchanged(flow), pytest.raises(ValueError, match=r"^context must be finite, got 1 NaN .* of 15 values"):
            function()


def test_outside_the_interval_of_a_bounded_spline():
    spline = bijections.RationalQuadraticSpline(bins=4, bound=2.0, tails="bounded")
    for t in (
        flows.Elementwise(spline, 2),
        flows.Coupling(spline, 2),
        flows.Autoregressive(spline, 2),
        flows.Elementwise(spline, 2).inv,
    ):
        bad = torch.tensor([[0.0, 0.5], [0.0, 2.5]])
        message = r"must lie in the interval \[-2, 2\], but 1 of 4 points do not"
        with Unchanged(t), pytest.raises(ValueError, match=message):
            t(bad)
        with Unchanged(t), pytest.raises(ValueError, match=message):
            t.inverse(bad)


def test_outside_a_spline_with_linear_tails_is_the_identity():
    t = registry.shake_(flows.Elementwise(bijections.RationalQuadraticSpline(bins=4, bound=2.0), 2))
    x = torch.tensor([[-2.5, 100.0], [1e6, -3.0]])
    for function in (t, t.inverse):
        y, logdet = function(x)
        assert torch.equal(y, x) and torch.equal(logdet, torch.zeros(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: flows.SphereFlow(2, transforms=2, hidden_features=(8,)),
        lambda: flows.Flow(flows.Elementwise(bijections.SphereMoebius(2), 3), flows.SphereUniform(2)),
    ],
)
def test_points_off_the_sphere(make):
    flow = make()
    x = torch.nn.functional.normalize(torch.randn(4, 3), dim=-1)
    x[2] *= 1.01
    x[3] = 0
    with (
        Unchanged(flow),
        pytest.raises(ValueError, match=r"must lie in the manifold Sphere\(2\), but 2 of 4 points do"),
    ):
        flow.log_prob(x)
    with (
        Unchanged(flow),
        pytest.raises(ValueError, match=r"must lie in the manifold Sphere\(2\), but 2 of 4 points do"),
    ):
        flow.transform.inverse(x)


def test_what_enters_a_transform_used_backwards_is_called_x_and_how_far_off_it_is():
    flow = flows.RotationFlow(transforms=1, components=4, hidden_features=(8,))
    x = torch.nn.functional.normalize(torch.randn(4, 4), dim=-1)
    x[2] *= 1.5
    message = r"^x must lie in the manifold Sphere\(3\), but 1 of 4 .* the first, at index \(2,\), is 0.5 away"
    with Unchanged(flow), pytest.raises(ValueError, match=message):
        flow.log_prob(x)


def test_poses_outside_the_box_are_no_fault_but_long_quaternions_are():
    flow = flows.RigidBodyFlow(2, box=(1.0, 1.0, 1.0), transforms=1, width=8)
    x = flow.sample((3,))
    x[..., :3] += 5.0
    flow.log_prob(x)
    x[1, 0, 3:] *= 1.01
    with pytest.raises(ValueError, match=r"1 of 3 .*, at index \(1,\), has a quaternion whose length is off 1 by 0.01"):
        flow.log_prob(x)
    manifold = Product(Torus(1), Sphere(2))
    assert manifold.why_not(torch.tensor([9.0, 0.0, 1.0, 0.0])) is None
    assert "is 0.5 away" in manifold.why_not(torch.tensor([9.0, 0.0, 1.5, 0.0]))


@pytest.mark.parametrize("box", [1.0, torch.eye(3), (1.0, 1.0), ("a", 1.0, 1.0), (1.0, 0.0, 1.0)])
def test_boxes_that_are_none(box):
    with pytest.raises(ValueError, match="box must be three positive edges in nm, got"):
        flows.FreeBodies(2, box=box)


def test_angles_that_are_no_numbers():
    flow = flows.NCSF(2, transforms=1, hidden_features=(8,))
    with Unchanged(flow), pytest.raises(ValueError, match=r"^x must lie in the circle .*, but 1 of 2 points do not"):
        flow.transform(torch.tensor([0.0, torch.nan]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_actnorm_does_not_start_from_a_batch_with_nan(bad):
    t = flows.ActNorm(2)
    x = torch.randn(8, 2)
    x[3, 1] = bad
    with Unchanged(t), pytest.raises(ValueError, match=r"^x must be finite, got 1 NaN or infinite of 16 values"):
        t(x)
    assert not t.initialized
    good = 3 * torch.randn(8, 2) + 1
    torch.testing.assert_close(t(good)[0].mean(0), torch.zeros(2))


def test_actnorm_does_not_start_before_a_later_part_refuses_the_context():
    flow = flows.NSF(2, context=3, transforms=1, hidden_features=(8,))
    with Unchanged(flow), pytest.raises(ValueError, match=r"must broadcast, got \(8,\) and \(5,\)"):
        flow.log_prob(torch.randn(8, 2), torch.randn(5, 3))


def test_checks_of_values_can_be_turned_off():
    t = flows.Elementwise(bijections.RationalQuadraticSpline(bins=4, bound=2.0, tails="bounded"), 2)
    flow = flows.Flow(t, flows.BoxUniform([-2.0, -2.0], [2.0, 2.0]), validate_args=False)
    assert flow.log_prob(torch.tensor([torch.nan, 3.0])).shape == ()
    with pytest.raises(ValueError, match=r"^x must have shape"):
        flow.log_prob(torch.zeros(3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: flows.VonMises(2, concentration=-1.0),
        lambda: flows.VonMisesFisher(2, concentration=-1.0),
        lambda: flows.MixtureVonMisesFisher(2, components=3, concentration=-1.0),
        lambda: flows.VonMises(2, concentration=torch.nan),
    ],
)
def test_negative_concentration(make):
    with pytest.raises(ValueError, match=r"(?s)concentration .*GreaterThanEq\(lower_bound=0.0\).*(-1|nan)"):
        make()


@pytest.mark.parametrize("scale", [-1.0, 0.0, torch.nan])
def test_scale_that_is_not_positive(scale):
    with pytest.raises(ValueError, match=r"(?s)scale .*GreaterThan\(lower_bound=0.0\)"):
        distributions.DiagonalNormal(torch.zeros(2), torch.tensor([1.0, scale]))


@pytest.mark.parametrize("temperature", [-1.0, 0.0, torch.nan, torch.inf])
def test_temperature_that_is_not_positive(temperature):
    flow = flows.NSF(2, transforms=1, hidden_features=(8,))
    with Unchanged(flow), pytest.raises(ValueError, match=rf"^temperature must be positive .*, got {temperature}"):
        flow.sample((5,), temperature=temperature)


def test_temperature_of_a_base_that_has_none():
    with pytest.raises(ValueError, match=r"^temperature 0.5 needs a normal base, got TorusUniform"):
        flows.NCSF(2, transforms=1, hidden_features=(8,)).sample((5,), temperature=0.5)


def test_number_in_the_place_of_a_shape():
    flow = flows.Flow(flows.Elementwise(flows.Affine(), 2), flows.DiagonalNormal(2))
    for function in (flow.sample, flow.rsample_and_log_prob):
        with pytest.raises(TypeError, match=r"^shape must be a sequence of integers such as \(5,\), got 5"):
            function(5)


@pytest.mark.parametrize("mask", ["chequered", "", "Half"])
def test_unknown_mask_name(mask):
    with pytest.raises(ValueError, match=rf"^mask must be one of \['checkerboard', .*, got '{mask}'"):
        flows.Coupling(flows.Affine(), features=4, mask=mask)


def test_masks_that_do_not_fit():
    with pytest.raises(ValueError, match=r"^mask must have shape \(4,\), got \(3,\)"):
        flows.Coupling(flows.Affine(), features=4, mask=[True, False, True])
    with pytest.raises(ValueError, match=r"^mask must be true for at least one feature"):
        flows.Coupling(flows.Affine(), features=2, mask=[False, False])
    with pytest.raises(ValueError, match=r"^mask must be false for at least one feature"):
        flows.Coupling(flows.Affine(), features=2, mask=[True, True])


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match=r"^transform 0 gives events of shape \(3,\), but transform 1 takes \(4,\)"):
        flows.Sequential(flows.Elementwise(flows.Affine(), 3), flows.Elementwise(flows.Affine(), 4))
    with pytest.raises(ValueError, match=r"^transforms must agree on the size of the context, got \[2, 5\]"):
        flows.Sequential(flows.Coupling(flows.Affine(), 3, context=2), flows.Coupling(flows.Affine(), 3, context=5))
    with pytest.raises(ValueError, match=r"^base has events of shape \(4,\), but transform gives \(3,\)"):
        flows.Flow(flows.Coupling(flows.Affine(), 3), flows.DiagonalNormal(4))
    with pytest.raises(ValueError, match=r"^Sequential needs at least one transform"):
        flows.Sequential()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bijections.Affine(max_log_scale=-1.0), "max_log_scale must be positive, got -1.0"),
        (lambda: bijections.RationalQuadraticSpline(bins=1), "bins must be at least 2 .*, got 1"),
        (lambda: bijections.RationalQuadraticSpline(bound=-4.0), "bound must be positive and finite, got -4.0"),
        (lambda: bijections.RationalQuadraticSpline(tails="wild"), "tails must be one of .*, got 'wild'"),
        (lambda: bijections.Chain(), "Chain needs at least one bijection"),
    ],
)
def test_arguments_of_bijections(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
