"""Accuracy of SPDNet on UAV-Human and MAMEM-SSVEP-II without normalization and with each of the example's.

Every method has the same network, the same initial weights and batches for the same seed, the same number of epochs,
and the learning rate that did best on the validation rows with seed 0.

python benchmarks/spd_accuracy.py [mamem] [uav_human] [--data DIR] [--seeds N] [--epochs N] [--lr …] [--unit]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from _tables import header, load, mean_se, parser, table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import spd_classification as example


def mamem(folder: Path, unit: bool) -> tuple[list[example.Task], dict]:
    """EEG under flicker, seven subjects: 8 channels in bands about the five frequencies, matrices 40×40."""
    bands = load(folder, "mamem2_ssvep.npz")["stim_hz"].tolist()
    tasks = example.from_file(folder / "mamem2_ssvep.npz", sampling=125.0, bands=bands, unit=unit)
    return tasks, dict(sizes=(12,), batch_size=50, lrs=(0.003, 0.01, 0.03))


def uav_human(folder: Path, unit: bool) -> tuple[list[example.Task], dict]:
    """Actions by the covariance of 17 joints over time, matrices 51×51."""
    load(folder, "uav_human_cov.npz")
    tasks = example.from_file(folder / "uav_human_cov.npz", unit=unit)
    return tasks, dict(sizes=(16,), batch_size=64, lrs=(0.01, 0.03, 0.1))


STUDIES = {"mamem": mamem, "uav_human": uav_human}


def main() -> None:
    p = parser(__doc__.splitlines()[0], picture=False)
    p.add_argument("studies", nargs="*", metavar="STUDY", help="mamem and uav_human (default both)")
    p.add_argument("--epochs", type=int, default=30, help="passes over the training data (default 30)")
    p.add_argument("--lr", type=float, nargs="+", help="learning rates to choose from (default: three for each study)")
    p.add_argument("--unit", action="store_true", help="divide by a factor that makes the mean log-determinant zero")
    arguments = p.parse_args()
    torch.set_num_threads(1)
    print(header())
    columns = ("method", "learning rate", "accuracy, %", "above no normalization", "seconds an epoch")
    for name in arguments.studies or STUDIES:
        tasks, settings = STUDIES[name](arguments.data, arguments.unit)
        settings |= dict(seeds=arguments.seeds, epochs=arguments.epochs)
        settings["lrs"] = arguments.lr or settings["lrs"]
        print(f"\n{name}, {settings}\n", flush=True)
        scores = example.compare(tasks, **settings)
        plain = next(iter(scores.values())).accuracy
        rows = []
        for method, s in scores.items():
            gain = "" if s.accuracy is plain else mean_se([a - b for a, b in zip(s.accuracy, plain)])
            rows.append((method, f"{s.lr:g}", mean_se(s.accuracy), gain, f"{min(s.seconds):.3f}"))
        print(f"\n{table(columns, rows)}", flush=True)


if __name__ == "__main__":
    main()
