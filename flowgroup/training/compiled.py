"""Both directions of a flow through torch.compile, for as long as it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from flowgroup.flows import Flow


@contextmanager
def compiled(flow: Flow, wanted: bool = True) -> Iterator[None]:
    """Inside, `flow.transform` runs through torch.compile in both directions; the flow stays the same object.

    Args:
        flow: of which the transform is compiled, and afterwards is what it was.
        wanted: False does nothing.
    """
    transform, names = flow.transform, ("forward", "inverse") if wanted else ()
    for name in names:
        setattr(transform, name, torch.compile(getattr(transform, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(transform, name)
