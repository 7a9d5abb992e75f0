"""Two processes under torchrun train like one with the joint batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from flowgroup import flows
from flowgroup.bijections import Bijection
from flowgroup.training import DivergenceError, fit_to_data

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)


class Identity(Bijection):
    """Has no parameters: the loss never reaches the (empty) ones of its layer."""

    def forward(self, x, params):
        return x, torch.zeros_like(x)


def make_flow(seed=0):
    torch.manual_seed(seed)
    transform = flows.Sequential(
        flows.ActNorm(3),
        flows.Elementwise(Identity(), 3),
        flows.Autoregressive(flows.Affine(), features=3, context=2, hidden_features=(16,)),
    )
    return flows.Flow(transform, base=flows.DiagonalNormal(3, trainable=True)).double()


def rows(n, seed):
    generator = torch.Generator().manual_seed(seed)
    c = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    x = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    return 5.0 + torch.cat((c, c[:, :1]), 1) + x * torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64), c


def loader(seed):
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(*rows(41, 1)), batch_size=10, shuffle=True, generator=generator)


# 41 rows in batches of 10: the last batch is a single row, so the second process has none of it.
FIT = dict(epochs=4, batch_size=10, lr=2e-2, clip_grad_norm=2.0, progress=False)


class CrashError(Exception):
    pass


def all_runs(folder, rank):
    """What one process does, alone or as one of two; name → (weights, history)."""
    results = {}

    def run(name, data, flow=None, **more):
        flow = make_flow(seed=rank) if flow is None else flow
        history = fit_to_data(flow, data, **FIT | more)
        results[name] = (flow.state_dict(), vars(history))

    run("tensors", rows(41, 1), validation=rows(21, 2))
    run("loader", loader(seed=rank), validation=DataLoader(TensorDataset(*rows(21, 2)), batch_size=7))

    calls = []

    def crash(x, context):
        calls.append(None)
        if len(calls) == 13:  # one for ActNorm, two epochs of five, then in the third
            raise CrashError
        return x, context

    checkpoint = folder / "run.pt"
    with pytest.raises(CrashError):
        run("never", rows(41, 1), validation=rows(21, 2), augment=crash, checkpoint=checkpoint)
    run("resumed", rows(41, 1), validation=rows(21, 2), augment=lambda x, c: (x, c), checkpoint=checkpoint)

    noise = []

    def jitter(x, context):
        noise.append(torch.randn(3))
        return x + 0.1 * noise[-1], context

    run("noisy", rows(41, 1), augment=jitter, epochs=1)
    results["noise"] = torch.stack(noise)

    flow = make_flow()
    with pytest.raises(DivergenceError) as caught:
        rates = dict(optimizer=lambda p: torch.optim.SGD(p, lr=1e300), clip_grad_norm=None, schedule="constant")
        run("diverged", rows(41, 1), flow=flow, **rates)
    results["step"] = caught.value.step
    results["after divergence"] = flow.state_dict()
    flow(*rows(3, 4)).sum().backward()  # nothing of the other process is left in the flow
    return results


def main(folder):
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    results = all_runs(folder, rank)
    with pytest.raises(ValueError, match="a stream has no rows to share out"):
        fit_to_data(make_flow(), DataLoader(TensorDataset(*rows(41, 1)), batch_size=None), **FIT)
    assert not dist.is_initialized()
    dist.init_process_group("gloo")  # a group that is there already is used, and left
    flow = make_flow()
    fit_to_data(flow, rows(41, 1), validation=rows(21, 2), **FIT)
    results["given group"] = flow.state_dict()
    assert dist.is_initialized()
    dist.destroy_process_group()
    torch.save(results, folder / f"results{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of one process here, and of both under torchrun."""
    folder = tmp_path_factory.mktemp("two")
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    launched = subprocess.Popen(
        [*command, __file__, str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        alone = all_runs(tmp_path_factory.mktemp("one"), rank=0)
        output, _ = launched.communicate(timeout=300)
    finally:
        launched.kill()
        launched.communicate()
    assert launched.returncode == 0, output
    two = [torch.load(folder / f"results{r}.pt", weights_only=True) for r in (0, 1)]
    assert {f.name for f in folder.iterdir()} == {"results0.pt", "results1.pt", "run.pt"}
    return alone, *two


def assert_weights(a, b, tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["tensors", "loader", "resumed"])
def test_two_processes_train_like_one(results, name):
    (one, history), (first, first_history), (second, second_history) = (r[name] for r in results)
    assert_weights(first, one, 1e-10)
    assert_weights(second, first, 0.0)
    start = make_flow().state_dict()
    assert max((one[k] - start[k]).abs().max() for k in one if one[k].numel() and one[k].is_floating_point()) > 0.1
    assert first_history == second_history
    assert first_history["best_epoch"] == history["best_epoch"] and first_history["steps"] == history["steps"] == 20
    for key in ("train", "validation", "lr"):
        assert len(history[key]) == 4
        assert first_history[key] == pytest.approx(history[key], abs=1e-10)


def test_two_processes_resume_bit_for_bit(results):
    for r in results:
        straight, resumed = r["tensors"], r["resumed"]
        assert_weights(straight[0], resumed[0], 0.0)
        assert [straight[1][k] for k in ("train", "validation")] == [resumed[1][k] for k in ("train", "validation")]


def test_processes_draw_noise_of_their_own(results):
    _, first, second = (r["noise"] for r in results)
    assert torch.equal(first[0], second[0])  # the joint batch that ActNorm starts from
    assert not torch.isclose(first[1:], second[1:]).any()


def test_divergence_is_raised_on_every_process(results):
    assert len({r["step"] for r in results}) == 1
    for r in results:
        assert all(torch.isfinite(v).all() for v in r["after divergence"].values())


def test_a_process_group_that_is_there_is_used(results):
    alone, first, second = results
    for r in (first, second):
        assert_weights(r["given group"], alone["tensors"][0], 1e-10)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
