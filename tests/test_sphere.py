"""Sphere flows where their coordinates end: near the poles."""

import pytest
import torch

from flowgroup import flows


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_density_near_the_poles(dim, device):
    """In float32 as in float64, and finite with its gradients at the pole itself."""
    transform = flows.RecursiveSphere(dim).double().to(device)
    for p in transform.parameters():
        p.data += 0.1 * torch.randn_like(p)
    flow = flows.Flow(transform, flows.SphereUniform(dim).double().to(device))
    theta = torch.tensor([1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 0.0], dtype=torch.float64, device=device)[:, None]
    side = torch.nn.functional.normalize(torch.randn(dim, dtype=torch.float64, device=device), dim=0)
    x = torch.cat((theta.sin() * side, theta.cos()), -1).requires_grad_()  # along a meridian
    exact = flow.log_prob(x)
    exact.sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in flow.parameters())
    assert exact.detach()[:-1].diff().abs().max() < 0.5  # the limit at the pole depends on the meridian
    rounded = flow.float().log_prob(x.detach().float())
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=0.05 if dim == 5 else 0.01)


def test_spaces_must_fit():
    with pytest.raises(ValueError, match="base lives on"):
        flows.Flow(flows.RecursiveSphere(2), flows.DiagonalNormal(3))
    with pytest.raises(ValueError, match="base lives on"):
        flows.Flow(flows.Elementwise(flows.CircularShift(), 2), flows.DiagonalNormal(2))
    with pytest.raises(ValueError, match="transform 0 gives values in"):
        flows.Sequential(flows.Elementwise(flows.CircularShift(), 2), flows.Elementwise(flows.Affine(), 2))
