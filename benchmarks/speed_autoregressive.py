"""Time of sampling an autoregressive NSF of 64 features beside zuko, on the same shape, in one run.

Three transforms, two hidden layers of 128, 8 bins, float32. The quickest of several rounds counts.

    python benchmarks/speed_autoregressive.py [--threads 2]
"""

import argparse
from importlib.metadata import version

import torch
import zuko
from _tables import header, table
from speed_coupling import quickest

from flowgroup import flows

FEATURES, TRANSFORMS, WIDTH, BINS = 64, 3, 128, 8


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shape = dict(transforms=TRANSFORMS, bins=BINS, hidden_features=(WIDTH, WIDTH))
    flow = flows.NSF(FEATURES, autoregressive=True, **shape).eval()
    peer = zuko.flows.NSF(FEATURES, **shape)
    rows = []
    with torch.no_grad():
        for n in (100, 1000, 4096):
            x = torch.randn(n, FEATURES)
            times = quickest(
                {
                    "flowgroup": lambda n=n: flow.sample((n,)),
                    "zuko": lambda n=n: peer().sample((n,)),
                    "forward": lambda x=x: flow(x),
                    "zuko forward": lambda x=x: peer().log_prob(x),
                },
                args.rounds,
            )
            ratio = times["zuko"] / times["flowgroup"]
            rows.append([str(n), *(f"{t:.1f}" for t in times.values()), f"{ratio:.1f}"])
    print(header() + f"; zuko {version('zuko')}\n")
    head = ["samples", "sampling, ms", "zuko, ms", "log_prob, ms", "zuko log_prob, ms", "zuko / flowgroup, sampling"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
