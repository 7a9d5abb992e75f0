"""ActNorm: what it learns from its first batch, and when. The laws are tested elsewhere."""

import copy
import io
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from flowgroup import flows


def batch(*shape, dtype=torch.float32):
    return 3 * torch.randn(*shape, dtype=dtype) - 7


def test_first_batch_comes_out_standardized(dtype):
    x = batch(50, 4, 3, dtype=dtype) * torch.tensor([1.0, 1e-4, 1e5], dtype=dtype)
    t = flows.ActNorm(3).to(dtype)
    y, logdet = t(x)
    rows = y.detach().double().flatten(0, 1)
    eps = torch.finfo(dtype).eps
    assert (rows.mean(0).abs() < 20 * eps).all()
    assert ((rows.std(0, correction=0) - 1).abs() < 20 * eps).all()
    expected = -x.double().flatten(0, 1).std(0, correction=0).log().sum()
    torch.testing.assert_close(logdet.double(), expected.expand(50, 4), rtol=1e-6, atol=1e-6)


def test_offset_much_larger_than_the_spread():
    x = torch.randn(4000, 1) + 1e4
    y, _ = flows.ActNorm(1)(x)
    exact = x.double().std(0, correction=0)
    assert y.std(0, correction=0).item() == pytest.approx(1, abs=1e-5)
    assert abs(y.mean().item()) < 1e-3 / exact.item()


def test_image_statistics_are_those_of_channels():
    x = batch(8, 3, 5, 6)
    t = flows.ActNorm(3, event_dim=3)
    y, logdet = t(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(3))
    torch.testing.assert_close(logdet, (t.log_scale.sum() * 30).expand(8))


def test_only_the_first_batch_counts():
    t = flows.ActNorm(2)
    t(batch(20, 2))
    before = copy.deepcopy(t.state_dict())
    t(100 * batch(20, 2))
    assert all(torch.equal(v, before[k]) for k, v in t.state_dict().items())


def test_identity_until_then():
    t = flows.ActNorm(2)
    x = batch(20, 2)
    for f in (t.inverse, t.inv, t.eval()):
        y, logdet = f(x)
        assert torch.equal(y, x) and (logdet == 0).all()
    assert not t.initialized
    t.train()(x)
    assert t.initialized


def test_empty_batch_is_passed_over():
    t = flows.ActNorm(2)
    assert t(torch.empty(0, 2))[0].shape == (0, 2) and not t.initialized


@pytest.mark.parametrize("value", [0.0, 0.1, -1e5, 1e-30])
def test_constant_features_are_centred(value, dtype):
    x = batch(1000, 2, dtype=dtype)
    x[:, 1] = value
    t = flows.ActNorm(2).to(dtype)
    y, logdet = t(x)
    assert t.log_scale[1] == 0 and (y[:, 1].abs() <= 1e-6 * abs(value)).all() and torch.isfinite(logdet).all()


def test_single_event_sets_nothing():
    t, x = flows.ActNorm(3), batch(3)
    y, logdet = t(x)
    assert torch.equal(y, x) and logdet == 0 and not t.initialized
    t(batch(10, 3))
    assert t.initialized


def test_functional_call_sets_the_tensors_it_is_given():
    t, x = flows.ActNorm(3), batch(10, 3)
    given = {k: v.clone() for k, v in t.state_dict().items()}
    torch.func.functional_call(t, given, (x,))
    assert given["initialized"] and not t.initialized
    assert t(x)[0].mean(0).abs().max() < 1e-5 and t.initialized


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_first_batch_sets_nothing(value):
    t = flows.ActNorm(2)
    x = batch(10, 2)
    x[3, 1] = value
    with pytest.raises(ValueError, match="x must be finite"):
        t(x)
    assert not t.initialized and (t.shift == 0).all() and (t.log_scale == 0).all()
    y, _ = t(batch(10, 2))
    assert torch.isfinite(y).all() and t.initialized


def test_loaded_statistics_are_kept():
    t, fresh = flows.ActNorm(2), flows.ActNorm(2)
    t(batch(20, 2))
    file = io.BytesIO()
    torch.save(t.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    x = 100 * batch(20, 2)
    assert torch.equal(fresh(x)[0], t(x)[0])


def test_loading_an_unstarted_state_starts_anew():
    start = copy.deepcopy(flows.ActNorm(2).state_dict())
    t = flows.ActNorm(2)
    t(batch(20, 2))
    t.load_state_dict(start)
    y, _ = t(100 * batch(20, 2))
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(2))


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
def test_copies_remember(twin):
    t = flows.ActNorm(2)
    t(batch(20, 2))
    x = 100 * batch(20, 2)
    assert torch.equal(twin(t)(x)[0], t(x)[0])


def test_traced_calls_leave_it_unstarted():
    t = flows.ActNorm(2)
    x = batch(20, 2)
    assert torch.equal(torch.func.vmap(lambda x: t(x)[0])(x), x)
    assert torch.equal(torch.compile(t, fullgraph=True, backend="eager")(x)[0], x)
    assert not t.initialized
    y, _ = t(x)
    torch.testing.assert_close(torch.compile(t, fullgraph=True, backend="eager")(x)[0], y)


def test_start_leaves_gradients_usable():
    t = flows.ActNorm(2)
    x = batch(20, 2).requires_grad_()
    y, logdet = t(x)
    (y.square().sum() + logdet.sum()).backward()
    assert all(torch.isfinite(g).all() for g in (x.grad, t.shift.grad, t.log_scale.grad))
    assert t.shift.requires_grad and t.shift.is_leaf


@pytest.mark.parametrize("event_dim", [0, 2])
def test_bad_event_dim_is_named(event_dim):
    with pytest.raises(ValueError, match="event_dim"):
        flows.ActNorm(2, event_dim)


def joint_batch():
    return batch(30, 2, dtype=torch.float64)


def one_process(rank, store, result):
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    t = flows.ActNorm(2).double()
    t(joint_batch()[:10] if rank == 0 else joint_batch()[10:])
    torch.save(t.state_dict(), f"{result}.{rank}")
    dist.destroy_process_group()


def test_processes_share_their_statistics(tmp_path):
    mp.spawn(one_process, (tmp_path / "store", tmp_path / "result"), nprocs=2)
    torch.manual_seed(0)
    t = flows.ActNorm(2).double()
    t(joint_batch())
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"result.{rank}", weights_only=True).items():
            torch.testing.assert_close(value, t.state_dict()[name])
