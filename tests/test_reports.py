"""What Boltzmann generators refuse and warn of, and what reports say where little is known."""

import math

import pytest
import torch

from flowgroup import boltzmann, flows
from flowgroup.boltzmann import BoltzmannGenerator, SampleBase, maximum_likelihood


class Normal(boltzmann.Target):
    """u(x) = |x|²/2s² in d dimensions, with log Z = d·log(s√2π)."""

    def __init__(self, spread=1.0, d=2):
        super().__init__()
        self.event_shape, self.spread = torch.Size((d,)), spread

    def _energy(self, x):
        return 0.5 * (x / self.spread).square().sum(-1)


class Nowhere(Normal):
    """NaN."""

    def _energy(self, x):
        return super()._energy(x) * math.nan


def small(d=2):
    return flows.NSF(d, transforms=1, hidden_features=(8,))


def rotation_flow():
    return flows.RotationFlow(transforms=1, components=2, hidden_features=(8,))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: BoltzmannGenerator(flows.NSF(4, transforms=1), boltzmann.TetrahedralRotor()),
            ValueError,
            r"on the manifold Sphere\(3\), but it lives on Real",
        ),
        (
            lambda: BoltzmannGenerator(
                flows.RigidBodyFlow(2, box=(1.0, 1.0, 1.0), transforms=1, width=8),
                boltzmann.RigidWater(2, (2.0, 2.0, 2.0), temperature=300.0),
            ),
            ValueError,
            r"box=\(2.0, 2.0, 2.0\)\), but it lives on .* box=\(1.0, 1.0, 1.0\)",
        ),
        (
            lambda: BoltzmannGenerator(torch.compile(small(), backend="eager"), Normal()),
            TypeError,
            r"compiled .* fit\(compile=True\)",
        ),
        (
            lambda: BoltzmannGenerator(small(), Normal()).fit(1, objective=boltzmann.FAB),
            TypeError,
            r"objective=FAB\(…\), got the class",
        ),
        (
            lambda: BoltzmannGenerator(small(), Normal()).report(data=torch.full((3, 2), math.nan)),
            ValueError,
            "data must be finite, got 6 NaN",
        ),
        (
            lambda: BoltzmannGenerator(rotation_flow(), boltzmann.TetrahedralRotor()).fit(
                1, objective=maximum_likelihood, data=2 * torch.eye(4)
            ),
            ValueError,
            r"data must lie in .* index \(0,\), is 1 away",
        ),
        (lambda: BoltzmannGenerator(small(), Normal()).report(rows=torch.zeros(5, 2)), ValueError, "a SampleBase"),
    ],
)
def test_what_does_not_fit(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_a_target_that_does_not_say_where_it_lives_takes_any_flow():
    BoltzmannGenerator(rotation_flow(), Normal(d=4)).report(10)


def test_a_run_without_one_finite_energy_warns_and_its_report_is_drawn():
    generator = BoltzmannGenerator(small(), Nowhere())
    with pytest.warns(UserWarning, match="nothing was learned"):
        generator.fit(2, 8, progress=False)
    report = generator.report(10)
    assert report.nonfinite == 10 and report.log_z.value == -math.inf
    report.plot()


def test_reports_of_one_sample_and_of_energies_far_from_those_of_data():
    report = BoltzmannGenerator(rotation_flow(), boltzmann.TetrahedralRotor(2.0)).report(1)
    assert max(map(len, str(report).splitlines())) < 80
    assert report.mean_energy.error == report.log_z.error == math.inf and (report.modes[1] == math.inf).all()
    report.plot()
    report = BoltzmannGenerator(small(), Normal(1e-4)).report(10, data=1e-4 * torch.randn(20, 2))
    report.plot()


def test_rows_that_were_not_trained_on_correct_the_free_energy():
    """Few rows in many dimensions are learned by heart."""
    d, spread = 6, 0.6
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    rows, fresh = torch.randn(60, d, generator=generator), torch.randn(3000, d, generator=generator)
    transform = flows.NSF(d, transforms=2, hidden_features=(32,)).transform
    cooling = BoltzmannGenerator(flows.Flow(transform, SampleBase(Normal(d=d), rows)), Normal(spread, d))
    assert "training" not in str(cooling.report(60)).splitlines()[2]
    cooling.fit(120, 60, progress=False, lr=5e-3)
    exact = d * math.log(spread)
    seen, held = cooling.report(60), cooling.report(3000, rows=fresh)
    assert seen.log_z.value - exact > 5 * seen.log_z.error and "those of training" in str(seen)
    assert abs(held.log_z.value - exact) < 4 * held.log_z.error and "those of training" not in str(held)
    assert held.relative and len(held.x) == 3000
