"""fit_to_data: what it reaches, what it leaves alone, how it fails and how it goes on after a crash."""

import builtins
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn
from torch.distributions import constraints
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from flowgroup import flows
from flowgroup.nn import MLP
from flowgroup.training import DivergenceError, History, fit_to_data

COVARIANCE = torch.tensor([[1.0, 0.8, 0.3], [0.8, 2.0, -0.4], [0.3, -0.4, 0.5]], dtype=torch.float64)


def gaussian(n, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    return (1.0 + z @ torch.linalg.cholesky(COVARIANCE).T).to(dtype)


def affine_flow(features=3, context=0, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    transform = flows.Autoregressive(flows.Affine(), features=features, context=context, hidden_features=(16,))
    return flows.Flow(transform, base=flows.DiagonalNormal(features)).to(dtype)


def dropout_flow(seed=0):
    torch.manual_seed(seed)
    layers = [
        flows.Coupling(flows.Affine(), 3, mask=mask, conditioner=MLP(kept, 2 * (3 - kept), (16,), dropout=0.2))
        for mask, kept in (("checkerboard", 2), ("checkerboard-flipped", 1))
    ]
    return flows.Flow(flows.Sequential(*layers), base=flows.DiagonalNormal(3, trainable=True))


def state(flow):
    return {k: v.clone() for k, v in flow.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def jitter(x):
    return x + 0.05 * torch.randn_like(x)


# What training reaches


def couplings():
    torch.manual_seed(0)
    masks = ("half", "half-flipped") * 2
    layers = [flows.Coupling(flows.Affine(), 3, mask=m, hidden_features=(32,)) for m in masks]
    return flows.Flow(flows.Sequential(*layers, flows.Elementwise(flows.Affine(), 3)), base=flows.DiagonalNormal(3))


@pytest.mark.parametrize("make", [affine_flow, couplings])
def test_reaches_the_entropy_of_a_correlated_gaussian(make):
    flow = make()
    dtype = next(flow.parameters()).dtype
    x, x_val, x_test = gaussian(8000, 1, dtype), gaussian(2000, 2, dtype), gaussian(20000, 3, dtype)
    true = torch.from_numpy(multivariate_normal([1.0, 1.0, 1.0], COVARIANCE.numpy()).logpdf(x_test.numpy()))
    assert (true - flow.log_prob(x_test)).mean() > 1.0  # Kullback-Leibler divergence before
    history = fit_to_data(flow, x, validation=x_val, epochs=15, lr=1e-2, batch_size=128, progress=False)
    assert -0.005 < (true - flow.log_prob(x_test)).mean() < 0.02
    assert abs(history.validation[history.best_epoch] + true.mean()) < 0.1


def test_learns_a_conditional_density():
    flow = affine_flow(features=1, context=2, dtype=torch.float32)
    torch.manual_seed(1)
    c = torch.randn(4000, 2)
    x = (c[:, :1] - 2.0 * c[:, 1:]) + 0.5 * torch.randn(4000, 1)
    fit_to_data(flow, (x, c), validation=(x[:500], c[:500]), epochs=15, lr=1e-2, batch_size=128, progress=False)
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25)
    assert abs(-flow.log_prob(x, c).mean() - entropy) < 0.05
    samples = flow.sample((4000,), context=torch.tensor([1.0, 1.0]))
    assert abs(samples.mean() + 1.0) < 0.1


# The steps, against a loop written out


@pytest.mark.parametrize("kind", ["loader", "pairs"])
def test_equals_a_loop_written_out(kind):
    context = 2 if kind == "pairs" else 0
    flow, other = affine_flow(context=context), affine_flow(context=context)
    x, c = gaussian(50, 1), gaussian(50, 2)[:, :2] if context else None
    tensors = (x,) if c is None else (x, c)
    loader = DataLoader(TensorDataset(*tensors), batch_size=16)
    history = fit_to_data(
        flow,
        loader,
        epochs=3,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        clip_grad_norm=0.7,
        progress=False,
    )
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    losses, lrs = [], []
    for _ in range(3):
        total = 0.0
        for rows in loader:
            loss = -other.log_prob(*rows).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(other.parameters(), 0.7)
            lrs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows[0])
        losses.append(total / 50)
    for a, b in zip(flow.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert history.train == pytest.approx(losses, rel=1e-12)
    assert history.lr == pytest.approx(lrs[3::4], rel=1e-9)
    assert history.steps == 12 and history.validation == [] and history.best_epoch is None


def test_constant_schedule_keeps_the_rate_and_default_is_adamw():
    flow, other = affine_flow(), affine_flow()
    x = gaussian(20, 1)
    fit = dict(epochs=5, batch_size=20, lr=0.03, weight_decay=0.1, clip_grad_norm=None, progress=False)
    history = fit_to_data(flow, x, schedule="constant", **fit)
    optimizer = torch.optim.AdamW(other.parameters(), lr=0.03, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (-other.log_prob(x).mean()).backward()
        optimizer.step()
    assert history.lr == [0.03] * 5
    for a, b in zip(flow.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_every_row_is_seen_once_an_epoch_in_changing_order():
    flow, seen = affine_flow(features=1, dtype=torch.float32), []
    x = torch.arange(10.0).unsqueeze(-1) / 10

    def watch(batch):
        seen.append(batch.flatten())
        return batch

    fit_to_data(flow, x, epochs=2, batch_size=4, augment=watch, progress=False)
    assert [len(s) for s in seen] == [4, 4, 2] * 2
    first, second = torch.cat(seen[:3]).tolist(), torch.cat(seen[3:]).tolist()
    assert sorted(first) == sorted(second) == x.flatten().tolist()
    assert first != second and first != x.flatten().tolist()


def test_takes_tensors_datasets_loaders_and_streams():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(gaussian(64, 1))

    x = gaussian(64, 1)
    kinds = [
        x,
        (x,),
        TensorDataset(x),
        DataLoader(x, batch_size=16),
        DataLoader(TensorDataset(x), batch_size=16, shuffle=True),
        DataLoader(Stream(), batch_size=16),
    ]
    for data in kinds:
        flow = affine_flow()
        history = fit_to_data(
            flow, data, validation=data, epochs=2, batch_size=16, lr=0.05, schedule="constant", progress=False
        )
        assert history.steps == 8
        assert history.validation[1] == pytest.approx(-flow.log_prob(x).mean().item(), rel=1e-9)
    with pytest.raises(ValueError, match="known length"):
        fit_to_data(affine_flow(), DataLoader(Stream(), batch_size=16), progress=False)


def test_dtype_is_the_modules_own_and_mode_is_eval_afterwards():
    flow = affine_flow(dtype=torch.float64)
    fit_to_data(flow, gaussian(32, 1, torch.float32), epochs=1, progress=False)
    assert {p.dtype for p in flow.parameters()} == {torch.float64}
    assert not flow.training and all(p.grad is None for p in flow.parameters())


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own
def test_compiled_training_gives_the_same_losses():
    losses = []
    for compile in (False, True):
        flow = flows.Flow(flows.Elementwise(flows.Affine(), 2), base=flows.DiagonalNormal(2))
        x = gaussian(64, 1, torch.float32)[:, :2]
        losses.append(fit_to_data(flow, x, epochs=3, batch_size=32, lr=0.1, compile=compile, progress=False).train)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < losses[0][0] - 0.1


def test_actnorm_starts_from_the_first_batch():
    flow = flows.Flow(flows.Sequential(flows.ActNorm(3)), base=flows.DiagonalNormal(3)).double()
    x = 100.0 + 7.0 * gaussian(64, 1)
    fit_to_data(
        flow, x, epochs=1, batch_size=64, optimizer=lambda p: torch.optim.SGD(p, lr=0.0), schedule="constant",
        progress=False,
    )  # fmt: skip
    y = flow.transform(x)[0]
    assert y.mean(0).abs().max() < 1e-9
    assert (y.std(0, correction=0) - 1).abs().max() < 0.02


# Validation


def test_stops_early_and_gives_back_the_best_weights():
    torch.manual_seed(0)
    flow = flows.Flow(
        flows.Autoregressive(flows.Affine(), features=3, hidden_features=(128, 128)), base=flows.DiagonalNormal(3)
    )
    x, x_val = gaussian(20, 1, torch.float32), gaussian(500, 2, torch.float32)
    history = fit_to_data(
        flow, x, validation=x_val, epochs=500, patience=7, lr=1e-2, schedule="constant", progress=False
    )
    assert len(history.train) == len(history.validation) == len(history.lr) == history.best_epoch + 8 < 500
    assert history.validation[history.best_epoch] == min(history.validation) < history.validation[-1] - 0.05
    assert -flow.log_prob(x_val).mean().item() == pytest.approx(min(history.validation), rel=1e-5)


def test_validation_is_neither_augmented_nor_under_dropout():
    flow, x = dropout_flow(), gaussian(40, 1, torch.float32)
    history = fit_to_data(flow, x, validation=x, epochs=1, augment=lambda x: x + 50.0, progress=False)
    assert history.validation[0] == pytest.approx(-flow.log_prob(x).mean().item(), rel=1e-6)
    assert history.train[0] > 100.0


# Randomness


def test_a_run_depends_on_its_seed_alone_and_leaves_the_global_generators():
    x, results = gaussian(100, 1, torch.float32), []
    for ambient, seed in ((1, 0), (2, 0), (1, 5)):
        flow = dropout_flow()
        torch.manual_seed(ambient)
        before = torch.get_rng_state()
        fit_to_data(flow, x, epochs=2, batch_size=32, augment=jitter, seed=seed, progress=False)
        assert torch.equal(before, torch.get_rng_state())
        results.append(state(flow))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


# Divergence


class NaNAfter(flows.Transform):
    """Gives NaN from its n-th training call on: in the value, or in the gradient only."""

    in_shape = out_shape = (3,)

    def __init__(self, calls, gradient=False):
        super().__init__()
        self.calls, self.gradient = calls, gradient

    def forward(self, x, context=None):
        bad = self.training and self.calls <= 0
        self.calls -= self.training
        if bad and self.gradient:
            return x, (x * 0).abs().sqrt().sum(-1)  # 0, with a slope of 0/0
        return x * math.nan if bad else x, x.new_zeros(x.shape[:-1])


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("good_steps", [0, 1, 6])
def test_divergence_names_the_step_and_keeps_the_last_good_weights(gradient, good_steps):
    x = gaussian(64, 1)
    layer = flows.Elementwise(flows.Affine(), 3)
    fit = dict(epochs=4, batch_size=16, lr=0.1, schedule="constant", clip_grad_norm=None, progress=False)
    bad = flows.Flow(flows.Sequential(layer, NaNAfter(good_steps, gradient)), base=flows.DiagonalNormal(3)).double()
    seen = []

    def watch(batch):
        seen.append(state(bad))
        return batch

    with pytest.raises(DivergenceError, match=f"epoch {good_steps // 4}, step {good_steps} of the run") as caught:
        fit_to_data(bad, x, augment=watch, **fit)
    assert (caught.value.epoch, caught.value.step) == (good_steps // 4, good_steps)
    assert ("gradient" in str(caught.value)) == gradient
    assert len(seen) == good_steps + 1
    assert same(state(bad), seen[max(good_steps - 1, 0)])  # of the last step that went well
    bad.transform.transforms[1].calls = 1
    assert torch.isfinite(bad.log_prob(x)).all()


def test_actnorm_starts_anew_after_a_divergence_in_the_first_step():
    x = 100.0 + 7.0 * gaussian(64, 1)
    flow = flows.Flow(flows.Sequential(flows.ActNorm(3), NaNAfter(1)), base=flows.DiagonalNormal(3)).double()
    before = state(flow)
    with pytest.raises(DivergenceError, match="epoch 0, step 0"):
        fit_to_data(flow, x, progress=False)
    assert same(state(flow), before)
    flow.transform[1].calls = 1000
    still = dict(optimizer=lambda p: torch.optim.SGD(p, lr=0.0), batch_size=64)
    fit_to_data(flow, x, epochs=1, progress=False, **still)
    assert flow.transform(x)[0].mean(0).abs().max() < 1e-9


def test_a_validation_loss_that_is_nan_is_a_divergence():
    class NaNInEval(NaNAfter):
        def forward(self, x, context=None):
            return x, x.new_full(x.shape[:-1], 0.0 if self.training else math.nan)

    x = gaussian(64, 1)
    layers = flows.Sequential(flows.Elementwise(flows.Affine(), 3), NaNInEval(0))
    flow = flows.Flow(layers, base=flows.DiagonalNormal(3)).double()
    with pytest.raises(DivergenceError, match="validation loss became nan at epoch 0, step 4"):
        fit_to_data(flow, x, validation=x, batch_size=16, progress=False)


def test_a_far_too_large_rate_diverges_and_leaves_the_best_weights():
    flow, x = affine_flow(dtype=torch.float32), gaussian(64, 1, torch.float32)
    rates = iter([1e-2] * 8 + [1e38] * 100)

    class Rates(torch.optim.SGD):
        def step(self, closure=None):
            self.param_groups[0]["lr"] = next(rates)
            return super().step(closure)

    with pytest.raises(DivergenceError):
        fit_to_data(
            flow, x, validation=x, epochs=9, batch_size=16, optimizer=lambda p: Rates(p, lr=1.0), progress=False
        )
    assert torch.isfinite(flow.log_prob(x)).all()
    assert -flow.log_prob(x).mean() < -affine_flow(dtype=torch.float32).log_prob(x).mean()


# Bad input


def bounded_flow():
    flow = affine_flow()
    flow.transform.domain = flow.transform.codomain = constraints.interval(-10.0, 10.0)
    return flow


def with_value(value):
    x = gaussian(64, 1)
    x[17, 1] = value
    return x


@pytest.mark.parametrize(
    "data, error, text",
    [
        (with_value(math.nan), ValueError, "x must be finite, got 1 NaN"),
        (with_value(math.inf), ValueError, "x must be finite, got 1 NaN or infinite"),
        (with_value(11.0), ValueError, "x must lie in"),
        (gaussian(64, 1)[:, :2], ValueError, "must have shape"),
        (gaussian(64, 1)[0], ValueError, "n > 0 rows"),
        (gaussian(64, 1)[:0], ValueError, "n > 0 rows"),
        ((gaussian(64, 1), gaussian(64, 1)), ValueError, "context was given"),
        (gaussian(64, 1).long(), TypeError, "floating-point"),
        (gaussian(64, 1).numpy(), TypeError, "got ndarray"),
        ((gaussian(64, 1), "c"), TypeError, "got Tensor, str"),
        (TensorDataset(*[gaussian(64, 1)] * 3), TypeError, "got Tensor, Tensor, Tensor"),
        (DataLoader(with_value(math.nan), batch_size=64), ValueError, "x must be finite"),
    ],
)
@pytest.mark.parametrize("name", ["data", "validation"])
def test_bad_data_is_refused_before_anything_moves(data, error, text, name):
    flow, good = bounded_flow(), gaussian(64, 1)
    before = state(flow)
    given = {"data": good, "validation": None, name: data}
    with pytest.raises(error, match=f"{name}.*{text}"):
        fit_to_data(flow, **given, epochs=2, progress=False)
    if name == "data" or not isinstance(data, TensorDataset | DataLoader):
        assert same(before, state(flow))


def test_a_missing_or_short_context_is_refused():
    flow = affine_flow(context=2)
    for data, text in (
        (gaussian(9, 1), "context is missing"),
        ((gaussian(9, 1), gaussian(8, 2)[:, :2]), "each of the 9"),
    ):
        with pytest.raises(ValueError, match=text):
            fit_to_data(flow, data, progress=False)


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        (dict(epochs=0), ValueError, "epochs must be a positive integer, got 0"),
        (dict(batch_size=-1), ValueError, "batch_size"),
        (dict(checkpoint_every=0), ValueError, "checkpoint_every"),
        (dict(schedule="step"), ValueError, r"schedule must be one of \['constant', 'cosine'\], got 'step'"),
        (dict(patience=3), ValueError, "patience needs validation"),
        (dict(clip_grad_norm=0.0), ValueError, "clip_grad_norm"),
        (dict(seed=-1), ValueError, "seed"),
        (dict(optimizer=lambda p: p), TypeError, "optimizer must give"),
        (dict(augment=3), TypeError, "augment must be callable"),
        (dict(augment=lambda x: x[1:]), ValueError, "augment must give x with 20 rows"),
        (dict(augment=lambda x: (x, x)), ValueError, "augment must give x with"),
        (dict(flow=nn.Linear(3, 3)), TypeError, "flow must be"),
        (dict(flow=affine_flow().requires_grad_(False)), ValueError, "no trainable parameters"),
        (
            dict(data=DataLoader(gaussian(9, 1), sampler=DistributedSampler(range(9), 2, 0))),
            ValueError,
            "DistributedSampler",
        ),
    ],
)
def test_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        fit_to_data(**{"flow": affine_flow(), "data": gaussian(20, 1), "progress": False} | arguments)


# Checkpoints


def loader_of(kind, x):
    if kind == "tensor":
        return x
    if kind == "loader":
        return DataLoader(TensorDataset(x), batch_size=32, shuffle=True)
    return DataLoader(TensorDataset(x), batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(7))


class CrashError(Exception):
    pass


@pytest.mark.parametrize("kind", ["tensor", "loader", "generator"])
def test_an_interrupted_run_resumes_bit_for_bit(kind, tmp_path):
    x, x_val = gaussian(100, 1, torch.float32), gaussian(50, 2, torch.float32)
    fit = dict(validation=x_val, epochs=6, batch_size=32, lr=3e-2, progress=False)
    straight = dropout_flow()
    expected = fit_to_data(straight, loader_of(kind, x), augment=jitter, **fit)

    calls = []

    def crash(batch):
        calls.append(None)
        if len(calls) == 4 * 3 + 2:
            raise CrashError
        return jitter(batch)

    fit["checkpoint"] = tmp_path / "deep" / "run.pt"
    broken = dropout_flow(seed=1)
    broken.load_state_dict(dropout_flow().state_dict())
    with pytest.raises(CrashError):
        fit_to_data(broken, loader_of(kind, x), augment=crash, **fit)
    assert not same(state(broken), state(straight))

    resumed = dropout_flow(seed=2)
    calls = list(range(100))
    history = fit_to_data(resumed, loader_of(kind, x), augment=crash, **fit)
    assert len(calls) == 100 + 4 * 3  # epochs 3, 4, 5
    assert same(state(resumed), state(straight))
    assert (history.train, history.validation, history.lr) == (expected.train, expected.validation, expected.lr)
    assert (history.best_epoch, history.steps) == (expected.best_epoch, expected.steps)

    again = dropout_flow(seed=3)  # a finished run is only read
    assert repr(fit_to_data(again, loader_of(kind, x), augment=crash, **fit)) == repr(history)
    assert len(calls) == 100 + 4 * 3 and same(state(again), state(straight))
    assert os.listdir(tmp_path / "deep") == ["run.pt"]


def slow_jitter(x):
    time.sleep(0.1)
    return jitter(x)


def long_run(checkpoint, augment=jitter):
    """Six epochs of four steps; gives the weights."""
    flow = dropout_flow()
    x = gaussian(100, 1, torch.float32)
    fit_to_data(flow, x, epochs=6, batch_size=32, lr=3e-2, augment=augment, checkpoint=checkpoint, progress=False)
    return state(flow)


def test_a_killed_process_resumes_bit_for_bit(tmp_path):
    checkpoint = tmp_path / "run.pt"
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]}
import torch
torch.set_num_threads({torch.get_num_threads()})
from test_training import long_run, slow_jitter
long_run({str(checkpoint)!r}, slow_jitter)
"""
    victim = subprocess.Popen([sys.executable, "-c", script])
    while not checkpoint.exists() and victim.poll() is None:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert 1 <= len(torch.load(checkpoint, weights_only=True)["history"]["train"]) < 6
    assert same(long_run(checkpoint), long_run(None))


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path, x = tmp_path / "run.pt", gaussian(20, 1)
    fit = dict(schedule="constant", checkpoint=path, progress=False)
    fit_to_data(affine_flow(), x, epochs=1, **fit)
    before = path.read_bytes()

    def full(content, file):
        file.write(b"half of it")
        raise OSError("disk full")

    with monkeypatch.context() as m:
        m.setattr(torch, "save", full)
        with pytest.raises(OSError, match="disk full"):
            fit_to_data(affine_flow(), x, epochs=2, **fit)
    assert path.read_bytes() == before
    assert len(fit_to_data(affine_flow(), x, epochs=3, **fit).train) == 3  # constant rate: may go on for longer


def test_checkpoints_every_few_epochs_and_at_the_end(tmp_path):
    path, x, written = tmp_path / "run.pt", gaussian(20, 1), []

    def watch(batch):
        written.append(len(torch.load(path, weights_only=True)["history"]["train"]) if path.exists() else 0)
        return batch

    fit_to_data(affine_flow(), x, epochs=7, checkpoint=path, checkpoint_every=3, augment=watch, progress=False)
    assert written == [0, 0, 0, 3, 3, 3, 6]
    assert len(torch.load(path, weights_only=True)["history"]["train"]) == 7


def test_a_run_that_stopped_early_is_saved_as_such(tmp_path):
    path, x = tmp_path / "run.pt", gaussian(20, 1)
    fit = dict(validation=x, checkpoint=path, checkpoint_every=100, progress=False)
    still = dict(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    history = fit_to_data(affine_flow(), x, epochs=50, patience=2, **fit, **still)
    assert len(history.train) == 3 and history.best_epoch == 0
    assert repr(fit_to_data(affine_flow(), x, epochs=50, patience=2, **fit, **still)) == repr(history)


@pytest.mark.parametrize(
    "change, text",
    [
        (dict(batch_size=10), "batch_size=5 then, batch_size=10 now"),
        (dict(epochs=4), "steps=8 then, steps=16 now"),
        (dict(lr=0.5), r"lr=\[0.001\] then, lr=\[0.5\] now"),
        (dict(seed=1), "seed=0 then, seed=1 now"),
        (dict(schedule="constant"), "schedule='cosine' then"),
        (dict(flow=affine_flow(dtype=torch.float32)), "flow='6 tensors"),
        (dict(data=gaussian(30, 1)), "steps_per_epoch=4 then, steps_per_epoch=6 now"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(change, text, tmp_path):
    path = tmp_path / "run.pt"
    run = dict(data=gaussian(20, 1), epochs=2, batch_size=5, checkpoint=path, progress=False)
    fit_to_data(affine_flow(), **run)
    with pytest.raises(ValueError, match=text):
        fit_to_data(**{"flow": affine_flow()} | run | change)
    anew = fit_to_data(**{"flow": affine_flow()} | run | change, resume=False)
    assert len(anew.train) == change.get("epochs", 2)


def test_a_file_that_is_no_checkpoint_is_refused_and_never_unpickled(tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        fit_to_data(affine_flow(), gaussian(20, 1), checkpoint=path, progress=False)
    torch.save({"settings": Path("anything that needs unpickling")}, path)
    with pytest.raises(ValueError, match="cannot be read"):
        fit_to_data(affine_flow(), gaussian(20, 1), checkpoint=path, progress=False)


# What is shown


def test_progress_bar_shows_the_losses(capsys):
    x = gaussian(20, 1)
    history = fit_to_data(affine_flow(), x, validation=x, epochs=3, batch_size=10)
    shown = capsys.readouterr().err
    assert "6/6" in shown and f"validation {history.validation[-1]:.4f}" in shown


def without(name, monkeypatch):
    real = builtins.__import__

    def missing(module, *args, **kwargs):
        if module.split(".")[0] == name:
            raise ImportError(name)
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)


def test_training_goes_on_without_tqdm(monkeypatch):
    without("tqdm", monkeypatch)
    with pytest.warns(UserWarning, match=r"flowgroup\[train\]"):
        assert len(fit_to_data(affine_flow(), gaussian(20, 1), epochs=2).train) == 2


def test_history_plots(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    history = History(train=[3.0, 2.0, 1.9], validation=[3.1, 2.2, 2.3], lr=[1e-3] * 3, best_epoch=1, steps=30)
    ax = history.plot()
    assert [list(line.get_ydata()) for line in ax.lines] == [[3.0, 2.0, 1.9], [3.1, 2.2, 2.3], [2.2]]
    assert history.plot(ax=ax) is ax
    ax.figure.canvas.draw()
    matplotlib.pyplot.close("all")
    without("matplotlib", monkeypatch)
    with pytest.raises(ImportError, match=r"flowgroup\[train\]"):
        history.plot()


def test_history_prints():
    assert repr(History()) == "History(0 epochs, 0 steps, 0.0 s: no epoch yet)"
    history = History(train=[3.0], validation=[3.25], best_epoch=0, steps=7, seconds=1.25)
    assert repr(history) == "History(1 epochs, 7 steps, 1.2 s: train 3.0000, validation 3.2500, best 3.2500 at epoch 0)"
