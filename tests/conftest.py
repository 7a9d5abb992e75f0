"""What every test gets: fixed seeds, the devices there are, both dtypes, and at most two threads."""

import pytest
import torch

torch.set_num_threads(min(2, torch.get_num_threads()))

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def pytest_configure(config):
    # torch.compile itself raises this one while it traces any torch.autograd.Function
    config.addinivalue_line(
        "filterwarnings", "ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning"
    )


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers whichever tests run, and in whichever order."""
    torch.manual_seed(0)


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request) -> torch.dtype:
    return request.param
