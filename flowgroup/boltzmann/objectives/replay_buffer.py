"""Weighted samples that are kept from one step of training to the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ReplayBuffer:
    """The last rows x with log w, for weights w that contain the density of a flow: w ∝ 1/q(x).

    The flow moves on. So each row has the log q(x) that its weight is right for; whenever a row is looked at again, its
    weight is brought up to date.

    Args:
        size: rows to keep.

    Source: Flow Annealed Importance Sampling Bootstrap, 2023, arXiv 2208.01893, Section 3.

    Example:
        >>> buffer = ReplayBuffer(size=3)
        >>> buffer.add(torch.arange(4.0), log_w=torch.tensor([0.0, 9.0, -torch.inf, 8.0]), log_q=torch.zeros(4))
        >>> rows = buffer.draw(2)
        >>> buffer.x[rows].sort().values
        tensor([1., 3.])
        >>> ratio = buffer.update_(rows, log_q=torch.tensor([1.0, 1.0]))  # the flow knows them better by now
        >>> ratio, buffer.log_w
        (tensor([-1., -1.]), tensor([8., -inf, 7.]))
    """

    def __init__(self, size: int):
        self.size = size
        self.x = self.log_w = self.log_q = torch.empty(0)

    def __len__(self) -> int:
        return len(self.x)

    def add(self, x: Tensor, log_w: Tensor, log_q: Tensor) -> None:
        """Take new rows x (n, *event), log_w and log_q (n,), and forget the oldest."""
        new = (x, log_w, log_q)
        if len(self):
            new = [torch.cat((old.to(rows), rows)) for old, rows in zip(self._columns(), new)]
        self.x, self.log_w, self.log_q = (rows[-self.size :] for rows in new)

    def draw(self, n: int) -> Tensor:
        """Indices of n rows, none twice, drawn one after the other in proportion to the weights."""
        exponential = torch.empty_like(self.log_w).exponential_()
        return (self.log_w - exponential.log()).topk(n).indices

    def update_(self, rows: Tensor, log_q: Tensor) -> Tensor:
        """Bring the weights of rows (indices) up to date with the log q of now.

        Returns:
            log of the factors q_then/q_now by which they changed.
        """
        ratio = self.log_q[rows] - log_q
        self.log_w, self.log_q = self.log_w.index_add(0, rows, ratio), self.log_q.index_copy(0, rows, log_q)
        return ratio

    def to(self, like: Tensor) -> None:
        """Move the rows to the device and dtype of a tensor."""
        self.x, self.log_w, self.log_q = (rows.to(like) for rows in self._columns())

    def state_dict(self) -> dict[str, Any]:
        """The rows."""
        return dict(zip(("x", "log_w", "log_q"), self._columns()))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The rows, back."""
        self.x, self.log_w, self.log_q = state["x"], state["log_w"], state["log_q"]

    def _columns(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.x, self.log_w, self.log_q
