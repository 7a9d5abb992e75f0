"""Classify covariance matrices by SPDNet: without normalization, with Riemannian batch norm, with LieBN.

    python examples/spd_classification.py            # images of digits, less than half a minute
    python examples/spd_classification.py --quick    # a few seconds, to see that everything works
    python examples/spd_classification.py --data FILE.npz --sizes 20 10 --lr 0.003 0.01 0.03

Without --data the matrices are covariances of seven features over the pixels of scikit-learn's 1797 images of
handwritten digits. FILE.npz, as numpy.savez writes it, holds

    covariances (N, n, n), or cov_triu (N, n(n+1)/2), their upper triangles row by row, or signals x
        (N, channels, samples); each of them also with a dimension of subjects in front
    y, or label: the classes (N,), or (subjects, N)
    subject (N,), if wanted: every subject gets a network of its own
    split (N,), if wanted: 0 to train on, 1 to choose a learning rate by, 2 to test on
    session (N,), if wanted and there is no split: the last one is to test on, the one before it to choose by

Without split and session, a fifth of the rows is drawn to test on and a fifth to choose by; with a split that has
nothing to choose by, a fifth of the rows to train on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

from flowgroup.manifolds import SPD
from flowgroup.nn import CovariancePooling, LieBN, SPDNet

# ---------------------------------------------------------------------------------------------------------------- data


class Rows(NamedTuple):
    """Covariance matrices (N, n, n) and their classes (N,)."""

    X: Tensor
    y: Tensor


class Task(NamedTuple):
    """What to train on, what to choose the learning rate by, and what to test on."""

    train: Rows
    validation: Rows
    test: Rows


def digits() -> list[Task]:
    """Region covariances of images of 8×8 pixels."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32) / 16
    return [task(region_covariances(images), torch.tensor(data.target))]


def region_covariances(images: Tensor) -> Tensor:
    """Covariance (N, 7, 7) of row, column, level, slopes and curvatures over the pixels of images (N, 8, 8)."""
    row, column = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8), indexing="ij")
    row, column = row.expand_as(images), column.expand_as(images)
    down, right = torch.gradient(images, dim=(1, 2))
    features = row, column, images, down, right, torch.gradient(down, dim=1)[0], torch.gradient(right, dim=2)[0]
    return CovariancePooling(shrinkage=1e-3)(torch.stack(features, 1).flatten(2))


def from_file(path: Path, sampling: float = 1.0, bands: Sequence[float] = (), unit: bool = True) -> list[Task]:
    """The tasks of a file, one for each subject; its signals pass a filter bank, if there are bands.

    With `unit`, matrices are divided by one factor for all, which makes their mean log-determinant zero: units do not
    matter then.

    Raises:
        ValueError: something is missing, of the wrong shape, or not positive definite.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}

    def one_of(*names: str) -> tuple[str, np.ndarray]:
        for name in names:
            if name in arrays:
                return name, arrays[name]
        raise ValueError(f"{path} must hold {' or '.join(names)}, got {', '.join(arrays) or 'nothing'}")

    kind, X = one_of("covariances", "cov_triu", "x")
    y = one_of("y", "label")[1]
    event = X.shape[y.ndim :]
    if y.ndim not in (1, 2) or X.shape[: y.ndim] != y.shape or len(event) != (1 if kind == "cov_triu" else 2):
        raise ValueError(f"{path}: {kind} {X.shape} and classes {y.shape} do not fit each other")

    def column(name: str) -> Tensor | None:
        if name not in arrays:
            return None
        if arrays[name].shape not in (y.shape, y.shape[-1:]):
            raise ValueError(
                f"{path}: {name} must hold a number for each row, {y.shape[-1:]}, got {arrays[name].shape}"
            )
        return torch.as_tensor(np.broadcast_to(arrays[name], y.shape).astype(np.int64)).flatten()

    split, session = column("split"), column("session")
    if split is None and session is not None:
        split = (2 - (session.max() - session)).clamp(min=0)
    if split is not None and not set(split.tolist()) <= {0, 1, 2}:
        raise ValueError(f"{path}: split must hold 0, 1 and 2, got {sorted(set(split.tolist()))}")
    if y.ndim == 2:
        subject = torch.arange(len(y)).repeat_interleave(y.shape[1])
    else:
        subject = column("subject") if "subject" in arrays else torch.zeros(len(y), dtype=torch.long)

    X = torch.as_tensor(X.reshape(-1, *event), dtype=torch.float32)
    if kind == "x":
        X = CovariancePooling(shrinkage=1e-3)(filter_bank(X, sampling, bands) if bands else X)
    elif kind == "cov_triu":
        X = from_triangles(X)
    why = SPD(X.shape[-1]).why_not(X)
    if why is not None:
        raise ValueError(f"{path}: {kind} must be positive definite, but {why}")
    if unit:
        X = X * (-torch.linalg.slogdet(X.double()).logabsdet.mean() / X.shape[-1]).exp().float()
    y = torch.as_tensor(np.unique(y, return_inverse=True)[1]).flatten()
    return [
        task(X[own], y[own], None if split is None else split[own]) for own in (subject == s for s in subject.unique())
    ]


def from_triangles(rows: Tensor) -> Tensor:
    """Symmetric matrices (N, n, n) from their upper triangles (N, n(n+1)/2), row by row."""
    n = int((2 * rows.shape[-1]) ** 0.5)
    if n * (n + 1) // 2 != rows.shape[-1]:
        raise ValueError(f"cov_triu must have n(n+1)/2 columns for a whole number n, got {rows.shape[-1]}")
    X = rows.new_zeros(len(rows), n, n)
    i, j = torch.triu_indices(n, n)
    X[:, i, j] = X[:, j, i] = rows
    return X


def filter_bank(x: Tensor, sampling: float, bands: Sequence[float], width: float = 0.6) -> Tensor:
    """Signals (N, bands·channels, samples) that hold the frequencies near f and 2f for each f of `bands` in Hz.

    The gain is Gaussian; `width` is its standard deviation in Hz, `sampling` the number of samples in a second.
    """
    n = 4 * x.shape[-1]  # zeros behind, so that the ends do not meet
    spectrum = torch.fft.rfft(x - x.mean(-1, keepdim=True), n)
    f = torch.fft.rfftfreq(n, 1 / sampling)
    centres = torch.tensor(bands)[:, None]
    gain = sum(torch.exp(-0.5 * ((f - k * centres) / width) ** 2) for k in (1, 2))
    filtered = torch.fft.irfft(spectrum.unsqueeze(1) * gain.unsqueeze(1), n)[..., : x.shape[-1]]
    return filtered.flatten(1, 2)


def task(X: Tensor, y: Tensor, split: Tensor | None = None) -> Task:
    """Rows parted by `split`, at random where it does not say."""
    fold = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)) % 5
    if split is None:
        split = (fold - 2).clamp(min=0)
    elif not (split == 1).any():
        split = torch.where((split == 0) & (fold == 0), 1, split)
    if not all((split == k).any() for k in range(3)):
        raise ValueError(
            f"there must be rows to train, to choose and to test, got {split.bincount(minlength=3).tolist()}"
        )
    return Task(*(Rows(X[split == k], y[split == k]) for k in range(3)))


# ------------------------------------------------------------------------------------------------------------- methods


def normalization(metric: str, theta: float = 1.0, **options) -> Callable[[int], nn.Module]:
    """LieBN for matrices of size n, for any optimizer; what it takes has been checked already."""
    return lambda n: LieBN(SPD(n, metric, theta), parametrization="exp", validate_args=False, **options)


METHODS: dict[str, Callable[[int], nn.Module] | None] = {
    "no normalization": None,
    "Riemannian BN (Brooks et al.)": normalization("affine-invariant", variance=False),
    "LieBN, affine-invariant": normalization("affine-invariant"),
    "LieBN, affine-invariant, θ = ½": normalization("affine-invariant", theta=0.5),
    "LieBN, log-Euclidean": normalization("log-euclidean"),
    "LieBN, log-Cholesky": normalization("log-cholesky"),
    "LieBN, log-Cholesky, θ = ½": normalization("log-cholesky", theta=0.5),
}


# ------------------------------------------------------------------------------------------------------------ training


@dataclass
class Scores:
    """Of one method: the learning rate, accuracy by seed, and mean loss and seconds by epoch of every run."""

    lr: float
    accuracy: list[float] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def train(net: nn.Module, rows: Rows, epochs: int, batch_size: int, lr: float) -> tuple[list[float], list[float]]:
    """Adam with a cosine schedule; mean loss and seconds of each epoch."""
    steps = max(1, len(rows.y) // batch_size)
    optimizer = torch.optim.Adam(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    losses, seconds = [], []
    for _ in range(epochs):
        start, total = time.perf_counter(), 0.0
        for batch in torch.randperm(len(rows.y)).tensor_split(steps):
            loss = F.cross_entropy(net(rows.X[batch]), rows.y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch) / len(rows.y)
        losses.append(total)
        seconds.append(time.perf_counter() - start)
    return losses, seconds


@torch.no_grad()
def accuracy(net: nn.Module, rows: Rows) -> float:
    """In per cent."""
    net.eval()
    return 100 * (net(rows.X).argmax(-1) == rows.y).float().mean().item()


def run(
    tasks: list[Task], norm, sizes: Sequence[int], epochs: int, batch_size: int, lr: float, seed: int
) -> tuple[float, float, list[float], float]:
    """Accuracy on validation and test rows, losses, and seconds an epoch: means over tasks, a network for each."""
    validation, test, losses, seconds = [], [], [], []
    for t in tasks:
        torch.manual_seed(seed)
        classes = 1 + max(int(rows.y.max()) for rows in t)
        net = SPDNet((t.train.X.shape[-1], *sizes), classes, norm, parametrization="qr", validate_args=False)
        loss, spent = train(net, t.train, epochs, batch_size, lr)
        losses.append(loss)
        seconds.append(statistics.median(spent))
        validation.append(accuracy(net, t.validation))
        test.append(accuracy(net, t.test))
    mean = [statistics.fmean(column) for column in zip(*losses)]
    return statistics.fmean(validation), statistics.fmean(test), mean, statistics.fmean(seconds)


def compare(
    tasks: list[Task], sizes: Sequence[int], seeds: int, epochs: int, batch_size: int, lrs: Sequence[float]
) -> dict[str, Scores]:
    """Every method with the same budget; of several learning rates, the best of seed 0 on the validation rows."""
    scores = {}
    for name, norm in METHODS.items():
        first = {lr: run(tasks, norm, sizes, epochs, batch_size, lr, seed=0) for lr in lrs}
        lr = max(first, key=lambda rate: first[rate][0])
        scores[name] = s = Scores(lr)
        for seed in range(seeds):
            _, test, losses, seconds = run(tasks, norm, sizes, epochs, batch_size, lr, seed) if seed else first[lr]
            s.accuracy.append(test)
            s.losses.append(losses)
            s.seconds.append(seconds)
        print(f"{name}: {', '.join(f'{a:.1f}' for a in s.accuracy)} % (learning rate {lr:g})", flush=True)
    return scores


# ------------------------------------------------------------------------------------------------- table and picture


def table(scores: dict[str, Scores]) -> str:
    """Accuracy ± standard deviation over seeds, and seconds an epoch."""
    lines = ["| method | accuracy, % | seconds an epoch |", "|---|---:|---:|"]
    for name, s in scores.items():
        deviation = f" ± {statistics.stdev(s.accuracy):.1f}" if len(s.accuracy) > 1 else ""
        lines.append(f"| {name} | {statistics.fmean(s.accuracy):.1f}{deviation} | {min(s.seconds):.3f} |")
    return "\n".join(lines)


def picture(path: Path, rows: Rows, scores: dict[str, Scores]) -> None:
    """A matrix of each class; the loss in training and the accuracy of every seed."""
    figure = Figure(figsize=(10, 6), dpi=120, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 2.4))
    classes = rows.y.unique()[:10]
    shown = torch.stack([rows.X[rows.y == k][0] for k in classes])
    shown = (
        shown / shown.diagonal(dim1=1, dim2=2).sqrt().unsqueeze(1) / shown.diagonal(dim1=1, dim2=2).sqrt().unsqueeze(2)
    )
    for ax, matrix, k in zip(above.subplots(1, len(classes)), shown, classes):
        ax.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set(title=f"class {k}", xticks=(), yticks=())
    above.suptitle("one covariance matrix of each class, as correlations", fontsize=10)

    left, right = below.subplots(1, 2)
    for i, s in enumerate(scores.values()):
        loss = torch.tensor(s.losses).mean(0)
        left.plot(range(1, len(loss) + 1), loss.numpy(), color=f"C{i}")
        right.plot(s.accuracy, [i] * len(s.accuracy), "o", color=f"C{i}", alpha=0.6)
        right.plot(statistics.fmean(s.accuracy), i, "|", color="black", markersize=16)
    left.set(xlabel="epoch", ylabel="cross-entropy in training (nats)", yscale="log")
    right.set(xlabel="accuracy on test rows by seed, and mean (%)", yticks=range(len(scores)), yticklabels=scores)
    right.invert_yaxis()
    right.grid(axis="x", alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> dict[str, Scores]:
    """Run it all; what every method reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="covariances or signals of your own; see above")
    parser.add_argument(
        "--bands", type=float, nargs="+", default=(), help="of signals: frequencies of a filter bank, Hz"
    )
    parser.add_argument("--sampling", type=float, default=1.0, help="of signals: samples in a second (default: 1)")
    parser.add_argument("--sizes", type=int, nargs="+", default=(6,), help="of matrices after each BiMap (default: 6)")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default: 3)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training data (default: 8)")
    parser.add_argument("--batch", type=int, default=64, help="rows of a batch (default: 64)")
    parser.add_argument("--lr", type=float, nargs="+", default=(0.1,), help="learning rates, to choose (default: 0.1)")
    parser.add_argument("--output", type=Path, default=Path("output/spd_classification.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="two seeds, three epochs")
    options = parser.parse_args(arguments)
    seeds, epochs = (2, 3) if options.quick else (options.seeds, options.epochs)

    tasks = digits() if options.data is None else from_file(options.data, options.sampling, options.bands)
    train, validation, test = (sum(len(rows.y) for rows in part) for part in zip(*tasks))
    n = tasks[0].train.X.shape[-1]
    print(f"{train} matrices {n}×{n} to train on, {validation} to choose by, {test} to test on, {len(tasks)} task(s)")
    scores = compare(tasks, options.sizes, seeds, epochs, options.batch, options.lr)
    print(f"\nAccuracy on test rows, mean ± standard deviation over {seeds} seeds\n")
    print(table(scores))
    picture(options.output, tasks[0].train, scores)
    print(f"\nLosses and accuracies: {options.output}")
    return scores


if __name__ == "__main__":
    torch.set_num_threads(1)  # the matrices are small: a second thread is no gain
    main()
