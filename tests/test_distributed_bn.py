"""Two processes normalize their parts of a batch like one process the whole of it."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from flowgroup.groups import SO3
from flowgroup.manifolds import Euclidean, Torus
from flowgroup.nn import DecayingMomentum, DomainBatchNorm, LieBN

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)

GROUPS = {"euclidean": Euclidean(3), "torus": Torus(2), "rotations": SO3()}
CASES = {
    **{f"{name}, {steps}": (name, dict(karcher_steps=steps)) for name in GROUPS for steps in (1, None)},
    "mean only": ("rotations", dict(variance=False)),
    "momentum": ("rotations", dict(training_momentum=DecayingMomentum(3, 0.4))),
    "coordinates": ("rotations", dict(parametrization="exp")),
}
CUT = 8  # of 11 points the first process has 8, and of 11 labels none is 2 on the second
LABELS = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2, 1, 0, 0])


def data(group, seed):
    generator = torch.Generator().manual_seed(seed)
    noise, centre, towards = (
        torch.randn(n, 2, group.dim, dtype=torch.float64, generator=generator) for n in (11, 1, 11)
    )
    return group.compose(group.exp(centre), group.exp(0.3 * noise)), group.exp(towards)


def make(name, options):
    layer = LieBN(GROUPS[name], shape=(2,), dtype=torch.float64, **options)
    start = GROUPS[name].exp(torch.linspace(-0.5, 0.5, 2 * GROUPS[name].dim, dtype=torch.float64).unflatten(0, (2, -1)))
    with torch.no_grad():
        if "parametrization" in options:
            layer.bias = start
        else:
            layer.bias.copy_(start)
        if layer.log_scale is not None:
            layer.log_scale.copy_(torch.tensor([0.3, -0.4]))
    return layer


def results(layer, group, part, wrapped=None, labels=()):
    """Two batches through a layer: outputs, gradients and state."""
    module, out = wrapped or layer, {}
    for i in range(2):
        x, towards = (v[part] for v in data(group, seed=i))
        x = x.clone().requires_grad_()
        y = module(x, *(v[part] for v in labels))
        layer.zero_grad()
        (y * towards).sum().backward()
        out |= {f"y{i}": y.detach(), f"x{i}": x.grad}
        out |= {f"{name}{i}": p.grad.clone() for name, p in layer.named_parameters()}
    return out | layer.state_dict()


def all_results(part, wrap=None):
    out = {}
    for case, (name, options) in CASES.items():
        layer = make(name, options)
        out[case] = results(layer, GROUPS[name], part, wrap and wrap(layer))
    layer = DomainBatchNorm(make("rotations", {}), domains=[0, 1, 2])
    out["domains"] = results(layer, SO3(), part, wrap and wrap(layer), labels=(LABELS,))
    return out


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    part = slice(0, CUT) if rank == 0 else slice(CUT, 11)
    torch.save((all_results(part), all_results(part, DistributedDataParallel)), f"{folder}/{rank}.pt")
    layer = make("rotations", {}).eval()  # in evaluation nothing waits for others
    if rank == 0:
        layer(data(SO3(), 0)[0])
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, args=(str(folder),), nprocs=2)
    return all_results(slice(None)), *(torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "DDP"])
@pytest.mark.parametrize("case", [*CASES, "domains"])
def test_two_processes_are_like_one(outcomes, case, wrapped):
    one, first, second = outcomes[0][case], outcomes[1][wrapped][case], outcomes[2][wrapped][case]
    assert first.keys() == second.keys() == one.keys()
    close = dict(rtol=0, atol=1e-10)
    for name, expected in one.items():
        a, b = first[name], second[name]
        if name in ("x0", "x1", "y0", "y1"):
            torch.testing.assert_close(torch.cat((a, b)), expected, **close)
            assert expected.abs().max() > 0.1
        elif name[-1] in "01" and wrapped:  # DDP averages the gradients of parameters, here of sums over points
            torch.testing.assert_close(a, b, **close)
            torch.testing.assert_close(2 * a, expected, **close)
        elif name[-1] in "01":
            torch.testing.assert_close(a + b, expected, **close)
        else:
            torch.testing.assert_close(a, expected, **close)
            torch.testing.assert_close(b, expected, **close)


def test_statistics_are_not_those_of_a_part(outcomes):
    alone = results(make("rotations", {}), SO3(), slice(0, CUT))
    joint = outcomes[1][0]["rotations, 1"]
    assert (alone["running_mean"] - joint["running_mean"]).abs().max() > 1e-3
    assert (alone["x0"] - joint["x0"]).abs().max() > 1e-2
