"""What the studies of quality share: where the data are, what the machine is, and tables."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import flowgroup

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def parser(description: str, data: bool = True, picture: bool = True) -> argparse.ArgumentParser:
    """Arguments that all studies take."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--seeds", type=int, default=5, help="how many seeds (default 5)")
    if picture:
        p.add_argument("--picture", type=Path, help="file to draw a picture to")
    if data:
        p.add_argument("--data", type=Path, default=DATA, help=f"folder of the data files (default {DATA})")
    return p


def load(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Arrays of the data file `name`, or the end of the program with a word on what is missing."""
    path = folder / name
    if not path.exists():
        sys.exit(f"{path} is missing: give the folder that holds {name} with --data DIR")
    with np.load(path, allow_pickle=False) as file:
        return {k: file[k] for k in file.files}


def header() -> str:
    """Machine, versions and command, as a line of text."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    command = " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    return (
        f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s); Python {platform.python_version()}, "
        f"torch {torch.__version__}, flowgroup {flowgroup.__version__}; `{command}`"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; the first column is text, the others numbers."""
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def mean_se(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard error over seeds."""
    v = np.asarray(values, dtype=float)
    if len(v) < 2:
        return f"{v.mean():.{digits}f}"
    return f"{v.mean():.{digits}f} ± {v.std(ddof=1) / np.sqrt(len(v)):.{digits}f}"
