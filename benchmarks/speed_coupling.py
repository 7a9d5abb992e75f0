"""Time and memory of a coupling NSF beside zuko, nflows and normflows, on the same work, in one run.

Ten rational-quadratic couplings of 8 features, two hidden layers of 128, 8 bins, batch 4096, float32. Every library is
measured in turn within each round, and the quickest round counts. nflows gets the same plain conditioner as ours;
normflows has a residual network of the same width only; zuko's couplings are masked networks of two passes.

    python benchmarks/speed_coupling.py [--compile] [--threads 2]
"""

import argparse
import gc
import subprocess
import sys
import time
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from _tables import header, table
from torch import nn

FEATURES, TRANSFORMS, WIDTH, BINS, BOUND, BATCH = 8, 10, 128, 8, 4.0, 4096


def ours():
    from flowgroup import flows

    return flows.NSF(FEATURES, transforms=TRANSFORMS, bins=BINS, bound=BOUND, hidden_features=(WIDTH, WIDTH))


def zuko():
    import zuko

    return zuko.flows.NSF(FEATURES, transforms=TRANSFORMS, bins=BINS, hidden_features=(WIDTH, WIDTH), passes=2)


def nflows():
    from nflows import distributions, flows, transforms

    class Conditioner(nn.Sequential):
        def __init__(self, inputs, outputs):
            sizes = (inputs, WIDTH, WIDTH, outputs)
            layers = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
            super().__init__(*layers[:-1])

        def forward(self, x, context=None):
            return super().forward(x)

    mask = torch.arange(FEATURES) % 2
    coupling = partial(
        transforms.PiecewiseRationalQuadraticCouplingTransform,
        transform_net_create_fn=Conditioner,
        num_bins=BINS,
        tails="linear",
        tail_bound=BOUND,
    )
    layers = [coupling(mask if i % 2 == 0 else 1 - mask) for i in range(TRANSFORMS)]
    return flows.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([FEATURES]))


def normflows():
    import normflows

    layers = [
        normflows.flows.CoupledRationalQuadraticSpline(
            FEATURES, 1, WIDTH, num_bins=BINS, tail_bound=BOUND, reverse_mask=bool(i % 2)
        )
        for i in range(TRANSFORMS)
    ]
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(FEATURES, trainable=False), layers)


LIBRARIES = {"flowgroup": ours, "zuko": zuko, "nflows": nflows, "normflows": normflows}


def log_prob_and_sample(name, flow):
    if name == "zuko":
        return lambda x: flow().log_prob(x), lambda n: flow().sample((n,))
    if name == "flowgroup":
        return flow, lambda n: flow.sample((n,))
    return flow.log_prob, flow.sample


def training_step(log_prob, parameters, x):
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)

    def step():
        optimizer.zero_grad()
        (-log_prob(x).mean()).backward()
        optimizer.step()

    return step


def quickest(functions, rounds):
    """Milliseconds of the quickest call of each function, all of them called in every round."""
    for f in functions.values():
        f()
    times = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, f in functions.items():
            gc.collect()
            start = time.perf_counter()
            f()
            times[name] = min(times[name], 1000 * (time.perf_counter() - start))
    return times


def peak_memory(name):
    """MiB by which three training steps raise the peak memory of a process of their own."""
    result = subprocess.run([sys.executable, __file__, "--memory-of", name], capture_output=True, text=True, check=True)
    return float(result.stdout.strip().splitlines()[-1])


def resident(field):
    """A figure of this process's memory in KiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure_memory(name):
    flow = LIBRARIES[name]()
    log_prob, _ = log_prob_and_sample(name, flow)
    small = training_step(log_prob, flow.parameters(), torch.randn(16, FEATURES))
    small()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = resident("VmRSS")
    step = training_step(log_prob, flow.parameters(), torch.randn(BATCH, FEATURES))
    for _ in range(3):
        step()
    print((resident("VmHWM") - before) / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also measure the flows under torch.compile")
    parser.add_argument("--memory-of", choices=LIBRARIES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    if args.memory_of:
        return measure_memory(args.memory_of)

    x = torch.randn(BATCH, FEATURES)
    steps, samples = {}, {}
    for name, make in LIBRARIES.items():
        flow = make()
        log_prob, sample = log_prob_and_sample(name, flow)
        steps[name] = training_step(log_prob, flow.parameters(), x)
        samples[name] = torch.no_grad()(partial(sample, BATCH))
        if args.compile and name in ("flowgroup", "nflows"):
            try:
                step = training_step(torch.compile(log_prob), flow.parameters(), x)
                step()
                steps[f"{name}, compiled"] = step
                compiled = torch.compile(sample)
                sample = torch.no_grad()(partial(compiled, BATCH))
                sample()
                samples[f"{name}, compiled"] = sample
            except Exception as error:  # a peer that cannot be compiled has no row
                print(f"{name} does not compile: {type(error).__name__}")
    times, sampling = quickest(steps, args.rounds), quickest(samples, args.rounds)
    peers = [n for n in times if n in LIBRARIES and n != "flowgroup"]
    best, best_sampling = min(times[n] for n in peers), min(sampling[n] for n in peers)
    rows = []
    for name, value in times.items():
        memory = f"{peak_memory(name):.0f}" if name in LIBRARIES else ""
        sample = sampling.get(name)
        rows.append(
            [name, f"{value:.1f}", f"{value / best:.2f}", f"{sample:.1f}" if sample else "",
             f"{sample / best_sampling:.2f}" if sample else "", memory]
        )  # fmt: skip
    print(header() + "; " + ", ".join(f"{n} {version(n)}" for n in peers) + "\n")
    head = ["library", "training step, ms", "ratio", "sampling 4096, ms", "ratio", "peak memory of a step, MiB"]
    print(table(head, rows))
    print("\nRatios are to the quickest peer in eager mode.")


if __name__ == "__main__":
    main()
