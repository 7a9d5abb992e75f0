"""When the arguments of a distribution may be looked at."""

from __future__ import annotations

from torch import Tensor

from flowgroup._checks import values_readable


def may_validate(validate_args: bool, *tensors: Tensor) -> bool:
    """Whether values are to be checked and those of `tensors` may steer Python.

    Asked for at every distribution: torch's own default is no constant, torch.compile turns it off for the process.
    """
    return validate_args and all(values_readable(t) for t in tensors)
