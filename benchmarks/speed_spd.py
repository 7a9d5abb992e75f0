"""Time of SPD matrix functions, LieBN and Karcher means beside spd_learn and pyriemann, on the same work, in one run.

Forward and backward passes at the sizes 3 (batch 4096), 8 (1024), 20 (512) and 51 (128), float32 and float64. Every
library is measured in turn within each round, and the quickest round counts. spd_learn takes the statistics of a batch
to be constants in the backward pass, ours are differentiated: ours does more work in the rows of LieBN. Its checks of
values are on (`validate_args=True`) in the column "checked" alone.

    python benchmarks/speed_spd.py [--compile] [--threads 2] [--device cuda]
"""

import argparse
import gc
import time
import warnings
from importlib.metadata import PackageNotFoundError, version

import torch
from _tables import header, table

from flowgroup import linalg
from flowgroup import nn as fnn
from flowgroup.manifolds import SPD

SIZES = {3: 4096, 8: 1024, 20: 512, 51: 128}
METRICS = {"affine-invariant": "AIM", "log-euclidean": "LEM", "log-cholesky": "LCM"}


def covariances(n, batch, dtype, device):
    x = torch.randn(batch, n, 2 * n, dtype=torch.float64)
    return (x @ x.mT / (2 * n) + 0.05 * torch.eye(n)).to(dtype).to(device)


def quickest(functions, rounds, synchronize):
    """Milliseconds of the quickest call of each function: in every round each is called twice, the second timed.

    The first call brings memory and threads to where they are in a loop of training steps.
    """
    times = dict.fromkeys(functions, float("inf"))
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for name, f in functions.items():
            f()
            synchronize()
            start = time.perf_counter()
            f()
            synchronize()
            times[name] = min(times[name], 1000 * (time.perf_counter() - start))
    gc.enable()
    return times


def with_gradient(f, x, *more):
    """One forward and one backward pass of f with a fixed cotangent."""
    x = x.clone().requires_grad_()
    cotangent = torch.randn_like(x)

    def run():
        for leaf in (x, *more):
            leaf.grad = None
        f(x).backward(cotangent)

    return run


def measure_functions(args, synchronize):
    import pyriemann.geometry.base as pyriemann
    from spd_learn import functional as spd_learn

    cases = {
        "log": (linalg.logm, spd_learn.matrix_log.apply, pyriemann.logm),
        "exp": (linalg.expm, spd_learn.matrix_exp.apply, pyriemann.expm),
        "square root": (linalg.sqrtm, spd_learn.matrix_sqrt.apply, pyriemann.sqrtm),
        "inverse square root": (linalg.invsqrtm, spd_learn.matrix_inv_sqrt.apply, pyriemann.invsqrtm),
        "power 0.3": (
            lambda x: linalg.powm(x, 0.3),
            lambda x: spd_learn.matrix_power.apply(x, 0.3),
            lambda x: pyriemann.powm(x, 0.3),
        ),
    }
    rows = []
    for n, dtype in settings(args):
        x = covariances(n, SIZES[n], dtype, args.device)
        for name, (ours, theirs, numpy_like) in cases.items():
            functions = {"flowgroup": with_gradient(ours, x), "spd_learn": with_gradient(theirs, x)}
            if args.compile:
                torch._dynamo.reset()
                functions["compiled"] = with_gradient(torch.compile(ours, fullgraph=True, dynamic=False), x)
            functions["pyriemann"] = with_gradient(numpy_like, x)
            times = quickest(functions, args.rounds, synchronize)
            rows.append([name, *row(n, dtype, times, args)])
    report("Matrix functions, forward and backward, ms", ["function"], rows, args)


def measure_lie_bn(args, synchronize):
    from spd_learn.modules import SPDBatchNormLie

    rows = []
    for n, dtype in settings(args):
        x = covariances(n, SIZES[n], dtype, args.device)
        for metric, short in METRICS.items():
            like = {"dtype": dtype, "device": args.device}
            ours = fnn.LieBN(SPD(n, metric), validate_args=False, **like)
            checked = fnn.LieBN(SPD(n, metric), **like)
            theirs = SPDBatchNormLie(n, metric=short, n_iter=1, **like)
            functions = {
                "flowgroup": with_gradient(ours, x, *ours.parameters()),
                "checked": with_gradient(checked, x, *checked.parameters()),
                "spd_learn": with_gradient(theirs, x, *theirs.parameters()),
            }
            if args.compile:
                torch._dynamo.reset()
                compiled = torch.compile(ours, fullgraph=True, dynamic=False)
                functions["compiled"] = with_gradient(compiled, x, *ours.parameters())
            times = quickest(functions, args.rounds, synchronize)
            rows.append([metric, *row(n, dtype, times, args)])
    report("LieBN in training, forward and backward (one Karcher step), ms", ["metric"], rows, args)


def measure_means(args, synchronize):
    from pyriemann.geometry.mean import mean_riemann
    from spd_learn.functional import frechet_mean

    rows = []
    for n, dtype in settings(args):
        if dtype == torch.float32:
            continue  # 1e-8 is out of its reach
        x = covariances(n, SIZES[n], dtype, args.device)
        manifold = SPD(n)
        numpy = x.cpu().numpy()
        functions = {
            "flowgroup": lambda x=x, manifold=manifold: manifold.frechet_mean(x, tol=1e-8),
            "pyriemann": lambda numpy=numpy: mean_riemann(numpy, tol=1e-8),
            "spd_learn": lambda x=x: frechet_mean(x, max_iter=50, return_distances=False),
        }
        exact = manifold.frechet_mean(x)
        means = {k: torch.as_tensor(f(), device=x.device).reshape(n, n) for k, f in functions.items()}
        errors = {k: manifold.dist(mean, exact) for k, mean in means.items()}
        times = quickest(functions, args.rounds, synchronize)
        accuracy = ", ".join(f"{k} {e.item():.0e}" for k, e in errors.items())
        rows.append(["Karcher mean", *row(n, dtype, times, args), accuracy])
    report("Karcher means to 1e-8, ms", ["mean"], rows, args, ["distance to the mean"])


def settings(args):
    return [(n, dtype) for n in SIZES for dtype in (torch.float32, torch.float64) if not args.sizes or n in args.sizes]


def row(n, dtype, times, args):
    peers = [v for k, v in times.items() if k in ("spd_learn", "pyriemann")]
    columns = ["flowgroup", "checked", "compiled", "spd_learn", "pyriemann"]
    cells = [f"{times[c]:.2f}" for c in columns if c in times]
    return [str(n), str(dtype).removeprefix("torch."), *cells, f"{times['flowgroup'] / min(peers):.2f}"]


def report(title, first, rows, args, last=()):
    kinds = {"Matrix": ["flowgroup", "spd_learn", "pyriemann"], "LieBN": ["flowgroup", "checked", "spd_learn"]}
    columns = list(kinds.get(title.split()[0], ["flowgroup", "spd_learn", "pyriemann"]))
    if args.compile and not title.startswith("Karcher"):
        columns.insert(columns.index("spd_learn"), "compiled")
    print(f"\n{title}\n")
    print(table([*first, "n", "dtype", *columns, "ratio", *last], rows), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="*", choices=SIZES, help="sizes to measure (default all)")
    parser.add_argument("--only", choices=["functions", "lie_bn", "means"], help="one table only")
    parser.add_argument("--compile", action="store_true", help="also measure ours under torch.compile")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    synchronize = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None
    peers = []
    for name in ("spd_learn", "pyriemann"):
        try:
            peers.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            raise SystemExit(f"{name} is missing: pip install -r requirements-bench.txt") from None
    print(header() + "; " + ", ".join(peers))
    tables = {"functions": measure_functions, "lie_bn": measure_lie_bn, "means": measure_means}
    for name, measure in tables.items():
        if args.only in (None, name):
            measure(args, synchronize)
    print("\nRatios are of flowgroup (eager, unchecked) to the quickest peer.")


if __name__ == "__main__":
    main()
