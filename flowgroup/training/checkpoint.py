"""What a training run must remember, and its file: tensors and plain Python values, written whole or not at all."""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from flowgroup.training.history import History
from flowgroup.training.parallel import Processes


class RunState:
    """Everything that changes during a run: weights, optimizer, history, best weights, the user's generators.

    Args:
        module, optimizer, generators: of the user.
        others: more with `state_dict` and `load_state_dict` that changes: an objective that tunes itself.
    """

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, generators: list[torch.Generator], others: Sequence[Any] = ()
    ):
        self.module, self.optimizer, self.generators, self.others = module, optimizer, generators, others
        self.history = History()
        self.best: dict[str, Any] | None = None

    def record(self, train: float, validation: float | None, seconds: float, metrics: dict[str, float]) -> None:
        """Note an epoch, and its weights if they are the best so far."""
        h = self.history
        h.train.append(train)
        h.lr.append(float(self.optimizer.param_groups[0]["lr"]))
        h.seconds += seconds
        for name, value in metrics.items():
            h.metrics.setdefault(name, []).append(value)
        if validation is not None:
            h.validation.append(validation)
            if validation < (math.inf if h.best_epoch is None else h.validation[h.best_epoch]):
                h.best_epoch, self.best = len(h.train) - 1, copy.deepcopy(self.module.state_dict())

    def restore_best_(self) -> None:
        """Give the module its best weights by validation, if there are any."""
        if self.best is not None:
            self.module.load_state_dict(self.best)

    def agree(self, group: Processes) -> None:
        """Let the user's generators be in the first process's state on all."""
        for g in self.generators:
            state = group.from_first(g.get_state().numpy().tobytes())
            g.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    def content(self) -> dict[str, Any]:
        """All of it, to be saved."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": asdict(self.history),
            "best": self.best,
            "generators": [g.get_state() for g in self.generators],
            "others": [o.state_dict() for o in self.others],
        }

    def load(self, content: dict[str, Any]) -> None:
        """All of it, back."""
        self.module.load_state_dict(content["module"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.history = History(**content["history"])
        self.best = content["best"]
        for g, state in zip(self.generators, content["generators"]):
            g.set_state(state)
        for other, state in zip(self.others, content.get("others", [])):
            other.load_state_dict(state)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` beside `path`, then rename it: at any moment the file is the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, data: bytes, settings: dict[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint from its bytes, for a run with the same settings.

    Raises:
        ValueError: when `data` is no checkpoint, or one of a run with other settings.
    """
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        stored = content["settings"]
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"checkpoint {path} cannot be read as one of a training run: {error}") from error
    differences = [
        f"{k}={stored.get(k)!r} then, {k}={settings.get(k)!r} now"
        for k in sorted(stored.keys() | settings.keys())
        if stored.get(k) != settings.get(k)
    ]
    if differences:
        raise ValueError(
            f"checkpoint {path} belongs to a run with other settings ({'; '.join(differences)}); "
            f"use the same settings, another path, or resume=False to start anew"
        )
    return content
